"""Requests on the whole path: queue, worker, the simulated model over HTTP, log, outcome."""

import asyncio
import json
import logging
from collections.abc import AsyncGenerator
from itertools import pairwise
from typing import Any

import pytest
from arq.connections import ArqRedis
from redis.asyncio import Redis

from tailrace.broker.keys import JOB_FUNCTION, QUEUE, log_key, rec_key
from tailrace.demo.valkey import EmbeddedValkey
from tailrace.schemas.codec import decode_job, encode_job
from tailrace.schemas.deltas import AttemptStarted, Cancelled, Completed, Failed, Incomplete, RetryScheduled
from tailrace.schemas.outcome import Outcome
from tests.proxy import Proxy
from tests.rig import KEY, Rig, request_for, rig, shown, worker_task
from tests.until import until

TEXT = "A tailrace carries the water away from the mill, so that the wheel turns freely."
SLOW = {"steps": [{"kind": "text", "text": TEXT}], "pace": {"chunks_per_s": 30}}
CALL = {
    "kind": "tool_call",
    "name": "search",
    "arguments": '{"inner_thoughts": "I look.", "q": "mill", "n": [1, 2]}',
    "id": "call_7",
}


@pytest.fixture
async def whole(redis_url: str) -> AsyncGenerator[Rig]:
    async with rig(redis_url, max_attempts=1) as parts:
        yield parts


def gapless(ids: list[str]) -> bool:
    """Whether the ids of each attempt start at 0 and have no gaps, after `0-1`."""
    numbers = [tuple(map(int, entry_id.split("-"))) for entry_id in ids]
    return numbers[0] == (0, 1) and all(
        later == (now[0], now[1] + 1) or (later[0] > now[0] and later[1] == 0) for now, later in pairwise(numbers)
    )


def event_of(record: logging.LogRecord) -> str | None:
    """The name of the event that a log line is about, or None for a line of a library."""
    return getattr(record, "tailrace_fields", {}).get("event")


# Requests that complete


async def test_a_chat_request_completes(whole: Rig) -> None:
    request_id = await whole.submit(
        {"steps": [{"kind": "reasoning", "text": "Hm."}, CALL, {"kind": "text", "text": TEXT}], "usage": "always"},
        metadata={"tier": "test"},
    )
    outcome = await whole.outcome(request_id)
    assert outcome.status == "completed"
    assert outcome.content == TEXT
    assert [(call.id, call.name, call.arguments) for call in outcome.tool_calls] == [
        ("call_7", "search", CALL["arguments"])
    ]
    assert outcome.usage is not None
    assert outcome.metadata == {"tier": "test"}
    assert (outcome.request_id, outcome.attempt) == (request_id, 1)
    assert outcome.submitted_at
    assert outcome.started_at
    assert outcome.finished_at
    assert outcome.submitted_at <= outcome.started_at <= outcome.finished_at

    entries = await whole.entries(request_id)
    assert isinstance(entries[-1].entry, Completed)
    assert entries[-1].entry.usage == outcome.usage
    text, reasoning, arguments = shown(entries)
    assert text == TEXT
    assert reasoning == outcome.reasoning == "Hm.I look."
    assert json.loads(arguments[0]) == {"q": "mill", "n": [1, 2]}
    assert gapless(await whole.ids(request_id))
    assert await whole.rec(request_id, "status") == "completed"


async def test_a_responses_request_completes(whole: Rig) -> None:
    request = {"api": "responses", "model": "sim", "input": "hello"}
    request["extra_body"] = {"simulator": {"steps": [{"kind": "text", "text": TEXT}, CALL]}}  # pyright: ignore[reportArgumentType] - a JSON object
    request_id = (await whole.client.submit(request)).id
    outcome = await whole.outcome(request_id)
    assert (outcome.status, outcome.content, outcome.api) == ("completed", TEXT, "responses")
    assert [call.name for call in outcome.tool_calls] == ["search"]


async def test_an_answer_cut_off_by_the_length_limit_is_incomplete(whole: Rig) -> None:
    request_id = await whole.submit({"name": "length"})
    outcome = await whole.outcome(request_id)
    assert (outcome.status, outcome.finish_reason) == ("incomplete", "length")
    assert not outcome.tool_calls[0].complete
    assert isinstance((await whole.entries(request_id))[-1].entry, Incomplete)


