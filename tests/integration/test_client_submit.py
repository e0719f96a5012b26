"""Submit on a real Valkey: it is idempotent, repairs what a failure left, and rejects without leaving anything."""

import asyncio
import string
import time
from collections.abc import AsyncIterator
from typing import Any

import pytest
from redis.asyncio import Redis

from tailrace.broker import keys, scripts
from tailrace.broker.script import Script
from tailrace.demo.valkey import EmbeddedValkey
from tailrace.producers.client import Client
from tailrace.producers.options import ClientOptions
from tailrace.producers.queue.enqueue import Enqueuer
from tailrace.producers.store import ProducerStore
from tailrace.schemas import codec
from tailrace.schemas.deltas import Accepted
from tailrace.schemas.errors import (
    RequestConflict,
    RequestRejected,
    RequestTooLarge,
    SettingsError,
    StoreError,
    StoreFull,
    StoreRefused,
    StoreUnavailable,
)
from tailrace.schemas.request import MAX_REQUEST_BYTES, GenerationRequest, decode_request
from tests.proxy import Proxy

HELLO: dict[str, Any] = {"model": "m", "messages": [{"role": "user", "content": "hello"}]}


@pytest.fixture
async def client(redis_url: str) -> AsyncIterator[Client]:
    async with Client(redis_url, ClientOptions(run_limit_s=100, retention_s=10)) as connected:
        yield connected


async def queued(redis: Redis) -> list[bytes]:
    return await redis.zrange(keys.QUEUE, 0, -1)


async def test_a_submitted_request_is_recorded_and_queued(client: Client, redis: Redis) -> None:
    # given a request with metadata and a limit of its own / if it is submitted
    submitted = await client.submit({**HELLO, "metadata": {"thread": 7}, "timeout_s": 50.0})

    # expect record, first entry, arq's envelope, its place in the queue and a wake-up token
    assert submitted.status == "queued"
    assert not submitted.already_exists
    rec = await redis.hgetall(keys.rec_key(submitted.id))
    stored = decode_request(rec[b"request"])
    assert (stored.model, stored.metadata) == ("m", {"thread": 7})
    assert int(rec[b"deadline_ms"]) - int(rec[b"submitted_ms"]) == 50_000
    [(entry_id, fields)] = await redis.xrange(keys.log_key(submitted.id))
    assert entry_id == b"0-1"
    entry = codec.decode_entry(fields[b"e"])
    assert isinstance(entry, Accepted)
    assert (entry.api, entry.model) == ("chat", "m")
    assert await queued(redis) == [submitted.id.encode()]
    envelope = await redis.get(keys.job_key(submitted.id))
    assert envelope is not None
    job = codec.decode_job(envelope)
    assert (job["f"], list(job["a"])) == (keys.JOB_FUNCTION, [submitted.id])
    assert await redis.llen(keys.WAKE) == 1


async def test_every_key_has_a_lifetime(client: Client, redis: Redis) -> None:
    submitted = await client.submit(HELLO)
    lives = {key: await redis.pttl(key) for key in await redis.keys() if key != keys.QUEUE.encode()}
    assert len(lives) == 4
    assert all(0 < life <= 110_000 for life in lives.values()), lives
    # deadline and retention are covered, by arq's envelope too
    assert lives[keys.rec_key(submitted.id).encode()] > 100_000
    assert lives[keys.job_key(submitted.id).encode()] > 100_000


async def test_wake_up_tokens_do_not_pile_up(client: Client, redis: Redis) -> None:
    for _ in range(keys.WAKE_TOKENS_MAX + 5):
        await client.submit(HELLO)
    assert await redis.llen(keys.WAKE) == keys.WAKE_TOKENS_MAX


async def test_generated_ids_cannot_be_guessed(client: Client) -> None:
    # given many ids / expect 128 bits each, no two alike, and every digit in every place sooner or later
    ids = [(await client.submit(HELLO)).id for _ in range(200)]
    assert len(set(ids)) == 200
    assert all(len(id_) == 32 and set(id_) <= set(string.hexdigits) for id_ in ids)
    assert all(len({id_[place] for id_ in ids}) >= 12 for place in range(32))


