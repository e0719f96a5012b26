"""The gateway's page in a real Chromium: what it shows, compared with the outcomes."""

import re
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import pytest_asyncio
from playwright.async_api import Browser, Error, Locator, Page, expect

from tailrace.schemas.outcome import Outcome
from tests.browser import (
    chromium,
    ends,
    field,
    has_reached,
    needs_chromium,
    request_id,
    submit,
    tab,
    text_of,
    watch,
)
from tests.gateway_rig import gateway
from tests.rig import Rig, request_for, rig

pytestmark = [needs_chromium, pytest.mark.asyncio(loop_scope="module")]

PHONE = {"width": 360, "height": 740}
MARKUP = "<script>top.ran = 1</script><img src=x onerror='top.ran = 2'><b>bold</b></textarea></div>"
BIDI = "\u202eeman.exe \u2067\u05e9\u05dc\u05d5\u05dd"
FAILS = {"faults": [{"kind": "status", "status": 400, "message": MARKUP}]}
SLOW = {"steps": [{"kind": "text", "chunks": 1000}], "pace": {"chunks_per_s": 20}}


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def browser() -> AsyncIterator[Browser]:
    """One browser for this module; each test opens its own page."""
    async with chromium() as started:
        yield started


async def shows(card: Locator, tailrace: Rig) -> Outcome:
    """Waits for the end of a card's request, and compares the card with the outcome."""
    outcome = await tailrace.outcome(await request_id(card))
    await ends(card, outcome.status)
    assert await text_of(card, "text") == (outcome.content or "")
    assert await text_of(card, "reasoning") == (outcome.reasoning or "")
    assert await text_of(card, "refusal") == (outcome.refusal or "")
    return outcome


async def test_a_prompt_is_followed_to_its_end(browser: Browser, redis_url: str, tmp_path: Path) -> None:
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


async def test_a_reload_halfway_loses_and_duplicates_nothing(browser: Browser, redis_url: str, tmp_path: Path) -> None:
    async with rig(redis_url) as tailrace, gateway(redis_url, tmp_path, gateway_page=True) as served:
        async with tab(browser, served.url) as page:
            await page.fill("#key", served.key)
            card = await submit(page, "reasoning")
            await has_reached(card, 10)
            await page.get_by_role("button", name="Reload the page").click()
            await expect(page.locator("#key")).to_have_value("")
            await has_reached(card, 12)
            outcome = await shows(card, tailrace)
            assert outcome.reasoning
            assert outcome.content
            # a reload after the end shows the same card
            before = await card.inner_text()
            await page.reload()
            await ends(card)
            await expect(card).to_have_text(before, use_inner_text=True)


async def test_a_card_is_disconnected_and_resumed_after_its_cursor(
    browser: Browser, redis_url: str, tmp_path: Path
) -> None:
    async with rig(redis_url) as tailrace, gateway(redis_url, tmp_path, is_open=True) as served:
        async with tab(browser, served.url) as page:
            card = await submit(page, "reasoning")
            await has_reached(card, 10)
            await card.get_by_role("button", name="Disconnect").click()
            await expect(field(card, "connection")).to_have_text("dropped")
            shown = await field(card, "cursor").inner_text()
            assert shown in await tailrace.ids(await request_id(card))
            await tailrace.outcome(await request_id(card))
            # the request has ended meanwhile; the card shows it only after resuming
            assert await field(card, "cursor").inner_text() == shown
            assert await field(card, "state").inner_text() == "running"
            await card.get_by_role("button", name="Resume").click()
            await shows(card, tailrace)


async def test_the_browser_reconnects_broken_connections(browser: Browser, redis_url: str, tmp_path: Path) -> None:
    async with rig(redis_url) as tailrace, gateway(redis_url, tmp_path, is_open=True) as served:
        async with tab(browser, served.url, expects_errors=True) as page:
            card = await submit(page, "reasoning")
            await has_reached(card, 5)
            for connection in tuple(served.server.server_state.connections):
                connection.transport.abort()
            await expect(field(card, "connection")).to_contain_text("lost")
            await has_reached(card, 30)
            served.gateway.stop()
            served.gateway.streams.is_stopping = False
            await shows(card, tailrace)


