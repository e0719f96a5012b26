"""Result, cancel and status on a real Valkey, and the Letta form of a tail."""

import asyncio
from collections.abc import AsyncIterator
from datetime import datetime

import pytest
from arq.connections import RedisSettings, create_pool
from redis.asyncio import Redis

from tailrace.broker import keys
from tailrace.broker.keys import push_channel, push_shard
from tailrace.producers.answers import CancelResult
from tailrace.producers.client import Client
from tailrace.producers.options import ClientOptions
from tailrace.schemas.codec import decode_entry, decode_job, encode_job
from tailrace.schemas.deltas import Cancelled
from tailrace.schemas.errors import StoreUnavailable, UnknownRequest
from tailrace.schemas.outcome import Status as OutcomeStatus
from tests.proxy import Proxy
from tests.rig import WAIT_S, request_for, rig
from tests.scribe import ANSWER, IDS, Scribe
from tests.until import until

ID = "one"
HELLO = [{"role": "user", "content": "hello"}]


@pytest.fixture
async def client(redis_url: str) -> AsyncIterator[Client]:
    async with Client(redis_url) as connected:
        await connected.submit(id=ID, model="m", messages=HELLO, metadata={"thread": 7})
        yield connected


async def test_the_result_of_an_unfinished_request_is_none(client: Client, redis: Redis) -> None:
    assert await client.result(ID) is None
    assert await client.result(ID, wait_s=0.05) is None
    await Scribe(redis, ID).begin()
    assert await client.result(ID, wait_s=0.05) is None


@pytest.mark.parametrize("wait_s", [10.0, None])
async def test_a_result_is_waited_for(wait_s: float | None, client: Client, redis: Redis) -> None:
    # given a call that waits for the outcome / if the answer is written, piece by piece
    async with asyncio.timeout(20):
        waiting = asyncio.create_task(client.result(ID, wait_s=wait_s))
        scribe = Scribe(redis, ID)
        await scribe.begin()
        for entry in ANSWER:
            await scribe.write([entry])
        assert not waiting.done()
        await scribe.finish()
        outcome = await waiting
    # expect the outcome as it was written
    assert outcome is not None
    assert (outcome.status, outcome.content, outcome.attempt) == ("completed", "Hello", 1)
    assert await client.result(ID) == outcome


async def test_a_result_of_a_request_that_is_enqueued_a_moment_later_is_waited_for(redis_url: str) -> None:
    # given a call that has found no such request yet, if a plain `enqueue_job` creates it, expect its outcome
    async with rig(redis_url) as parts:
        await parts.redis.config_resetstat()
        waiting = asyncio.create_task(parts.client.result("plain", wait_s=WAIT_S))

        async def has_asked_twice() -> bool:
            return (await parts.redis.info("commandstats")).get("cmdstat_hmget", {}).get("calls", 0) >= 2

        await until(has_asked_twice)
        assert not waiting.done()
        settings = RedisSettings.from_dsn(redis_url)
        arq = await create_pool(settings, job_serializer=encode_job, job_deserializer=decode_job)
        assert await arq.enqueue_job(keys.JOB_FUNCTION, "plain", request_for(), _job_id="plain")
        await arq.aclose()
        outcome = await waiting
    assert outcome is not None
    assert (outcome.request_id, outcome.status) == ("plain", "completed")


async def test_a_result_of_a_request_that_never_exists_is_an_error_when_the_time_is_over(client: Client) -> None:
    async with asyncio.timeout(5):
        with pytest.raises(UnknownRequest):
            await client.result("nobody", wait_s=0.1)


async def test_a_result_is_waited_for_over_a_cut_connection(redis_url: str, redis: Redis) -> None:
    async with Proxy(redis_url) as proxy, Client(proxy.url) as client:
        await client.submit(id=ID, model="m", messages=HELLO)
        waiting = asyncio.create_task(client.result(ID, wait_s=10))

        async def followed() -> bool:
            ((_, followers),) = await redis.pubsub_numsub(push_channel(push_shard(ID)))
            return followers == 1

        await until(followed)
        proxy.cut()
        await Scribe(redis, ID).answer()
        assert (await waiting) is not None