async def test_a_plain_enqueue_with_the_request_works(whole: Rig) -> None:
    """given: stock arq, no Tailrace client / expect: the worker makes record and log."""
    arq = ArqRedis(whole.redis.connection_pool, job_serializer=encode_job, job_deserializer=decode_job)
    request = request_for({"steps": [{"kind": "text", "text": TEXT}]})
    await arq.enqueue_job(JOB_FUNCTION, "plain", request, _job_id="plain", _queue_name=QUEUE)

    async def accepted() -> bool:
        return bool(await whole.redis.exists(rec_key("plain")))

    await until(accepted)
    outcome = await whole.outcome("plain")
    assert (outcome.status, outcome.content) == ("completed", TEXT)
    assert gapless(await whole.ids("plain"))


async def test_a_plain_enqueue_of_an_invalid_request_is_rejected(whole: Rig, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "tailrace")
    arq = ArqRedis(whole.redis.connection_pool, job_serializer=encode_job, job_deserializer=decode_job)
    await arq.enqueue_job(JOB_FUNCTION, "bad", {"model": "m", "n": 3}, _job_id="bad", _queue_name=QUEUE)
    await until(lambda: "request_rejected" in map(event_of, caplog.records))

    async def acknowledged() -> bool:
        return await whole.redis.zcard(QUEUE) == 0

    await until(acknowledged)
    assert not await whole.redis.exists(rec_key("bad"), log_key("bad"))


# Failures of the model's server


@pytest.mark.parametrize(
    ("fault", "code", "whose"),
    [
        ({"kind": "status", "status": 400, "message": "no such tool"}, "upstream_400", "caller"),
        ({"kind": "status", "status": 401}, "upstream_401", "operator"),
        ({"kind": "status", "status": 403}, "upstream_403", "operator"),
        ({"kind": "status", "status": 404}, "upstream_404", "caller"),
        ({"kind": "status", "status": 429}, "upstream_429", "provider"),
        ({"kind": "status", "status": 429, "code": "insufficient_quota"}, "upstream_429", "operator"),
        ({"kind": "status", "status": 500}, "upstream_500", "provider"),
        ({"kind": "status", "status": 503}, "upstream_503", "provider"),
        ({"kind": "html"}, "upstream_malformed", "provider"),
    ],
)
async def test_an_error_in_place_of_an_answer_fails_and_names_who_has_to_act(
    whole: Rig, fault: dict[str, Any], code: str, whose: str
) -> None:
    request_id = await whole.submit({"faults": [fault]})
    outcome = await whole.outcome(request_id)
    assert outcome.status == "failed"
    assert outcome.error is not None
    assert (outcome.error.code, outcome.error.whose) == (code, whose)
    assert outcome.error.message.strip()
    terminal = (await whole.entries(request_id))[-1].entry
    assert isinstance(terminal, Failed)
    assert terminal.error == outcome.error
    if "message" in fault:
        assert fault["message"] in outcome.error.message


async def test_a_wrong_key_is_for_the_operator_and_is_quoted_nowhere(redis_url: str) -> None:
    wrong = "sk-test-another-key-9876543210abcdef"
    async with rig(redis_url, key=wrong) as parts:
        outcome = await parts.outcome(await parts.submit())
    assert outcome.error is not None
    assert (outcome.error.code, outcome.error.whose) == ("upstream_401", "operator")
    assert wrong not in outcome.error.message
    assert wrong[-4:] not in outcome.error.message


@pytest.mark.parametrize("kind", ["cut", "rst", "end"])
async def test_a_stream_that_breaks_keeps_the_text_before(whole: Rig, kind: str) -> None:
    request_id = await whole.submit({"steps": [{"kind": "text", "text": TEXT}], "faults": [{"kind": kind, "after": 6}]})
    outcome = await whole.outcome(request_id)
    assert outcome.status == "failed"
    assert outcome.error is not None
    assert outcome.error.code == "upstream_truncated"
    entries = await whole.entries(request_id)
    assert shown(entries)[0] == outcome.content
    if kind != "rst":  # a reset may arrive before the data that was sent earlier
        assert outcome.content
        assert TEXT.startswith(outcome.content)
    assert gapless(await whole.ids(request_id))


async def test_an_error_inside_the_stream_keeps_the_text_before(whole: Rig) -> None:
    fault = {"kind": "error", "after": 6, "type": "server_error"}
    outcome = await whole.outcome(await whole.submit({"steps": [{"kind": "text", "text": TEXT}], "faults": [fault]}))
    assert outcome.error is not None
    assert (outcome.status, outcome.error.code) == ("failed", "upstream_500")
    assert outcome.content