async def test_the_three_ways_to_pass_a_request_are_equivalent(client: Client) -> None:
    by_name = await client.submit(**HELLO, id="one")
    as_dict = await client.submit({**HELLO, "id": "one"})
    as_object = await client.submit(GenerationRequest(**HELLO, id="one"))
    assert [by_name.already_exists, as_dict.already_exists, as_object.already_exists] == [False, True, True]
    with pytest.raises(RequestRejected, match="not both"):
        await client.submit(HELLO, model="m")


async def test_submitting_again_does_not_duplicate_the_request(client: Client, redis: Redis) -> None:
    first = await client.submit({**HELLO, "id": "mine"})
    before = await redis.hgetall(keys.rec_key("mine"))
    # if the same content comes again, its keys in another order
    again = await client.submit({"id": "mine", **dict(reversed(HELLO.items()))})
    assert (first.already_exists, again.already_exists, again.id) == (False, True, "mine")
    assert await redis.hgetall(keys.rec_key("mine")) == before
    assert await redis.xlen(keys.log_key("mine")) == 1
    assert await queued(redis) == [b"mine"]


async def test_the_same_id_with_other_content_is_refused(client: Client, redis: Redis) -> None:
    await client.submit({**HELLO, "id": "mine"})
    before = await redis.hgetall(keys.rec_key("mine"))
    with pytest.raises(RequestConflict, match="'mine'"):
        await client.submit({**HELLO, "id": "mine", "temperature": 0.5})
    assert await redis.hgetall(keys.rec_key("mine")) == before


async def test_many_submits_at_once_make_one_request(redis_url: str, redis: Redis) -> None:
    # given two clients / if both submit the same id ten times, all at once
    async with Client(redis_url) as one, Client(redis_url) as two:
        answers = await asyncio.gather(*(c.submit({**HELLO, "id": "mine"}) for c in (one, two) for _ in range(10)))
    # expect exactly one that made it, one entry, one job
    assert sorted(answer.already_exists for answer in answers) == [False] + [True] * 19
    assert await redis.xlen(keys.log_key("mine")) == 1
    assert await queued(redis) == [b"mine"]


async def test_a_repeated_submit_enqueues_a_request_whose_job_is_missing(client: Client, redis: Redis) -> None:
    # given a submit that broke off between record and queue
    await client.submit({**HELLO, "id": "mine"})
    await redis.delete(keys.QUEUE, keys.job_key("mine"))
    # if it is repeated / expect it queued
    assert (await client.submit({**HELLO, "id": "mine"})).already_exists
    assert await queued(redis) == [b"mine"]
    assert await redis.exists(keys.job_key("mine"))


@pytest.mark.parametrize("ahead_ms", [3_600_000, -3_600_000])
async def test_a_producers_clock_neither_delays_nor_prefers(
    client: Client, redis: Redis, monkeypatch: pytest.MonkeyPatch, ahead_ms: int
) -> None:
    # given a producer whose clock is wrong by an hour, expect its request due when the server says it was submitted
    right_ns = time.time_ns
    monkeypatch.setattr("time.time_ns", lambda: right_ns() + ahead_ms * 1_000_000)
    await client.submit({**HELLO, "id": "mine"})
    assert await redis.zscore(keys.QUEUE, "mine") == int(await redis.hget(keys.rec_key("mine"), "submitted_ms") or 0)


async def test_a_job_that_is_enqueued_again_lives_as_long_as_its_request(redis_url: str, redis: Redis) -> None:
    # given a request with more time than requests usually have, whose job was lost, if a reader mends that, expect the
    # job to have as much time, and its old place
    async with Client(redis_url, ClientOptions(run_limit_s=1, retention_s=1)) as client:
        await client.submit({**HELLO, "id": "mine", "timeout_s": 5_000})
        before = await redis.zscore(keys.QUEUE, "mine")
        await redis.delete(keys.QUEUE, keys.job_key("mine"))
        store = await ProducerStore.connect(redis_url, timeout_s=5.0)
        await Enqueuer(store).enqueue_if_lost("mine")
        await store.close()
    assert await redis.pttl(keys.job_key("mine")) > 4_900_000
    assert await redis.zscore(keys.QUEUE, "mine") == before


