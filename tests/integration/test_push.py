"""Pushes of log entries: everything that was written and nothing else, by the worker and by scripts."""

import asyncio
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager

import pytest
from redis.asyncio import Redis

from tailrace.broker import keys
from tailrace.broker.keys import log_key, push_channel, push_shard, rec_key
from tailrace.demo.valkey import EmbeddedValkey
from tailrace.producers.client import Client
from tailrace.schemas.errors import AttemptLost, StoreFull
from tailrace.schemas.push import decode_pushes
from tailrace.worker.publish.commit_line import CommitLine
from tailrace.worker.publish.log_writer import LogWriter
from tailrace.worker.publish.publisher import Publisher
from tests.proxy import Proxy
from tests.scribe import Scribe
from tests.until import until

HELLO = [{"role": "user", "content": "hello"}]
OWNER = "owner"


class Received:
    """All pushes, as channel and message."""

    def __init__(self) -> None:
        self.messages: list[tuple[str, bytes]] = []

    def entries(self, request_id: str) -> list[tuple[str, bytes]]:
        """Ids and entries pushed for a request, in order."""
        pushes = [
            one
            for name, message in self.messages
            for one in decode_pushes(message)
            if name == push_channel(push_shard(request_id))
        ]
        return [
            (f"{attempt}-{seq + offset}", entry)
            for pushed_id, attempt, seq, entries in pushes
            if pushed_id == request_id
            for offset, entry in enumerate(entries)
        ]


@asynccontextmanager
async def listening_to(redis: Redis) -> AsyncGenerator[Received]:
    received = Received()
    async with redis.pubsub() as pubsub:
        await pubsub.subscribe(*(push_channel(number) for number in range(keys.PUSH_SHARDS)))
        confirmed = 0

        async def listen() -> None:
            nonlocal confirmed
            async for event in pubsub.listen():
                confirmed += event["type"] == "subscribe"
                if event["type"] == "message":
                    received.messages.append((event["channel"].decode(), event["data"]))

        listening = asyncio.create_task(listen())
        try:
            await until(lambda: confirmed == keys.PUSH_SHARDS)
            yield received
        finally:
            listening.cancel()


def publishing(url: str, *, patience_s: float = 10.0) -> Publisher:
    return Publisher(
        CommitLine(url), buffer_bytes=1 << 24, max_entries=1 << 20, max_bytes=1 << 30, patience_s=patience_s
    )


async def begun(redis: Redis, publisher: Publisher, request_id: str) -> LogWriter:
    await redis.xadd(log_key(request_id), {"e": "begun"}, id="1-0")
    await redis.hset(rec_key(request_id), mapping={"attempt": 1, "token": OWNER})
    return publisher.open_writer(request_id, 1, OWNER, lambda: True)


async def log(redis: Redis, request_id: str, first: str = "-") -> list[tuple[str, bytes]]:
    return [(entry_id.decode(), fields[b"e"]) for entry_id, fields in await redis.xrange(log_key(request_id), first)]


async def test_everything_committed_is_pushed_in_order(redis: Redis, redis_url: str) -> None:
    async with listening_to(redis) as received, publishing(redis_url) as publisher:
        writers = [await begun(redis, publisher, f"r{number}") for number in range(20)]
        for turn in range(100):
            for writer in writers:
                writer.append_entry(b"entry %d \x00\xff\r\n" % turn)
            if turn % 9 == 0:
                await asyncio.sleep(0)
        await asyncio.gather(*(writer.flush() for writer in writers))
        for number in range(20):
            expected = await log(redis, f"r{number}", "1-1")
            assert len(expected) == 100
            await until(lambda number=number, expected=expected: received.entries(f"r{number}") == expected)
        # There is one message for each channel and commit, not one for each request.
        assert len(received.messages) <= publisher.commits * keys.PUSH_SHARDS


async def test_entries_of_a_fenced_attempt_are_not_pushed(redis: Redis, redis_url: str) -> None:
    async with listening_to(redis) as received, publishing(redis_url) as publisher:
        late, other = await begun(redis, publisher, "late"), await begun(redis, publisher, "other")
        await redis.xadd(log_key("late"), {"e": "begun"}, id="2-0")
        late.append_entry(b"too late")
        with pytest.raises(AttemptLost):
            await late.flush()
        other.append_entry(b"in time")
        await other.flush()
        await until(lambda: received.entries("other") == [("1-1", b"in time")])
        assert received.entries("late") == []


async def test_entries_refused_for_lack_of_memory_are_not_pushed() -> None:
    with EmbeddedValkey() as valkey:
        async with Redis.from_url(valkey.url) as redis, listening_to(redis) as received:
            async with publishing(valkey.url, patience_s=0.2) as publisher:
                writer = await begun(redis, publisher, "full")
                writer.append_entry(b"fits")
                await writer.flush()
                await redis.config_set("maxmemory", 1)
                writer.append_entry(b"does not fit")
                with pytest.raises(StoreFull):
                    await writer.flush()
                await until(lambda: received.entries("full") == [("1-1", b"fits")])


