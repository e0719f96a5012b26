"""Redis away, full, busy, loading, hung, slow, read-only: a worker in the middle of an answer, a reader attached.

For less than a lease it costs a pause, for longer a new attempt; nothing is lost or doubled.
"""

import asyncio
import os
import signal
from collections.abc import AsyncGenerator, AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass
from typing import Any

import pytest
from redis.asyncio import Redis

from tailrace.demo.simulator import Simulator
from tailrace.demo.valkey import EmbeddedValkey
from tailrace.producers.client import Client
from tailrace.schemas.deltas import Cancelled
from tailrace.schemas.errors import StoreFull
from tests.fault.workers import WAIT_S, Attached, WorkerProcess, client_of, worker_process
from tests.proxy import Proxy
from tests.rig import request_for
from tests.until import until

TEXT = "The water that has driven the wheel runs off below the mill, through the tailrace, back into the river."
SLOW = {"steps": [{"kind": "text", "text": TEXT}], "pace": {"chunks_per_s": 40}, "chunking": {"chars": 2}}
LONG_LEASE_S, SHORT_LEASE_S = "20", "1"
MEMORY_BYTES = 8 * 1024 * 1024
KEYS, LOAD_US_PER_KEY = 6000, 200  # so many, so slowly loaded, keep the server busy at its start


@dataclass
class Scene:
    """A server, who speaks to it, and what is run on it."""

    valkey: EmbeddedValkey
    redis: Redis
    proxy: Proxy
    client: Client
    simulator: Simulator

    async def submit(self, scenario: dict[str, Any] = SLOW) -> str:
        return (await self.client.submit(request_for(scenario))).id

    def calls(self) -> int:
        """How often the model's server was asked."""
        return len(self.simulator.ledger.entries())


@pytest.fixture
async def scene() -> AsyncIterator[Scene]:
    """A server of the test's own, with an append-only file; the worker comes through a proxy, readers do not."""
    options = {
        "appendfsync": "always",
        "busy-reply-threshold": "20",
        "key-load-delay": str(LOAD_US_PER_KEY),
        "loading-process-events-interval-bytes": "1024",
    }
    with EmbeddedValkey(appendonly=True, options=options) as valkey:
        async with (
            Simulator() as simulator,
            Redis.from_url(valkey.url) as redis,
            Proxy(valkey.url) as proxy,
            client_of(valkey.url) as client,
        ):
            yield Scene(valkey, redis, proxy, client, simulator)


Fault = Callable[[Scene, float], AbstractAsyncContextManager[None]]


@asynccontextmanager
async def connection_cut(scene: Scene, for_s: float) -> AsyncGenerator[None]:
    scene.proxy.refusing = True
    scene.proxy.cut()
    yield
    await asyncio.sleep(for_s)
    scene.proxy.refusing = False


@asynccontextmanager
async def restart(scene: Scene, for_s: float) -> AsyncGenerator[None]:
    await asyncio.to_thread(scene.valkey.kill)
    yield
    await asyncio.sleep(for_s)
    await asyncio.to_thread(scene.valkey.start)


@asynccontextmanager
async def hang(scene: Scene, for_s: float) -> AsyncGenerator[None]:
    os.kill(scene.valkey.pid, signal.SIGSTOP)
    try:
        yield
        await asyncio.sleep(for_s)
    finally:
        os.kill(scene.valkey.pid, signal.SIGCONT)


@asynccontextmanager
async def loading(scene: Scene, for_s: float) -> AsyncGenerator[None]:
    await scene.redis.execute_command("CONFIG", "SET", "appendfsync", "no")
    await scene.redis.eval(f"for n = 1, {KEYS} do redis.call('SET', 'filler:' .. n, n) end", 0)
    await asyncio.to_thread(scene.valkey.kill)
    yield
    await asyncio.to_thread(scene.valkey.start)


@asynccontextmanager
async def read_only(scene: Scene, for_s: float) -> AsyncGenerator[None]:
    await scene.redis.execute_command("REPLICAOF", "127.0.0.1", "1")
    yield
    await asyncio.sleep(for_s)
    await scene.redis.execute_command("REPLICAOF", "NO", "ONE")


@asynccontextmanager
async def busy(scene: Scene, for_s: float) -> AsyncGenerator[None]:
    until_then = (
        "local t = redis.call('TIME') local till = t[1] + t[2] / 1e6 + ARGV[1]"
        " repeat t = redis.call('TIME') until t[1] + t[2] / 1e6 > till"
    )
    running = asyncio.ensure_future(scene.redis.eval(until_then, 0, str(for_s)))
    yield
    await running


@asynccontextmanager
async def full(scene: Scene, for_s: float) -> AsyncGenerator[None]:
    await scene.redis.config_set("maxmemory", 1)
    yield
    await asyncio.sleep(for_s)
    await scene.redis.config_set("maxmemory", 0)


@asynccontextmanager
async def slow(scene: Scene, for_s: float) -> AsyncGenerator[None]:
    scene.proxy.delay_s = 0.1
    yield
    await asyncio.sleep(for_s)
    scene.proxy.delay_s = 0.0


FAULTS: dict[Fault, str | None] = {
    connection_cut: "cannot write entries",
    restart: "cannot write entries",
    hang: None,  # nobody complains before his time limit
    loading: "loading",
    read_only: "read-only replica",
    busy: "BUSY",
    full: "out of memory",
    slow: None,
}
"""What can befall Redis, and what the worker then says."""


