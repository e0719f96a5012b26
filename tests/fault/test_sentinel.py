"""Sentinels, a primary that dies, and a replica that takes its place: requests go on, and their readers with them."""

from contextlib import AsyncExitStack
from pathlib import Path

import pytest

from tailrace.demo.simulator import Simulator
from tailrace.producers.client import Client
from tailrace.schemas.errors import StoreUnavailable
from tests.fault.workers import WAIT_S, Attached, client_of, worker_process
from tests.rig import KEY, request_for
from tests.sentinel_rig import guarded
from tests.until import until

TEXT = "One word after another. " * 60
SLOW = {"steps": [{"kind": "text", "text": TEXT}], "pace": {"chunks_per_s": 40.0}}
REQUESTS = 4


async def test_a_failover_by_sentinels_costs_a_pause_or_a_new_attempt(tmp_path: Path) -> None:
    # given requests that run and their readers, if the primary dies, expect each request whole at its end, its reader
    # with it, and new requests run on what was the replica
    async with guarded(tmp_path) as site:
        async with AsyncExitStack() as stack:
            simulator = await stack.enter_async_context(Simulator(key=KEY))
            client = await stack.enter_async_context(client_of(site.url))
            await stack.enter_async_context(worker_process(site.url, simulator))
            ids = [(await client.submit(request_for(SLOW))).id for _ in range(REQUESTS)]
            readers = [Attached(client, request_id) for request_id in ids]
            for reader in readers:
                await until(reader.has_read(8), WAIT_S)
            site.primary.kill()
            for request_id, reader in zip(ids, readers, strict=True):
                await reader.to_its_end()
                assert reader.text == TEXT
                outcome = await client.result(request_id)
                assert outcome is not None
                assert (outcome.status, outcome.content) == ("completed", TEXT)
            again = (await client.submit(request_for({"steps": [{"kind": "text", "text": "Again."}]}))).id
            outcome = await client.result(again, wait_s=WAIT_S)
            assert outcome is not None
            assert outcome.content == "Again."
            assert site.replica.ask(f"EXISTS tr:{{{again}}}:log") == ":1"


async def test_sentinels_that_know_nothing_are_named() -> None:
    with pytest.raises(StoreUnavailable, match="no Sentinel names the primary"):
        await Client("redis+sentinel://127.0.0.1:1,127.0.0.1:2/mymaster").__aenter__()