async def test_queued_and_running_requests_are_cancelled(browser: Browser, redis_url: str, tmp_path: Path) -> None:
    async with rig(redis_url, max_jobs=1) as tailrace, gateway(redis_url, tmp_path, gateway_page=True) as served:
        async with tab(browser, served.url) as page:
            await page.fill("#key", served.key)
            runs = await submit(page, "long")
            await has_reached(runs, 3)
            waits = await submit(page, "long")
            await expect(field(waits, "state")).to_have_text("queued")
            for card in (waits, runs):
                await card.get_by_role("button", name="Cancel").click()
                await ends(card, "cancelled")
                await expect(card.get_by_role("button", name="Cancel")).to_have_attribute("aria-disabled", "true")
            outcome = await shows(runs, tailrace)
            assert outcome.status == "cancelled"
            assert outcome.content


async def test_hostile_text_is_shown_as_text(browser: Browser, redis_url: str, tmp_path: Path) -> None:
    # markup and bidirectional text in every place that a model or a user controls
    scenario = {
        "steps": [
            {"kind": "reasoning", "text": MARKUP + BIDI},
            {"kind": "tool_call", "name": "f" + "_x" * 30, "arguments": {"inner_thoughts": MARKUP, "html": MARKUP}},
            {"kind": "text", "text": f"{MARKUP}\n{BIDI}\n{MARKUP}"},
        ]
    }
    async with rig(redis_url) as tailrace, gateway(redis_url, tmp_path, is_open=True) as served:
        async with tab(browser, served.url, viewport=PHONE) as page:
            asked = await submit(page, prompt=MARKUP + BIDI)
            await expect(field(asked, "title")).to_have_text((MARKUP + BIDI)[:120])
            await shows(asked, tailrace)
            there = await tailrace.submit(scenario)
            fails = await tailrace.submit(FAILS)
            titled = {"title": MARKUP + BIDI, "model": MARKUP}
            cards = await watch(page, {"id": there, **titled}, {"id": fails, **titled})
            await shows(cards.nth(0), tailrace)
            await ends(cards.nth(1), "failed")
            await expect(field(cards.nth(1), "remark")).to_contain_text("<script>")
            assert await page.evaluate("typeof top.ran") == "undefined"
            made = "article :is(script, img, b, a, iframe, svg, style, textarea)"
            assert await page.locator(made).count() == 0
            assert await page.evaluate("document.documentElement.scrollWidth") == PHONE["width"]
            for text in await page.locator(".text, bdi").all():
                assert await text.evaluate("e => getComputedStyle(e).unicodeBidi") in ("isolate", "plaintext")


async def test_the_browser_blocks_parsing_text_as_html(browser: Browser, redis_url: str, tmp_path: Path) -> None:
    async with (
        gateway(redis_url, tmp_path, is_open=True) as served,
        tab(browser, served.url, expects_errors=True) as page,
    ):
        with pytest.raises(Error, match="TrustedHTML"):
            await page.evaluate("document.body.innerHTML = '<p>x'")


async def test_a_huge_text_is_shown_whole_while_the_page_stays_responsive(
    browser: Browser, redis_url: str, tmp_path: Path
) -> None:
    text = 60 * (20_000 * "x" + "\n") + 40_000 * "many short lines\n"
    scenario = {"steps": [{"kind": "text", "text": text}], "chunking": {"chars": 2000}, "pace": {"chunks_per_s": 400}}
    async with rig(redis_url) as tailrace, gateway(redis_url, tmp_path, is_open=True) as served:
        async with tab(browser, served.url, viewport=PHONE) as page:
            cards = await watch(page, {"id": await tailrace.submit(scenario)})
            await has_reached(cards, 30)
            # the buttons work while the text arrives
            await cards.get_by_role("button", name="Disconnect").click()
            await expect(field(cards, "connection")).to_have_text("dropped")
            assert await field(cards, "state").inner_text() == "running"
            await cards.get_by_role("button", name="Resume").click()
            await ends(cards)
            assert await text_of(cards, "text") == text
            assert await page.evaluate("document.documentElement.scrollWidth") == PHONE["width"]
            longest = await page.locator(".block").evaluate_all(
                "all => Math.max(...all.map(e => e.textContent.length))"
            )
            assert longest <= 32 * 1024 + 1