async def test_a_waiting_request_ends_when_it_is_cancelled(client: Client, redis: Redis) -> None:
    assert await client.cancel(ID) == CancelResult("ended", "cancelled")
    # expect a terminal in an attempt of its own, and an outcome that knows whose it is
    items = [item async for item in client.tail(ID)]
    assert [item.cursor for item in items] == ["0-1", "1-0"]
    assert items[-1].entry == Cancelled(0)
    outcome = await client.result(ID)
    assert outcome is not None
    assert (outcome.status, outcome.request_id, outcome.attempt) == ("cancelled", ID, 1)
    assert (outcome.api, outcome.model, outcome.metadata) == ("chat", "m", {"thread": 7})
    assert outcome.started_at is None
    assert outcome.submitted_at is not None
    assert outcome.finished_at is not None
    assert datetime.fromisoformat(outcome.submitted_at) <= datetime.fromisoformat(outcome.finished_at)
    # and nothing left in the queue
    assert await redis.zrange(keys.QUEUE, 0, -1) == []
    assert await redis.exists(keys.job_key(ID)) == 0
    assert (await client.status(ID)).status == "cancelled"


async def test_a_cancel_leaves_a_claimed_job_to_the_worker(client: Client, redis: Redis) -> None:
    # given a worker that has claimed the job and not begun
    await redis.set(keys.lease_key(ID), b"token", ex=5)
    assert (await client.cancel(ID)).verdict == "ended"
    # expect its job untouched, and its begin refused
    assert await redis.exists(keys.job_key(ID)) == 1
    assert (await Scribe(redis, ID).begin()).status == "ended"


async def test_a_cancel_between_two_attempts_ends_the_request_in_the_next(client: Client, redis: Redis) -> None:
    # given a request that was handed back after its second attempt
    scribe = Scribe(redis, ID, attempt=2)
    await scribe.begin()
    await scribe.write(ANSWER[:2])
    await redis.hset(keys.rec_key(ID), "status", "queued")
    assert (await client.cancel(ID)).verdict == "ended"
    items = [item async for item in client.tail(ID)]
    assert [item.cursor for item in items] == ["0-1", "2-0", "2-1", "2-2", "3-0"]
    outcome = await client.result(ID)
    assert outcome is not None
    assert outcome.attempt == 3


async def test_a_cancel_of_a_running_request_signals_its_worker(client: Client, redis: Redis) -> None:
    async with redis.pubsub() as hearing:
        await hearing.subscribe(keys.CANCEL_CHANNEL)
        await hearing.get_message(timeout=5)
        scribe = Scribe(redis, ID)
        await scribe.begin()
        assert await client.cancel(ID) == CancelResult("signalled", "running")
        heard = await hearing.get_message(timeout=5)
        assert heard is not None
        assert heard["data"] == ID.encode()
    status = await client.status(ID)
    assert (status.status, status.cancel_requested) == ("running", True)
    # if the worker then ends it / expect that to be the end, with what there was
    await scribe.write(ANSWER[-2:])
    await scribe.finish("cancelled")
    outcome = await client.result(ID)
    assert outcome is not None
    assert (outcome.status, outcome.content) == ("cancelled", "Hello")


@pytest.mark.parametrize("ended", ["completed", "incomplete", "failed", "cancelled"])
async def test_a_cancel_of_a_finished_request_changes_nothing(
    ended: OutcomeStatus, client: Client, redis: Redis
) -> None:
    scribe = Scribe(redis, ID)
    await scribe.begin()
    await scribe.finish(ended)
    before = await redis.hgetall(keys.rec_key(ID))
    assert await client.cancel(ID) == CancelResult("finished", ended)
    assert await redis.hgetall(keys.rec_key(ID)) == before
    assert await redis.xlen(keys.log_key(ID)) == 3