@pytest.mark.parametrize(
    ("fault", "code"),
    [({"kind": "stall", "after": 5}, "upstream_timeout"), ({"kind": "hang"}, "upstream_first_byte_timeout")],
)
async def test_a_server_that_stops_sending_times_out(redis_url: str, fault: dict[str, Any], code: str) -> None:
    async with rig(redis_url, max_attempts=1, first_byte_timeout_s=0.3, idle_timeout_s=0.3) as parts:
        request_id = await parts.submit({"steps": [{"kind": "text", "text": TEXT}], "faults": [fault]})
        outcome = await parts.outcome(request_id)
        assert outcome.error is not None
        assert outcome.error.code == code
        assert bool(outcome.content) is (fault["kind"] == "stall")
        await until(lambda: parts.simulator.open_connections == 0)


async def test_a_server_that_cannot_be_reached(redis_url: str) -> None:
    async with rig(redis_url, max_attempts=1, environment={"OPENAI_BASE_URL": "http://127.0.0.1:1/v1"}) as parts:
        outcome = await parts.outcome(await parts.submit())
    assert outcome.error is not None
    assert (outcome.error.code, outcome.error.whose) == ("upstream_connect", "provider")


async def test_the_deadline_ends_a_request_and_keeps_the_text_before(whole: Rig) -> None:
    request_id = await whole.submit(SLOW, timeout_s=0.4)
    outcome = await whole.outcome(request_id)
    assert outcome.error is not None
    assert (outcome.status, outcome.error.code, outcome.error.whose) == ("failed", "deadline_exceeded", "caller")
    assert outcome.content
    assert shown(await whole.entries(request_id))[0] == outcome.content
    await until(lambda: whole.simulator.open_connections == 0)


async def test_a_log_that_is_full_ends_the_request(redis_url: str) -> None:
    async with rig(redis_url, max_log_entries=10) as parts:
        request_id = await parts.submit({"steps": [{"kind": "text", "text": TEXT}], "chunking": {"chars": 1}, **SLOW})
        outcome = await parts.outcome(request_id)
        assert outcome.error is not None
        assert (outcome.status, outcome.error.code) == ("failed", "log_full")
        assert gapless(await parts.ids(request_id))
        await until(lambda: parts.simulator.open_connections == 0)


# Retries


async def test_a_retry_is_visible_in_the_log(redis_url: str) -> None:
    async with rig(redis_url) as parts:
        fault = {"kind": "status", "status": 429, "retry_after_s": 0.05, "calls": 2}
        request_id = await parts.submit({"steps": [{"kind": "text", "text": TEXT}], "faults": [fault]})
        outcome = await parts.outcome(request_id)
        assert (outcome.status, outcome.content, outcome.attempt) == ("completed", TEXT, 3)
        entries = await parts.entries(request_id)
        started = [item.entry for item in entries if isinstance(item.entry, AttemptStarted)]
        assert [(entry.attempt, entry.why) for entry in started] == [(1, "first"), (2, "retry"), (3, "retry")]
        waits = [item.entry for item in entries if isinstance(item.entry, RetryScheduled)]
        assert [(entry.attempt, entry.reason) for entry in waits] == [(1, "upstream_429"), (2, "upstream_429")]
        assert started[1].at >= waits[0].until > started[0].at
        assert gapless(await parts.ids(request_id))


async def test_a_broken_stream_is_restarted_if_the_request_allows_it(redis_url: str) -> None:
    async with rig(redis_url) as parts:
        scenario = {"steps": [{"kind": "text", "text": TEXT}], "faults": [{"kind": "cut", "after": 6, "calls": 1}]}
        request_id = await parts.submit(scenario)
        outcome = await parts.outcome(request_id)
        assert (outcome.status, outcome.content, outcome.attempt) == ("completed", TEXT, 2)
        assert shown(await parts.entries(request_id))[0] == TEXT


async def test_a_broken_stream_fails_if_the_request_asks_for_it(redis_url: str) -> None:
    async with rig(redis_url) as parts:
        scenario = {"steps": [{"kind": "text", "text": TEXT}], "faults": [{"kind": "cut", "after": 6, "calls": 1}]}
        request_id = await parts.submit(scenario, on_failure="fail")
        outcome = await parts.outcome(request_id)
        assert (outcome.status, outcome.attempt) == ("failed", 1)
        assert outcome.content


async def test_refusals_are_not_retried(redis_url: str) -> None:
    async with rig(redis_url) as parts:
        await parts.outcome(await parts.submit({"faults": [{"kind": "status", "status": 400}]}))
        assert len(parts.simulator.ledger.entries()) == 1