async def test_five_cards_connect_at_once_and_the_sixth_waits(browser: Browser, redis_url: str, tmp_path: Path) -> None:
    async with rig(redis_url) as tailrace, gateway(redis_url, tmp_path, is_open=True) as served:
        async with tab(browser, served.url) as page:
            cards = [await submit(page, name) for name in ("long", "long", "reasoning", "letta", "parallel")]
            last = await submit(page, prompt="the sixth")
            await expect(field(last, "connection")).to_contain_text("waiting")
            # with five streams open, calls still work, and the sixth stream opens when one ends
            await cards[0].get_by_role("button", name="Cancel").click()
            await ends(cards[0], "cancelled")
            await cards[1].get_by_role("button", name="Disconnect").click()
            for card in (last, cards[2], cards[3], cards[4]):
                await shows(card, tailrace)
            assert await text_of(cards[4], "call")
            await page.get_by_role("button", name="Remove ended requests").click()
            await expect(page.locator("article")).to_have_count(1)
            await expect(field(page.locator("article"), "connection")).to_have_text("dropped")


async def test_a_card_shows_why_it_was_refused(browser: Browser, redis_url: str, tmp_path: Path) -> None:
    async with rig(redis_url), gateway(redis_url, tmp_path, gateway_page=True) as served:
        async with tab(browser, served.url, expects_errors=True) as page:
            await page.fill("#key", "trk_0123456789ab_" + 43 * "A")
            await page.get_by_role("button", name="Submit").click()
            await expect(page.get_by_role("alert")).to_have_text(
                "Not submitted: this API key is unknown or has expired"
            )
            cards = await watch(page, {"id": "nothing", "token": "no token"})
            await expect(field(cards, "connection")).to_have_text("refused: this is not a token")
            submitted = await served.submit(request_for(SLOW))
            cards = await watch(page, {"id": submitted["id"], "token": submitted["token"]})
            await has_reached(cards, 2)
            await cards.get_by_role("button", name="Cancel").click()
            await expect(field(cards, "remark")).to_contain_text(
                "this token allows reading the request, not cancelling it"
            )
            # no address contains the API key
            addresses = await page.evaluate("performance.getEntriesByType('resource').map(e => e.name)")
            assert [address for address in addresses if "trk_" in address] == []
            assert page.url == f"{served.url}/"


async def test_the_page_is_usable_by_keyboard(browser: Browser, redis_url: str, tmp_path: Path) -> None:
    async with rig(redis_url) as tailrace, gateway(redis_url, tmp_path, is_open=True) as served:
        async with tab(browser, served.url) as page:
            focused = page.locator(":focus")
            order = ("prompt", "scenario", "model", "tenant")
            for name in order:
                await page.keyboard.press("Tab")
                await expect(focused).to_have_attribute("name", name)
                assert await focused.evaluate("e => getComputedStyle(e).outlineWidth") == "3px"
                assert await focused.evaluate("e => e.labels.length") == 1
                if name == "prompt":
                    await page.keyboard.press("ControlOrMeta+a")
                    await page.keyboard.type("by keyboard")
            await page.keyboard.press("Tab")
            await page.keyboard.press("Enter")
            card = page.locator("article")
            await shows(card, tailrace)
            await page.locator("#scenario").focus()
            await page.keyboard.type("a long")
            await page.locator("#prompt").focus()
            await page.keyboard.press("Control+Enter")
            await expect(card).to_have_count(2)
            long = card.nth(1)
            await has_reached(long, 3)
            for name in ("Submit", "Reload", "Remove ended", "Disconnect", "Cancel", "Remove", "", "Disconnect"):
                await _tab_to(page, name)
            await page.keyboard.press("Space")
            await expect(focused).to_have_text("Resume")
            await page.keyboard.press("Space")
            await _tab_to(page, "Cancel")
            await page.keyboard.press("Enter")
            await ends(long, "cancelled")
            await _tab_to(page, "Remove")
            await page.keyboard.press("Enter")
            await expect(card).to_have_count(1)
            await expect(card).to_be_focused()