async def test_concurrent_cancels_end_the_request_once(client: Client, redis: Redis) -> None:
    verdicts = await asyncio.gather(*(client.cancel(ID) for _ in range(20)))
    assert sorted(verdict.verdict for verdict in verdicts) == ["ended"] + ["finished"] * 19
    assert {verdict.status for verdict in verdicts} == {"cancelled"}
    assert await redis.xlen(keys.log_key(ID)) == 2


async def test_a_race_of_cancel_and_begin_has_one_winner(client: Client, redis: Redis) -> None:
    for number in range(30):
        request_id = f"r{number}"
        await client.submit(id=request_id, model="m", messages=HELLO)
        verdict, begun = await asyncio.gather(client.cancel(request_id), Scribe(redis, request_id).begin())
        assert (verdict.verdict, begun.status) in {("ended", "ended"), ("signalled", "begun")}


async def test_metadata_that_looks_like_our_fields_is_not_changed(client: Client) -> None:
    metadata = {"attempt": None, "finished_at": "", "submitted_at": "", "x": '"attempt":null'}
    await client.submit(id="sly", model='"attempt":null', messages=HELLO, metadata=metadata)
    await client.cancel("sly")
    outcome = await client.result("sly")
    assert outcome is not None
    assert (outcome.metadata, outcome.model, outcome.attempt) == (metadata, '"attempt":null', 1)


async def test_status_describes_the_request(client: Client, redis: Redis) -> None:
    waiting = await client.status(ID)
    assert (waiting.status, waiting.attempt, waiting.api, waiting.model) == ("queued", 0, "chat", "m")
    assert (waiting.started_at, waiting.finished_at, waiting.cancel_requested) == (None, None, False)
    times = [datetime.fromisoformat(time) for time in (waiting.submitted_at, waiting.deadline_at)]
    assert (times[1] - times[0]).total_seconds() == 900
    # the same instant as the log's first entry gives
    [(_, fields)] = await redis.xrange(keys.log_key(ID))
    assert getattr(decode_entry(fields[b"e"]), "at", None) == waiting.submitted_at

    await Scribe(redis, ID).answer()
    ended = await client.status(ID)
    assert (ended.status, ended.attempt) == ("completed", 1)
    assert ended.started_at is not None
    assert ended.finished_at is not None
    assert waiting.submitted_at <= ended.started_at <= ended.finished_at


async def test_every_method_raises_when_redis_is_unreachable(redis_url: str) -> None:
    async with Proxy(redis_url) as proxy, Client(proxy.url, ClientOptions(timeout_s=0.5)) as client:
        await client.submit(id=ID, model="m", messages=HELLO)
        proxy.refusing = True
        proxy.cut()
        for verb in (client.result, client.cancel, client.status):
            with pytest.raises(StoreUnavailable, match="cannot be reached"):
                await verb(ID)
        with pytest.raises(StoreUnavailable, match="cannot be reached"):
            await client.tail(ID).__aenter__()


async def test_the_letta_form_is_the_same_wherever_it_is_resumed(redis_url: str, redis: Redis) -> None:
    async with Client(redis_url) as client:
        await client.submit(id=ID, model="m", messages=HELLO)
        first, second = Scribe(redis, ID, 1), Scribe(redis, ID, 2)
        await first.begin()
        await first.write(ANSWER[:2])
        await second.begin("lease_expired")
        await second.write(ANSWER)
        await second.finish()
        whole = [item async for item in client.tail(ID).letta()]
        # if it is resumed after any entry / expect the very same messages
        for position, item in enumerate(whole):
            assert [rest async for rest in client.tail(ID, after=item.cursor).letta()] == whole[position + 1 :]
    # deltas are Letta messages, source in each, and all else is the entry itself
    assert [item.message["message_type"] for item in whole][:4] == [
        "accepted",
        "attempt_started",
        "reasoning_message",
        "reasoning_message",
    ]
    reasoning = [item.message for item in whole if item.message["message_type"] == "reasoning_message"]
    assert [message["source"] for message in reasoning] == ["non_reasoner_model"] * 4 + ["reasoner_model"] * 2
    assert {message["id"] for message in reasoning} == {IDS.tool}
    assert whole[-1].message == {"message_type": "completed", "ms": 100}