async def test_the_number_of_attempts_is_limited(redis_url: str) -> None:
    async with rig(redis_url, max_attempts=2) as parts:
        request_id = await parts.submit({"faults": [{"kind": "status", "status": 503, "retry_after_s": 0.01}]})
        outcome = await parts.outcome(request_id)
        assert (outcome.status, outcome.attempt) == ("failed", 2)
        assert len(parts.simulator.ledger.entries()) == 2


async def test_a_cancel_during_the_wait_for_a_retry(redis_url: str) -> None:
    async with rig(redis_url) as parts:
        request_id = await parts.submit({"faults": [{"kind": "status", "status": 429, "retry_after_s": 100}]})

        async def retry_is_scheduled() -> bool:
            return len(await parts.ids(request_id)) == 3

        await until(retry_is_scheduled)
        await parts.client.cancel(request_id)
        outcome = await parts.outcome(request_id)
        assert (outcome.status, outcome.attempt) == ("cancelled", 1)


# Cancels and drains


async def test_a_cancel_closes_the_connection_and_keeps_the_text_before(whole: Rig) -> None:
    request_id = await whole.submit(SLOW)

    async def has_text() -> bool:
        return len(await whole.ids(request_id)) > 4

    await until(has_text)
    assert (await whole.client.cancel(request_id)).verdict == "signalled"
    outcome = await whole.outcome(request_id)
    assert outcome.status == "cancelled"
    assert outcome.content
    assert TEXT.startswith(outcome.content)
    assert outcome.content != TEXT
    entries = await whole.entries(request_id)
    assert isinstance(entries[-1].entry, Cancelled)
    assert shown(entries)[0] == outcome.content
    await until(lambda: whole.simulator.ledger.entries()[0].ended == "client_closed")
    assert (await whole.client.cancel(request_id)).verdict == "finished"


async def test_a_cancel_before_the_answer_begins(whole: Rig) -> None:
    request_id = await whole.submit({"faults": [{"kind": "hang"}]})
    await until(lambda: len(whole.simulator.ledger.entries()) == 1)
    await whole.client.cancel(request_id)
    assert (await whole.outcome(request_id)).status == "cancelled"
    await until(lambda: whole.simulator.ledger.entries()[0].ended == "client_closed")


async def test_a_worker_that_drains_hands_back_and_another_one_completes(redis_url: str) -> None:
    async with rig(redis_url, drain_s=0) as parts:
        request_id = await parts.submit(SLOW)

        async def has_text() -> bool:
            return len(await parts.ids(request_id)) > 4

        await until(has_text)
        second = worker_task(redis_url, parts.simulator, KEY, {})
        await second.ready
        await parts.worker.stop()
        try:
            outcome = await parts.outcome(request_id)
            assert (outcome.status, outcome.content) == ("completed", TEXT)
            assert outcome.attempt is not None
            assert outcome.attempt > 1
            started = [i.entry for i in await parts.entries(request_id) if isinstance(i.entry, AttemptStarted)]
            assert [entry.why for entry in started] == ["first", "drained"]
            assert gapless(await parts.ids(request_id))
        finally:
            await second.stop()


# Many requests, and failures of Redis


async def consistent_outcome(parts: Rig, request_id: str) -> Outcome:
    """The outcome, compared with the sum of the deltas in the log."""
    outcome = await parts.outcome(request_id)
    text, reasoning, arguments = shown(await parts.entries(request_id))
    assert (text or None) == outcome.content
    assert (reasoning or None) == outcome.reasoning
    for number, call in enumerate(outcome.tool_calls):
        without = json.loads(call.arguments)
        without.pop("inner_thoughts", None)
        assert json.loads(arguments[number]) == without
    assert gapless(await parts.ids(request_id))
    return outcome


async def test_a_hundred_concurrent_requests_have_consistent_logs(whole: Rig) -> None:
    scenarios: list[dict[str, Any]] = [
        {"steps": [CALL, {"kind": "text", "text": f"{TEXT} {number}"}], "chunking": {"chars": 1 + number % 7}}
        for number in range(100)
    ]
    ids = [await whole.submit(scenario) for scenario in scenarios]
    outcomes = [await consistent_outcome(whole, request_id) for request_id in ids]
    assert [outcome.content for outcome in outcomes] == [f"{TEXT} {number}" for number in range(100)]
    assert await whole.redis.zcard(QUEUE) == 0