async def test_a_lost_queue_entry_is_restored(client: Client, redis: Redis) -> None:
    # given a request whose envelope stands, but not its place in the queue, if it is submitted again, expect it back
    await client.submit({**HELLO, "id": "mine"})
    before = await redis.zscore(keys.QUEUE, "mine")
    await redis.delete(keys.QUEUE)
    await client.submit({**HELLO, "id": "mine"})
    assert await redis.zscore(keys.QUEUE, "mine") == before


async def test_a_request_that_has_ended_is_not_queued_again(client: Client, redis: Redis) -> None:
    await client.submit({**HELLO, "id": "mine"})
    await client.cancel("mine")
    again = await client.submit({**HELLO, "id": "mine"})
    assert (again.already_exists, again.status) == (True, "cancelled")
    assert await queued(redis) == []


@pytest.mark.parametrize("step", [scripts.SUBMIT, scripts.ENQUEUE], ids=lambda step: step.name)
async def test_a_submit_survives_a_lost_reply_at_any_step(step: Script[Any], redis_url: str, redis: Redis) -> None:
    # given a connection that drops the reply to one step of submit / if a request is submitted
    async with Proxy(redis_url) as proxy, Client(proxy.url) as client:
        await client.submit(HELLO)
        proxy.lose_reply(step.sha.encode())
        submitted = await client.submit(HELLO)
        assert not proxy.fault_pending
    # expect it accepted and queued, once
    assert not submitted.already_exists
    assert submitted.id.encode() in await queued(redis)
    assert await redis.exists(keys.job_key(submitted.id))
    assert await redis.xlen(keys.log_key(submitted.id)) == 1


async def test_a_submit_that_breaks_before_the_queue_names_its_id(redis_url: str, redis: Redis) -> None:
    async with Proxy(redis_url) as proxy, Client(proxy.url, ClientOptions(timeout_s=0.3)) as client:
        # given Redis gone between record and queue
        async def enqueue(*_: Any, **__: Any) -> None:
            raise StoreUnavailable("gone")

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr("tailrace.producers.queue_store.ProducerQueue.enqueue", enqueue)
            with pytest.raises(StoreUnavailable) as caught:
                await client.submit(HELLO)
        # expect the error to name the id, and a submit with it to put things right
        [named] = [word.rstrip(":;,") for word in str(caught.value).split() if len(word.rstrip(":;,")) == 32]
        assert named.encode() not in await queued(redis)
        assert (await client.submit({**HELLO, "id": named})).already_exists
        assert named.encode() in await queued(redis)


@pytest.mark.parametrize(
    "wrong",
    [
        {},
        {"model": "m"},
        {**HELLO, "stream": True},
        {**HELLO, "n": 2},
        {**HELLO, "id": "a b"},
        {**HELLO, "id": ""},
        {**HELLO, "id": "x" * 65},
        {**HELLO, "unheard_of": 1},
        {**HELLO, "timeout_s": -1.0},
        {**HELLO, "metadata": {"x": "y" * 20_000}},
        {"model": "m", "messages": [{"role": "user", "content": b"bytes"}]},
        {"model": "m", "messages": [{"role": "user", "content": float("nan")}]},
        {"model": "m", "messages": [{"role": "user", "content": "\ud800"}]},
        {"model": "m", "messages": [{"role": "user", "content": {1: 2}}]},
    ],
)
async def test_an_invalid_request_is_rejected_and_leaves_nothing(
    wrong: dict[str, Any], client: Client, redis: Redis
) -> None:
    with pytest.raises(RequestRejected) as caught:
        await client.submit(wrong)
    assert "\n" not in str(caught.value)
    assert await redis.keys() == []


async def test_a_request_that_is_too_large_is_rejected_and_leaves_nothing(client: Client, redis: Redis) -> None:
    with pytest.raises(RequestTooLarge, match="8,388,608"):
        await client.submit(model="m", messages=[{"role": "user", "content": "x" * MAX_REQUEST_BYTES}])
    assert await redis.keys() == []


