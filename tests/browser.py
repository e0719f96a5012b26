"""A real Chromium on the gateway's page: pages that must not log errors, and what their cards show."""

import json
import shutil
from collections.abc import AsyncGenerator, Mapping
from contextlib import asynccontextmanager
from typing import Any

import pytest
from playwright.async_api import Browser, Locator, Page, async_playwright, expect

from tests.until import until

CHROMIUM = shutil.which("chromium")
needs_chromium = pytest.mark.skipif(CHROMIUM is None, reason="chromium is not installed on this machine")
WAIT_MS = 20_000
_FLAGS = (
    *("--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run"),
    *("--disable-background-networking", "--disable-component-update", "--disable-sync"),
)

expect.set_options(timeout=WAIT_MS)


@asynccontextmanager
async def chromium() -> AsyncGenerator[Browser]:
    """Starts a browser."""
    async with async_playwright() as playwright:
        browser = await playwright.chromium.launch(executable_path=CHROMIUM, args=_FLAGS)
        try:
            yield browser
        finally:
            await browser.close()


@asynccontextmanager
async def tab(browser: Browser, url: str, *, expects_errors: bool = False, **context: Any) -> AsyncGenerator[Page]:
    """Opens a page in a fresh browser context.

    Args:
        browser: the browser.
        url: the page's address.
        expects_errors: whether errors on the console are expected, such as those of a lost connection.
        context: options of the context, such as `viewport` and `color_scheme`.
    """
    async with await browser.new_context(**context) as opened:
        page = await opened.new_page()
        page.set_default_timeout(WAIT_MS)
        problems: list[str] = []
        page.on("pageerror", lambda error: problems.append(str(error)))
        page.on("dialog", lambda dialog: problems.append(f"dialog: {dialog.message}"))
        if not expects_errors:
            page.on("console", lambda line: problems.append(line.text) if line.type == "error" else None)
        await page.goto(url)
        yield page
        assert problems == []


async def submit(page: Page, scenario: str = "", prompt: str | None = None) -> Locator:
    """Submits the form and returns the request's card."""
    cards = page.locator("article")
    count = await cards.count()
    await page.select_option("#scenario", scenario)
    if prompt is not None:
        await page.fill("#prompt", prompt)
    await page.get_by_role("button", name="Submit").click()
    await expect(cards).to_have_count(count + 1)
    return cards.nth(count)


async def watch(page: Page, *watched: Mapping[str, str]) -> Locator:
    """Makes the page follow requests that were submitted elsewhere, as after a reload, and returns their cards.

    Args:
        page: an open page.
        watched: `id` of each request, and optionally `token`, `title` and `model`.
    """
    blank = {"title": "from elsewhere", "model": ""}
    kept = json.dumps([blank | dict(one) for one in watched])
    await page.evaluate("kept => sessionStorage.setItem('tailrace.watched', kept)", kept)
    await page.reload()
    return page.locator("article")


async def ends(card: Locator, state: str = "completed") -> None:
    """Waits until the card's request has ended in this state."""
    await expect(field(card, "state")).to_have_text(state)


def field(card: Locator, name: str) -> Locator:
    """A field of a card."""
    return card.locator(f"[data-is={name}]")


async def request_id(card: Locator) -> str:
    """The id of the card's request."""
    return await field(card, "id").inner_text()


async def text_of(card: Locator, kind: str) -> str:
    """The text that the card shows of a kind of delta (`reasoning`, `call`, `text`, `refusal`), call by call."""
    return "".join(await card.locator(f"[data-kind={kind}] .text").evaluate_all("all => all.map(e => e.textContent)"))


async def has_reached(card: Locator, seq: int) -> None:
    """Waits until the card has shown this many entries of its attempt."""
    await until(lambda: _has_reached(card, seq), WAIT_MS / 1000)


async def _has_reached(card: Locator, seq: int) -> bool:
    _, _, shown = (await field(card, "cursor").inner_text()).partition("-")
    return shown.isdecimal() and int(shown) >= seq
