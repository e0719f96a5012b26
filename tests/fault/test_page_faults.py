"""The page while workers and gateways die: discarded text is removed, and nothing else is lost or duplicated."""

import signal
import socket
from pathlib import Path

from playwright.async_api import expect

from tailrace.demo.simulator import Simulator
from tailrace.producers.client import Client
from tests.browser import chromium, ends, field, has_reached, needs_chromium, request_id, tab, text_of, watch
from tests.fault.places import Place
from tests.fault.workers import WAIT_S, worker_process
from tests.gateway_rig import gateway
from tests.rig import KEY, request_for, rig

pytestmark = needs_chromium
LONG = {"steps": [{"kind": "text", "text": "one two three four five. " * 12}], "pace": {"chunks_per_s": 25}}


async def test_the_text_of_a_killed_worker_is_discarded(redis_url: str, tmp_path: Path) -> None:
    async with (
        Simulator(key=KEY) as simulator,
        gateway(redis_url, tmp_path, is_open=True) as served,
        Client(redis_url) as client,
        chromium() as browser,
        tab(browser, served.url) as page,
    ):
        async with worker_process(redis_url, simulator) as first:
            submitted = await client.submit(request_for(LONG))
            card = await watch(page, {"id": submitted.id})
            await has_reached(card, 20)
            first.kill()
            assert await text_of(card, "text")
            async with worker_process(redis_url, simulator):
                await expect(field(card, "attempt")).to_have_text("2")
                await expect(field(card, "note")).to_contain_text("attempt 2 started: lease_expired; ")
                await expect(field(card, "note")).to_contain_text("characters of attempt 1 were discarded")
                await ends(card)
                outcome = await client.result(await request_id(card), wait_s=WAIT_S)
                assert outcome is not None
                assert (outcome.attempt, await text_of(card, "text")) == (2, outcome.content)


async def test_the_browser_reconnects_after_a_gateway_was_killed_or_stopped(redis_url: str, tmp_path: Path) -> None:

    scenario = {"steps": [{"kind": "text", "chunks": 300}], "pace": {"chunks_per_s": 60}}
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    listens = Place(
        ["gateway", "--open", "--port", str(port)],
        {"TAILRACE_REDIS_URL": redis_url},
        "tailrace gateway listens on ",
        tmp_path / "gateway.log",
    )
    async with rig(redis_url) as tailrace, listens, chromium() as browser:
        async with tab(browser, f"http://127.0.0.1:{port}/", expects_errors=True) as page:
            request = await tailrace.submit(scenario)
            card = await watch(page, {"id": request})
            await has_reached(card, 20)
            assert await listens.ends(signal.SIGKILL) == -signal.SIGKILL
            await expect(field(card, "connection")).to_contain_text("lost")
            await listens.start()
            await has_reached(card, 100)
            assert await listens.ends(signal.SIGTERM) == 0
            await listens.start()
            outcome = await tailrace.outcome(request)
            await ends(card)
            assert await text_of(card, "text") == outcome.content
            await expect(field(card, "attempt")).to_have_text("1")