@pytest.mark.parametrize(
    "url",
    ["", "http://h", "redis://h:port/0", "redis://h:99999", "redis://h:0", "redis://h/db", "redis://[::1", "unix://"],
)
async def test_a_wrong_url_is_refused(url: str) -> None:
    with pytest.raises(SettingsError, match=r"^redis_url: "):
        await Client(url).__aenter__()


@pytest.mark.parametrize("url", ["redis://user:s3cret", "redis://:s3/cret@h/0", "redis://:s3cret@h:x/0"])
async def test_a_wrong_url_does_not_show_its_password(url: str) -> None:
    with pytest.raises(SettingsError) as caught:
        await Client(url).__aenter__()
    assert "cret" not in str(caught.value)


async def test_an_option_that_redis_py_does_not_have_is_refused(redis_url: str) -> None:
    with pytest.raises(SettingsError, match="surprise"):
        await Client(f"{redis_url}?surprise=1").__aenter__()


async def test_an_unreachable_redis_is_an_error_at_once(unused_tcp_port: int) -> None:
    with pytest.raises(StoreUnavailable, match=f"127.0.0.1:{unused_tcp_port} cannot be reached"):
        await Client(f"redis://127.0.0.1:{unused_tcp_port}/0").__aenter__()


async def test_a_redis_that_never_answers_is_an_error_within_the_timeout(redis_url: str) -> None:
    async with Proxy(redis_url) as proxy:
        proxy.stall()
        with pytest.raises(StoreUnavailable, match="did not answer"):
            await Client(proxy.url, ClientOptions(timeout_s=0.2)).__aenter__()


async def test_a_server_that_is_not_redis_is_an_error() -> None:
    async def http(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read(1)
        writer.write(b"HTTP/1.1 400 Bad Request\r\n\r\n")
        writer.close()

    server = await asyncio.start_server(http, "127.0.0.1", 0)
    async with server:
        port = server.sockets[0].getsockname()[1]
        with pytest.raises(StoreRefused, match="is not a Redis"):
            await Client(f"redis://127.0.0.1:{port}/0").__aenter__()


async def test_a_redis_that_refuses_or_is_full_is_an_error_and_stores_nothing() -> None:
    with EmbeddedValkey(options={"requirepass": "s3cret"}) as valkey:
        with pytest.raises(StoreRefused, match="refuses"):
            await Client(valkey.url).__aenter__()
        with pytest.raises(StoreRefused) as wrong:
            await Client(valkey.url.replace("redis://", "redis://:wr0ng@")).__aenter__()
        assert "wr0ng" not in str(wrong.value)
        url = valkey.url.replace("redis://", "redis://:s3cret@")
        async with Redis.from_url(url) as redis, Client(url) as client:
            # if it is a replica of another / expect what it cannot do to be said
            await redis.execute_command("REPLICAOF", "127.0.0.1", "1")
            with pytest.raises(StoreUnavailable, match="read-only replica"):
                await client.submit(HELLO)
            await redis.execute_command("REPLICAOF", "NO", "ONE")
            await redis.config_set("maxmemory", 1)
            with pytest.raises(StoreFull, match="out of memory"):
                await client.submit(HELLO)
            await redis.config_set("maxmemory", 0)
            await redis.execute_command("ACL", "SETUSER", "reader", "on", ">pw", "~*", "+ping", "+hmget", "-eval")
            async with Client(valkey.url.replace("redis://", "redis://reader:pw@")) as reader:
                with pytest.raises(StoreRefused):
                    await reader.submit(HELLO)
            assert await redis.keys() == []


async def test_a_lost_connection_is_restored_without_an_error(redis_url: str, redis: Redis) -> None:
    async with Proxy(redis_url) as proxy, Client(proxy.url) as client:
        for _ in range(5):
            await client.submit(HELLO)
            proxy.cut()
        proxy.refusing = True
        with pytest.raises(StoreError):
            await client.submit(HELLO)
        proxy.refusing = False
        await client.submit(HELLO)
    assert len(await queued(redis)) == 6