async def test_cut_connections_to_redis_lose_and_duplicate_nothing(redis_url: str) -> None:
    """given: the worker's connections to Redis are cut repeatedly / expect: logs without gaps or duplicates."""
    async with Proxy(redis_url) as proxy, rig(redis_url, worker_url=proxy.url) as parts:
        steps = [{"kind": "text", "text": TEXT * 3}, CALL]
        ids = [await parts.submit({"steps": steps, "pace": {"chunks_per_s": 60}}) for _ in range(20)]
        for _ in range(8):
            await asyncio.sleep(0.1)  # spreads the cuts over the run; the result does not depend on the times
            proxy.cut()
        for request_id in ids:
            outcome = await consistent_outcome(parts, request_id)
            assert (outcome.status, outcome.content, outcome.attempt) == ("completed", TEXT * 3, 1)


async def test_a_redis_that_is_killed_and_restarted_loses_nothing() -> None:
    """given: an append-only file, and a crash while requests stream / expect: all requests complete."""
    with EmbeddedValkey(appendonly=True, options={"appendfsync": "always"}) as valkey:
        async with rig(valkey.url, lease_s=10) as parts:
            steps = [{"kind": "text", "text": TEXT * 2}, CALL]
            ids = [await parts.submit({"steps": steps, "pace": {"chunks_per_s": 60}}) for _ in range(10)]

            async def all_stream() -> bool:
                return all([len(await parts.ids(request_id)) > 5 for request_id in ids])

            await until(all_stream)
            await asyncio.to_thread(valkey.kill)
            await asyncio.to_thread(valkey.start)
            for request_id in ids:
                outcome = await consistent_outcome(parts, request_id)
                assert (outcome.status, outcome.content, outcome.attempt) == ("completed", TEXT * 2, 1)


async def everything_in(redis: Redis) -> bytes:
    """All keys and values, except the stored requests. Read by type, since a DUMP compresses strings."""
    held = b""
    async for key in redis.scan_iter():
        reading: dict[bytes, tuple[str | bytes | int, ...]] = {
            b"string": ("GET", key),
            b"hash": ("HGETALL", key),
            b"list": ("LRANGE", key, 0, -1),
            b"set": ("SMEMBERS", key),
            b"zset": ("ZRANGE", key, 0, -1),
            b"stream": ("XRANGE", key, "-", "+"),
            b"none": ("GET", key),  # gone since the scan
        }
        value: dict[bytes, bytes] | list[Any] | bytes = await redis.execute_command(*reading[await redis.type(key)])
        if isinstance(value, dict):
            value.pop(b"request", None)
        held += key + repr(value).encode()
    return held


async def test_no_key_appears_in_redis_or_in_the_log(redis_url: str, caplog: pytest.LogCaptureFixture) -> None:
    """given: servers that quote the key in an error body, inside a stream, and in a body that is no stream."""
    caplog.set_level(logging.DEBUG)
    quoting = f"{KEY} is not what I know as Bearer {KEY}"
    scenarios: list[dict[str, Any]] = [
        {"steps": [{"kind": "text", "text": "an answer"}]},
        {"name": "cut"},
        {"name": "quota"},
        {"name": "text", "faults": [{"kind": "status", "status": 401, "message": quoting}]},
        {"name": "text", "faults": [{"kind": "error", "after": 2, "code": "invalid_api_key", "message": quoting}]},
        {"name": "text", "faults": [{"kind": "error", "after": 0, "message": quoting}]},
        {"name": "text", "faults": [{"kind": "garbage", "after": 1, "data": quoting}]},
    ]
    async with rig(redis_url, max_attempts=1, dead_letters="failed") as parts:
        private = "a sentence that only the user may read"
        messages: list[str] = []
        for scenario in scenarios:
            request_id = await parts.submit(scenario, messages=[{"role": "user", "content": private}])
            outcome = await parts.outcome(request_id)
            messages.append(outcome.error.message if outcome.error else "")
        kept = await everything_in(parts.redis)
    assert len([message for message in messages if "***" in message]) == 4
    assert KEY.encode() not in kept
    ours = [record.getMessage() for record in caplog.records if record.name.startswith("tailrace")]
    assert ours
    assert not [line for line in ours if KEY in line or private in line]
    assert KEY not in caplog.text


async def test_every_key_has_a_lifetime_and_no_queue_key_remains(whole: Rig) -> None:
    request_id = await whole.submit({"steps": [{"kind": "text", "text": TEXT}]})
    await whole.outcome(request_id)

    async def no_queue_key() -> bool:
        keys = [key async for key in whole.redis.scan_iter()]
        return not [key for key in keys if request_id.encode() in key and key.startswith(b"arq:")]

    await until(no_queue_key)
    async for key in whole.redis.scan_iter():
        assert await whole.redis.pttl(key) > 0, key