async def test_a_push_lost_with_its_connection_does_not_affect_the_writer(redis: Redis, redis_url: str) -> None:
    async with listening_to(redis), Proxy(redis_url) as proxy, publishing(proxy.url) as publisher:
        writer = await begun(redis, publisher, "a")
        proxy.lose_reply(b"PUBLISH")
        for number in range(50):
            writer.append_entry(b"%d" % number)
            await writer.flush()
        assert not proxy.fault_pending
        assert [entry for _, entry in await log(redis, "a", "1-1")] == [b"%d" % number for number in range(50)]


async def test_a_worker_that_may_not_push_still_writes(redis: Redis, redis_url: str) -> None:
    await redis.execute_command("ACL", "SETUSER", "mute", "on", ">pw", "~*", "+@all", "-publish", "resetchannels")
    async with listening_to(redis), publishing(redis_url.replace("redis://", "redis://mute:pw@")) as publisher:
        writer = await begun(redis, publisher, "a")
        for number in range(3):
            writer.append_entry(b"%d" % number)
            await writer.flush()
    assert len(await log(redis, "a", "1-1")) == 3
    await redis.execute_command("ACL", "DELUSER", "mute")


async def test_a_worker_that_may_not_ask_for_listeners_pushes_everything(redis: Redis, redis_url: str) -> None:
    await redis.execute_command("ACL", "SETUSER", "basic", "on", ">pw", "~*", "&*", "+@all", "-pubsub")
    async with (
        listening_to(redis) as received,
        publishing(redis_url.replace("redis://", "redis://basic:pw@")) as publisher,
    ):
        writer = await begun(redis, publisher, "a")
        writer.append_entry(b"said")
        await writer.flush()
        await until(lambda: received.entries("a") == [("1-1", b"said")])
    await redis.execute_command("ACL", "DELUSER", "basic")


async def test_nothing_is_pushed_to_a_channel_without_listeners(redis: Redis, redis_url: str) -> None:
    # Logs of two channels are written, and one of the channels has a listener.
    here = "a"
    there = next(name for name in "bcdefgh" if push_shard(name) != push_shard(here))
    await redis.config_resetstat()
    async with redis.pubsub() as pubsub, publishing(redis_url) as publisher:
        await pubsub.subscribe(push_channel(push_shard(here)))
        writers = [await begun(redis, publisher, name) for name in (here, there)]
        for turn in range(5):
            for writer in writers:
                writer.append_entry(b"%d" % turn)
            await asyncio.gather(*(writer.flush() for writer in writers))
        await until(lambda: _calls(redis, "publish", 5))
        for turn in range(5):
            writers[1].append_entry(b"%d" % turn)
            await writers[1].flush()
        assert await _calls(redis, "publish", 5)


async def _calls(redis: Redis, command: str, count: int) -> bool:
    """Whether the server has received a command so many times."""
    return (await redis.info("commandstats")).get(f"cmdstat_{command}", {"calls": 0})["calls"] == count


async def test_a_listener_that_joins_later_misses_nothing(redis: Redis, redis_url: str) -> None:
    # A listener subscribes at any moment and then reads the log: together they have every entry.
    async with publishing(redis_url) as publisher:
        writer = await begun(redis, publisher, "a")

        async def write() -> None:
            while True:
                writer.append_entry(b"%d" % writer.seq)
                await asyncio.sleep(0)

        writing = asyncio.create_task(write())
        for _ in range(20):
            async with listening_to(redis) as received:
                read = await log(redis, "a", "1-1")
                reached = writer.seq + 20
                await until(lambda received=received, reached=reached: _last(received) >= reached)
                pushed = received.entries("a")
            known = {entry_id for entry_id, _ in (*read, *pushed)}
            assert known == {f"1-{seq}" for seq in range(1, int(pushed[-1][0][2:]) + 1)}
        writing.cancel()


def _last(received: Received) -> int:
    return int(received.entries("a")[-1][0][2:]) if received.messages else 0


async def test_scripts_push_the_entries_they_write(redis: Redis, redis_url: str) -> None:
    # The ids have many forms, so that every channel is used. All entries are written by scripts.
    ids = [f"{letter}_{number}-{'x' * number}" for letter in "aZ" for number in range(1, 25)]
    async with listening_to(redis) as received, Client(redis_url) as client:
        for number, request_id in enumerate(ids):
            await client.submit(id=request_id, model="m", messages=HELLO)
            if number % 2:
                await client.cancel(request_id)
            else:
                await Scribe(redis, request_id, attempt=3).begin()
                scribe = Scribe(redis, request_id, attempt=300)
                await scribe.begin("lease_expired")
                await scribe.finish()
        # The first entry is not pushed, since nobody can wait for it.
        for request_id in ids:
            expected = (await log(redis, request_id))[1:]
            await until(lambda id=request_id, expected=expected: received.entries(id) == expected)
    assert {push_shard(request_id) for request_id in ids} == set(range(keys.PUSH_SHARDS))
