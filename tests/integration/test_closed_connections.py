"""Connections that close while they are used: the model's, which must close at once, and those to Redis."""

import asyncio
import contextlib
from typing import Any

import pytest
import uvloop
from redis.asyncio import Redis

from tailrace.broker.errors import FAILURES, store_error
from tailrace.producers.store import ProducerStore
from tailrace.schemas.errors import StoreUnavailable
from tailrace.worker.attempt.request_store import Store
from tests.rig import rig

LONG = {"kind": "text", "chunks": 2000}


@pytest.mark.parametrize("kind", ["garbage", "error"])
async def test_a_failed_stream_is_closed_before_the_next_is_opened(redis_url: str, kind: str) -> None:
    # given an answer that fails halfway and would continue for long, expect its connection closed before the next opens
    scenario = {
        "key": "one",
        "steps": [LONG],
        "pace": {"chunks_per_s": 2000},
        "faults": [{"kind": kind, "after": 3, "calls": 1}],
    }
    async with rig(redis_url) as plant:
        outcome = await plant.outcome(await plant.submit(scenario))
        first, second = plant.simulator.ledger.entries()
    assert outcome.status == "completed"
    assert first.ended_s is not None
    assert first.ended_s <= second.started_s


def closed_meanwhile() -> RuntimeError:
    """The error that uvloop raises for a write to a connection that has just been closed."""

    async def write() -> None:
        server = await asyncio.start_server(lambda _, writer: writer.close(), "127.0.0.1", 0)
        async with server:
            _, writer = await asyncio.open_connection(*server.sockets[0].getsockname())
            writer.transport.abort()
            while True:  # the handle is closed one iteration of the event loop later
                writer.transport.writelines([b"x", b"y"])
                await asyncio.sleep(0)

    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner, pytest.raises(RuntimeError) as raised:
        runner.run(write())
    return raised.value


def test_a_write_to_a_closed_connection_is_a_lost_connection() -> None:
    # given uvloop's own error for it, expect our error for a lost connection; other errors of its type are unchanged
    error = closed_meanwhile()
    assert isinstance(error, FAILURES)
    assert isinstance(store_error(error, "place"), StoreUnavailable)
    with pytest.raises(RuntimeError, match="something else"):
        store_error(RuntimeError("something else"), "place")


async def test_a_script_is_sent_again_after_a_write_to_a_closed_connection(
    redis_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    # given a connection that closes while a script is sent, expect the script to be sent again
    error = await asyncio.to_thread(closed_meanwhile)
    failures = [error]
    async with Redis.from_url(redis_url) as redis:
        send = redis.execute_command

        async def fails_once(*args: Any, **options: Any) -> Any:
            with contextlib.suppress(IndexError):
                raise failures.pop()
            return await send(*args, **options)

        monkeypatch.setattr(redis, "execute_command", fails_once)
        verdict = await Store(redis).release("nobody", 1, "token")
    assert verdict.status == "stale"
    assert failures == []


async def test_a_producer_gets_the_error_of_a_lost_connection(redis_url: str) -> None:
    # given the same error in a producer's loop, expect the error of a lost connection
    error = await asyncio.to_thread(closed_meanwhile)
    store = await ProducerStore.connect(redis_url, timeout_s=5.0)
    try:
        with pytest.raises(StoreUnavailable):
            async with store.link.asking():
                raise error
        with pytest.raises(RuntimeError, match="something else"):
            async with store.link.asking():
                raise RuntimeError("something else")
    finally:
        await store.close()