@pytest.mark.parametrize("fault", FAULTS, ids=lambda fault: fault.__name__)
async def test_for_less_than_a_lease_it_costs_a_pause(scene: Scene, fault: Fault) -> None:
    # given an answer on its way and a reader, if Redis fails for a moment and comes back, expect one attempt, every
    # entry once and in order, the model asked once, and the operator told
    async with worker_process(scene.proxy.url, scene.simulator, TAILRACE_LEASE_S=LONG_LEASE_S) as worker:
        request_id = await scene.submit()
        reader = Attached(scene.client, request_id)
        await until(reader.has_read(6))
        async with fault(scene, 0.5):
            pass
        await reader.to_its_end()
        await check_end(scene, reader, request_id, attempts=1)
        check_log(worker, FAULTS[fault])
    assert scene.calls() == 1


@pytest.mark.parametrize("fault", [connection_cut, restart, hang], ids=lambda fault: fault.__name__)
async def test_for_longer_than_a_lease_it_costs_a_new_attempt(scene: Scene, fault: Fault) -> None:
    # given an answer on its way and a reader, if Redis is away until the lease has run out, expect the call to the
    # model closed meanwhile, then one new attempt that the reader sees begin, and the whole of it
    async with worker_process(scene.proxy.url, scene.simulator, TAILRACE_LEASE_S=SHORT_LEASE_S) as worker:
        request_id = await scene.submit({**SLOW, "pace": {"chunks_per_s": 20}})
        reader = Attached(scene.client, request_id)
        await until(reader.has_read(6))
        async with fault(scene, 0.0):
            await until(lambda: scene.simulator.ledger.entries()[0].ended == "client_closed")
        await reader.to_its_end()
        await check_end(scene, reader, request_id, attempts=2)
        assert "lost: it was not renewed in time" in worker.said
    assert scene.calls() == 2


async def check_end(scene: Scene, reader: Attached, request_id: str, *, attempts: int) -> None:
    outcome = await scene.client.result(request_id, wait_s=WAIT_S)
    assert outcome is not None
    assert (outcome.status, outcome.content) == ("completed", TEXT)
    assert (reader.text, reader.gaps, len(reader.attempts)) == (TEXT, 0, attempts)
    late = Attached(scene.client, request_id)
    await late.to_its_end()
    assert [item.cursor for item in late.items] == [item.cursor for item in reader.items]


def check_log(worker: WorkerProcess, word: str | None) -> None:
    assert word is None or any("WARNING" in line and word in line for line in worker.said.splitlines()), worker.said


async def test_a_full_server_accepts_nothing_and_lets_what_runs_be_cancelled(scene: Scene) -> None:
    # given an answer that has paused and a full server, if somebody submits, expect a refusal that leaves nothing
    # behind; if somebody cancels, expect the end at once, while memory is still short
    pausing = {**SLOW, "faults": [{"kind": "stall", "after": 10}]}
    async with worker_process(scene.proxy.url, scene.simulator):
        request_id = await scene.submit(pausing)
        reader = Attached(scene.client, request_id)
        await until(reader.has_read(11))
        await until(lambda: scene.simulator.ledger.entries()[0].chunks_sent == 10)
        async with full(scene, 0.0):
            before = set(await scene.redis.keys("tr:{*"))
            with pytest.raises(StoreFull):
                await scene.submit()
            assert set(await scene.redis.keys("tr:{*")) == before
            assert (await scene.client.cancel(request_id)).verdict == "signalled"
            await reader.to_its_end()
        assert isinstance(reader.items[-1].entry, Cancelled)
    assert scene.simulator.ledger.entries()[0].ended == "client_closed"


async def test_a_hung_server_stops_the_model_not_fills_the_memory(scene: Scene) -> None:
    # given a model that answers as fast as it is read, and a small buffer, if Redis hangs, expect the model's server
    # unable to send on; once Redis is back, expect everything written once, in order
    chunks = 60_000
    flood = {"steps": [{"kind": "text", "chunks": chunks}], "usage": "every_chunk"}
    settings = {"TAILRACE_PUBLISH_BUFFER_BYTES": "65536", "TAILRACE_LEASE_S": LONG_LEASE_S}
    async with worker_process(scene.proxy.url, scene.simulator, **settings) as worker:
        request_id = await scene.submit(flood)
        reader = Attached(scene.client, request_id)
        await until(reader.has_read(10))
        [call] = scene.simulator.ledger.entries()
        async with hang(scene, 0.0):
            before = worker.memory_bytes()
            await until(lambda: stands_still(lambda: call.chunks_sent))
            assert call.chunks_sent < chunks
            assert worker.memory_bytes() - before < MEMORY_BYTES
        await reader.to_its_end()
        outcome = await scene.client.result(request_id, wait_s=WAIT_S)
        assert outcome is not None
        assert (outcome.status, reader.text, reader.gaps) == ("completed", outcome.content, 0)
        assert call.chunks_sent >= chunks


async def stands_still(value: Callable[[], int]) -> bool:
    """Whether a value does not change for a while."""
    before = value()
    await asyncio.sleep(0.3)
    return value() == before