async def _tab_to(page: Page, name: str) -> None:
    """Presses Tab until the focused element's text begins with the name."""
    for _ in range(6):
        await page.keyboard.press("Tab")
        if (await page.locator(":focus").inner_text()).startswith(name):
            return
    raise AssertionError(f"no {name!r} after the focused element")


@pytest.mark.parametrize("scheme", ["light", "dark"])
async def test_the_page_is_readable_on_a_phone_in_light_and_dark(
    browser: Browser, redis_url: str, tmp_path: Path, scheme: str
) -> None:
    async with rig(redis_url) as tailrace, gateway(redis_url, tmp_path, is_open=True) as served:
        async with tab(browser, served.url, viewport=PHONE, color_scheme=scheme) as page:
            parts = [{"kind": "refusal", "text": MARKUP}, {"kind": "tool_call", "name": "f", "arguments": {"x": BIDI}}]
            scenario = {"steps": [{"kind": "reasoning", "text": BIDI}, {"kind": "text", "text": MARKUP}, *parts]}
            cards = await watch(page, {"id": await tailrace.submit(scenario)}, {"id": await tailrace.submit(FAILS)})
            await shows(cards.nth(0), tailrace)
            await ends(cards.nth(1), "failed")
            assert await page.evaluate("document.documentElement.scrollWidth") == PHONE["width"]
            for element in await page.locator("button:visible, input:visible, select:visible").all():
                box = await element.bounding_box()
                assert box is not None
                assert box["height"] >= 44
            poor = await page.locator("h1, h2, h3, p, label, dt, dd, button, strong, bdi, .text").evaluate_all(
                CONTRASTS
            )
            assert [found for found in poor if found[1] < 4.5] == []
            body = await page.evaluate("getComputedStyle(document.body).backgroundColor")
            assert (int(re.findall(r"\d+", body)[0]) < 128) == (scheme == "dark")


CONTRASTS = """all => all.filter(e => e.checkVisibility() && e.textContent.trim()).map(element => {
  const rgb = (text) => text.match(/[\\d.]+/g).map(Number)
  const linear = (c) => c <= 0.04045 ? c / 12.92 : ((c + 0.055) / 1.055) ** 2.4
  const light = (color) => rgb(color).slice(0, 3).map(c => linear(c / 255))
    .reduce((sum, c, at) => sum + c * [0.2126, 0.7152, 0.0722][at], 0)
  let behind = element
  while (behind && rgb(getComputedStyle(behind).backgroundColor)[3] === 0) behind = behind.parentElement
  const both = [light(getComputedStyle(element).color), light(getComputedStyle(behind).backgroundColor)]
  const [less, more] = both.sort((a, b) => a - b)
  return [element.outerHTML.slice(0, 80), (more + 0.05) / (less + 0.05)]
})"""
"""WCAG 2.2, 1.4.3: the contrast of each text with its background."""


ANNOUNCEMENTS = """() => {
  top.announced = []
  const status = document.querySelector("[role=status]")
  new MutationObserver(() => top.announced.push(status.textContent)).observe(status, { childList: true })
}"""
"""Records what a screen reader would announce."""


async def test_states_are_announced_and_deltas_are_not(browser: Browser, redis_url: str, tmp_path: Path) -> None:
    async with rig(redis_url) as tailrace, gateway(redis_url, tmp_path, is_open=True) as served:
        async with tab(browser, served.url) as page:
            await page.evaluate(ANNOUNCEMENTS)
            card = await submit(page, "again")
            outcome = await shows(card, tailrace)
            assert outcome.attempt == 2
            announced = await page.evaluate("top.announced")
            assert [line.partition(": ")[2].split()[0] for line in announced] == [
                "submitted",
                "waiting",
                "attempt",
                "completed",
            ]
            await expect(field(card, "note")).to_contain_text("were discarded")
