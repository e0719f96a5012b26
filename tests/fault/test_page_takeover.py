"""The page while workers die: a new attempt is shown, and what the dead one had said is gone."""

from pathlib import Path

from playwright.async_api import expect

from demo.simulator import Simulator
from producers.client import Client
from tests.browser import chromium, ends, field, has_come_to, needs_chromium, request_id, tab, text_of, watch
from tests.fault.workers import WAIT_S, worker_process
from tests.gateway_rig import gateway
from tests.rig import KEY, request_for

pytestmark = needs_chromium
LONG = {"steps": [{"kind": "text", "text": "one two three four five. " * 12}], "pace": {"chunks_per_s": 25}}


async def test_a_killed_workers_text_is_void_and_gone(redis_url: str, tmp_path: Path) -> None:
    async with (
        Simulator(key=KEY) as simulator,
        gateway(redis_url, tmp_path, is_open=True) as served,
        await Client.connect(redis_url) as client,
        chromium() as browser,
        tab(browser, served.url) as page,
    ):
        async with worker_process(redis_url, simulator) as first:
            submitted = await client.submit(request_for(LONG))
            card = await watch(page, {"id": submitted.id})
            await has_come_to(card, 20)
            first.kill()
            assert await text_of(card, "text")
            async with worker_process(redis_url, simulator):
                await expect(field(card, "attempt")).to_have_text("2")
                await expect(field(card, "note")).to_contain_text("attempt 2 began: lease_expired; the")
                await expect(field(card, "note")).to_contain_text("characters of attempt 1 are void")
                await ends(card)
                outcome = await client.result(await request_id(card), wait_s=WAIT_S)
                assert outcome is not None
                assert (outcome.attempt, await text_of(card, "text")) == (2, outcome.content)
