"""The gateway's page in a real Chromium: what a person does there, against what the outcomes say."""

from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import pytest_asyncio
from playwright.async_api import Browser, Locator, expect

from schemas.outcome import Outcome
from tests.browser import chromium, ends, field, has_come_to, needs_chromium, request_id, submit, tab, text_of
from tests.gateway_rig import gateway
from tests.rig import Rig, rig

pytestmark = [needs_chromium, pytest.mark.asyncio(loop_scope="module")]


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def browser() -> AsyncIterator[Browser]:
    """One for all tests here; each has a page of its own in it."""
    async with chromium() as started:
        yield started


async def shows(card: Locator, tailrace: Rig) -> Outcome:
    """Waits for the end of a card's request, and holds what it shows against the outcome."""
    outcome = await tailrace.outcome(await request_id(card))
    await ends(card, outcome.status)
    assert await text_of(card, "text") == (outcome.content or "")
    assert await text_of(card, "reasoning") == (outcome.reasoning or "")
    assert await text_of(card, "refusal") == (outcome.refusal or "")
    return outcome


async def test_a_prompt_is_watched_to_its_end(browser: Browser, redis_url: str, tmp_path: Path) -> None:
    async with rig(redis_url) as tailrace, gateway(redis_url, tmp_path, is_open=True) as served:
        async with tab(browser, served.url) as page:
            card = await submit(page, prompt="Where does the water go?")
            outcome = await shows(card, tailrace)
            assert "Where does the water go?" in (outcome.content or "")
            await expect(field(card, "attempt")).to_have_text("1")
            await expect(field(card, "cursor")).to_have_text((await tailrace.ids(await request_id(card)))[-1])
            await expect(field(card, "first")).to_contain_text("ms")
            await expect(field(card, "connection")).to_have_text("done")
            await expect(page.get_by_role("status")).to_have_text("Where does the water go?: completed")


async def test_a_reload_half_way_misses_and_doubles_nothing(browser: Browser, redis_url: str, tmp_path: Path) -> None:
    async with rig(redis_url) as tailrace, gateway(redis_url, tmp_path, gateway_page=True) as served:
        async with tab(browser, served.url) as page:
            await page.fill("#key", served.key)
            card = await submit(page, "reasoning")
            await has_come_to(card, 10)
            await page.get_by_role("button", name="Reload the page").click()
            await expect(page.locator("#key")).to_have_value("")
            await has_come_to(card, 12)
            outcome = await shows(card, tailrace)
            assert outcome.reasoning
            assert outcome.content
            # given one that has ended, if the page is reloaded, expect the same card again
            before = await card.inner_text()
            await page.reload()
            await ends(card)
            await expect(card).to_have_text(before, use_inner_text=True)
