"""Time limits of a worker process, each set where an operator or a caller sets it: connect, first byte, idle, total."""

import socket
from collections.abc import AsyncIterator, Iterator
from typing import Any

import pytest
from redis.asyncio import Redis

from tailrace.broker.keys import rec_key
from tailrace.demo.simulator import Simulator
from tailrace.producers.client import Client
from tailrace.producers.options import ClientOptions
from tailrace.schemas.deltas import ErrorInfo, RetryScheduled
from tailrace.schemas.outcome import Outcome
from tests.fault.workers import WAIT_S, Attached, client_of, worker_process
from tests.rig import request_for
from tests.until import until

TEXT = "The water that has driven the wheel runs off below the mill, through the tailrace, back into the river."
SLOW = {"steps": [{"kind": "text", "text": TEXT}], "pace": {"chunks_per_s": 20}}


@pytest.fixture
async def client(redis_url: str) -> AsyncIterator[Client]:
    async with client_of(redis_url) as connected:
        yield connected


@pytest.fixture
def deaf_url() -> Iterator[str]:
    """A server that takes no connection: its queue is full (listen(2)), so that the next one is left without answer."""
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        server.listen(0)
        waiting = [socket.socket() for _ in range(4)]
        for caller in waiting:
            caller.setblocking(False)
            caller.connect_ex(server.getsockname())
        yield f"http://127.0.0.1:{server.getsockname()[1]}/v1"
        for caller in waiting:
            caller.close()


async def ended(client: Client, request_id: str) -> tuple[Outcome, ErrorInfo]:
    outcome = await client.result(request_id, wait_s=WAIT_S)
    assert outcome is not None
    assert outcome.error is not None
    assert outcome.status == "failed"
    return outcome, outcome.error


async def test_connecting_has_a_limit(redis_url: str, client: Client, simulator: Simulator, deaf_url: str) -> None:
    # given a server that answers no connection, if the limit is over, expect a second try that readers see, and the
    # end
    settings = {"TAILRACE_CONNECT_TIMEOUT_S": "0.3", "TAILRACE_MAX_ATTEMPTS": "2", "OPENAI_BASE_URL": deaf_url}
    async with worker_process(redis_url, simulator, **settings):
        request_id = (await client.submit(request_for())).id
        _, error = await ended(client, request_id)
        reader = Attached(client, request_id)
        await reader.to_its_end()
    assert (error.code, error.whose) == ("upstream_connect", "provider")
    assert "0.3 s" in error.message
    assert [item.entry.reason for item in reader.items if isinstance(item.entry, RetryScheduled)] == [
        "upstream_connect"
    ]
    assert reader.attempts == [1, 2]


@pytest.mark.parametrize(
    ("setting", "fault", "code"),
    [
        ("TAILRACE_FIRST_BYTE_TIMEOUT_S", {"kind": "hang"}, "upstream_first_byte_timeout"),
        ("TAILRACE_IDLE_TIMEOUT_S", {"kind": "stall", "after": 5}, "upstream_timeout"),
    ],
)
async def test_silence_has_a_limit(
    redis_url: str, client: Client, simulator: Simulator, setting: str, fault: dict[str, Any], code: str
) -> None:
    # given a server that falls silent before its answer or in it, if that limit alone is short, expect its code, what
    # had come, and the connection closed
    settings = {setting: "0.3", "TAILRACE_MAX_ATTEMPTS": "1"}
    async with worker_process(redis_url, simulator, **settings):
        outcome, error = await ended(client, (await client.submit(request_for({**SLOW, "faults": [fault]}))).id)
        assert (error.code, error.whose) == (code, "provider")
        assert bool(outcome.content) is (fault["kind"] == "stall")
        await until(lambda: simulator.open_connections == 0)


async def test_a_sign_of_life_is_no_silence(redis_url: str, client: Client, simulator: Simulator) -> None:
    # given a server that pauses for longer than the idle limit, but sends comments meanwhile, expect its answer waited
    # for
    scenario = {**SLOW, "keepalive_s": 0.1, "faults": [{"kind": "stall", "after": 5, "for_s": 0.8}]}
    async with worker_process(redis_url, simulator, TAILRACE_IDLE_TIMEOUT_S="0.4", TAILRACE_MAX_ATTEMPTS="1"):
        outcome = await client.result((await client.submit(request_for(scenario))).id, wait_s=WAIT_S)
    assert outcome is not None
    assert (outcome.status, outcome.content) == ("completed", TEXT)


@pytest.mark.parametrize("by", ["request", "setting"])
async def test_a_request_has_a_deadline(redis_url: str, simulator: Simulator, by: str) -> None:
    # given an answer that takes longer than the request may, as itself or the producer's setting says, expect the
    # end at the deadline, with what had come, and the connection closed
    more = {"timeout_s": 2.0} if by == "request" else {}
    async with (
        Client(redis_url, ClientOptions(run_limit_s=2.0 if by == "setting" else 60)) as client,
        worker_process(redis_url, simulator),
    ):
        request_id = (await client.submit(request_for({**SLOW, "chunking": {"chars": 1}}, **more))).id
        outcome, error = await ended(client, request_id)
        assert (error.code, error.whose) == ("deadline_exceeded", "caller")
        assert outcome.content
        assert TEXT.startswith(outcome.content)
        await until(lambda: simulator.open_connections == 0)


async def test_what_waited_too_long_is_not_run(redis_url: str, client: Client, simulator: Simulator) -> None:
    # given a request whose deadline passes before any worker is there, expect it ended without a call to the model
    async with Redis.from_url(redis_url) as redis:
        request_id = (await client.submit(request_for(SLOW, timeout_s=0.2))).id
        await until(lambda: is_over(redis, request_id))
    async with worker_process(redis_url, simulator):
        outcome, error = await ended(client, request_id)
    assert (error.code, outcome.content, outcome.attempt) == ("deadline_exceeded", None, 1)
    assert simulator.ledger.entries() == []


async def test_a_new_attempt_has_no_new_deadline(redis_url: str, client: Client, simulator: Simulator) -> None:
    # given an attempt handed back in its middle, if the deadline passes before the next one, expect the model not asked
    # again
    async with Redis.from_url(redis_url) as redis:
        async with worker_process(redis_url, simulator):
            request_id = (await client.submit(request_for({**SLOW, "chunking": {"chars": 1}}, timeout_s=3.0))).id
            reader = Attached(client, request_id)
            await until(reader.has_read(5))
        await until(lambda: is_over(redis, request_id))
    async with worker_process(redis_url, simulator):
        outcome, error = await ended(client, request_id)
        await reader.to_its_end()
    assert (error.code, outcome.attempt, reader.attempts) == ("deadline_exceeded", 2, [1, 2])
    assert len(simulator.ledger.entries()) == 1


async def test_a_pause_that_would_miss_the_deadline_is_not_made(
    redis_url: str, client: Client, simulator: Simulator
) -> None:
    # given a server that asks for a longer wait than the deadline leaves, expect its own error, at once
    busy = {**SLOW, "faults": [{"kind": "status", "status": 429, "retry_after_s": 60}]}
    async with worker_process(redis_url, simulator):
        _, error = await ended(client, (await client.submit(request_for(busy, timeout_s=30))).id)
    assert error.code == "upstream_429"
    assert len(simulator.ledger.entries()) == 1


async def is_over(redis: Redis, request_id: str) -> bool:
    """Whether the request's deadline has passed, by the server's clock."""
    seconds, microseconds = await redis.time()
    return seconds * 1000 + microseconds // 1000 > int(await redis.hget(rec_key(request_id), "deadline_ms") or 0)
