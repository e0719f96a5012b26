"""Many tails on few connections: their cost, what they share, how they end, and missing pushes."""

import asyncio
import gc
from collections.abc import AsyncIterator
from contextlib import aclosing
from functools import partial

import pytest
from redis.asyncio import Redis

from tailrace.broker.keys import PUSH, push_channel, push_shard
from tailrace.producers.client import Client
from tailrace.producers.options import ClientOptions
from tailrace.producers.store import ProducerStore
from tailrace.producers.tail import log_tail as tails
from tailrace.producers.tail.fanout.fanout import Fanout
from tailrace.producers.tail.fanout.live_log import BUFFER_ENTRIES
from tailrace.producers.tail.log_tail import Tailed
from tailrace.producers.tail.tail import Tail
from tailrace.schemas.deltas import AssistantDelta, Completed
from tailrace.schemas.errors import StoreError, StoreRefused
from tailrace.schemas.ids import BEGINNING
from tests.scribe import ANSWER, Scribe
from tests.until import until

ID = "one"
HELLO = [{"role": "user", "content": "hello"}]
ALL = ["0-1", *(f"1-{seq}" for seq in range(len(ANSWER) + 2))]


@pytest.fixture
async def producer(redis_url: str) -> AsyncIterator[Client]:
    """A client that submits; its connections are not those of tails."""
    async with Client(redis_url) as client:
        await client.submit(id=ID, model="m", messages=HELLO)
        yield client


@pytest.fixture
async def client(redis_url: str, producer: Client) -> AsyncIterator[Client]:
    """A client for tails. It is not entered, so that it has no connection but theirs; the server knows their name."""
    client = Client(f"{redis_url}?client_name=tails", ClientOptions(quiet_log_s=0.2))
    yield client
    await client.aclose()


async def connections(redis: Redis) -> int:
    return sum(entry["name"] == "tails" for entry in await redis.client_list())


async def heard_channels(redis: Redis) -> set[str]:
    return {name.decode() for name in await redis.execute_command("PUBSUB", "CHANNELS", f"{PUSH}*")}


async def hears(redis: Redis, *request_ids: str) -> None:
    """Waits until the channels of exactly these requests are subscribed."""

    async def so() -> bool:
        return await heard_channels(redis) == {push_channel(push_shard(request_id)) for request_id in request_ids}

    await until(so)


class Reader:
    """A tail in a task, with what it has seen so far."""

    def __init__(self, client: Client, request_id: str = ID, after: str | None = None) -> None:
        self.seen: list[Tailed] = []
        self.task = asyncio.create_task(self._read(client.tail(request_id, after)))

    async def _read(self, items: Tail) -> None:
        async with aclosing(items):
            async for item in items:
                self.seen.append(item)

    async def to_its_end(self) -> list[str | None]:
        async with asyncio.timeout(20):
            await self.task
        return [item.cursor for item in self.seen]


async def test_500_tails_have_three_connections(client: Client, producer: Client, redis: Redis) -> None:
    ids = [f"r{number}" for number in range(500)]
    for request_id in ids:
        await producer.submit(id=request_id, model="m", messages=HELLO)
    readers = [Reader(client, request_id) for request_id in ids]
    await until(lambda: all(reader.seen for reader in readers))
    assert await connections(redis) <= 3
    # also while all of them end, and while others wait for a result
    results = [asyncio.create_task(client.result(ID, wait_s=20)) for _ in range(3)]
    for request_id in (*ids, ID):
        await Scribe(redis, request_id).answer()
    for reader in readers:
        assert await reader.to_its_end() == ALL
    assert all(await asyncio.gather(*results))
    # the client's own methods read the outcomes, on connections besides those of tails
    assert await connections(redis) <= 3 + len(results)


async def test_tails_of_one_request_share_what_is_kept(redis_url: str, producer: Client, redis: Redis) -> None:
    store = ProducerStore(redis_url, timeout_s=5.0)
    fanout = Fanout(store)

    async def follow() -> list[str | None]:
        place = fanout.place(ID)
        opening = partial(tails.open_log, place, ID, BEGINNING)
        return [item.cursor async for item in tails.tail(place, ID, opening, tails.tailed, away_limit_s=5)]

    readers = [asyncio.create_task(follow()) for _ in range(50)]
    await hears(redis, ID)
    await until(lambda: fanout.requests == 1)
    await Scribe(redis, ID).answer()
    async with asyncio.timeout(20):
        assert await asyncio.gather(*readers) == [ALL] * 50
    assert fanout.requests == 0
    await fanout.close()
    await store.close()


async def reads_of_logs(redis: Redis) -> int:
    return (await redis.info("commandstats")).get("cmdstat_xrange", {}).get("calls", 0)


async def test_pushed_entries_are_not_read_from_the_log(client: Client, redis: Redis) -> None:
    readers = [Reader(client) for _ in range(3)]
    scribe = Scribe(redis, ID)
    await scribe.begin()
    await until(lambda: all(reader.seen and reader.seen[-1].cursor == "1-0" for reader in readers))
    await hears(redis, ID)
    before = 0
    for number in range(1, 31):
        if number == 11:  # by now all of them have joined the live part
            before = await reads_of_logs(redis)
        await scribe.write([AssistantDelta(1, number, "x")])
        await until(lambda number=number: all(reader.seen[-1].cursor == f"1-{number}" for reader in readers))
    assert await reads_of_logs(redis) == before
    await scribe.finish()
    assert [await reader.to_its_end() for reader in readers] == [["0-1", *(f"1-{n}" for n in range(32))]] * 3


async def test_only_channels_that_have_tails_are_subscribed(client: Client, producer: Client, redis: Redis) -> None:
    await producer.submit(id="two", model="m", messages=HELLO)
    assert push_shard("two") != push_shard(ID)
    one, two = Reader(client, ID), Reader(client, "two")
    await hears(redis, ID, "two")
    # if one of them ends, expect its channel to be left
    await Scribe(redis, "two").answer()
    assert await two.to_its_end() == ALL
    await hears(redis, ID)
    await Scribe(redis, ID).answer()
    assert await one.to_its_end() == ALL
    await hears(redis)


@pytest.mark.parametrize("leaving", ["aclose", "cancel", "garbage"])
async def test_a_tail_that_ends_early_is_unsubscribed(leaving: str, client: Client, redis: Redis) -> None:
    reader = Reader(client)
    await hears(redis, ID)
    items = client.tail(ID)
    assert (await anext(items)).cursor == "0-1"
    assert (await anext(Client.tail(client, ID))).cursor == "0-1"
    reader.task.cancel()
    match leaving:
        case "aclose":
            await items.aclose()
        case "cancel":
            waiting = asyncio.ensure_future(anext(items))
            await asyncio.sleep(0)
            waiting.cancel()
        case _:
            del items
    gc.collect()
    await hears(redis)


async def test_a_tail_that_is_never_read_subscribes_to_nothing(client: Client, redis: Redis) -> None:
    async with client.tail(ID):
        await asyncio.sleep(0)
        assert await heard_channels(redis) == set()


async def test_a_slow_reader_delays_nobody_and_misses_nothing(client: Client, redis: Redis) -> None:
    # given a reader that takes one item and then nothing, and one that takes all
    slow = client.tail(ID)
    assert (await anext(slow)).cursor == "0-1"
    fast = Reader(client)
    scribe = Scribe(redis, ID)
    await scribe.begin()
    slow_has = [(await anext(slow)).cursor]
    # if far more comes than is kept for anybody
    count = 3 * BUFFER_ENTRIES
    for number in range(count // 16):
        await scribe.write(AssistantDelta(0, 0, f"{number}/{piece} ") for piece in range(16))
    # expect the fast one to have it all while the slow one has not moved, and the slow one to go on where it was
    await until(lambda: len(fast.seen) == count + 2)
    await scribe.finish()
    whole = await fast.to_its_end()
    async with asyncio.timeout(20):
        slow_has += [item.cursor async for item in slow]
    assert ["0-1", *slow_has] == whole == ["0-1", *(f"1-{seq}" for seq in range(count + 2))]
    # falling behind is counted once, not for each page that it then reads
    assert client.following == (0, 0, 1)


async def test_a_push_that_is_missing_is_read_from_the_log(client: Client, redis: Redis) -> None:
    reader = Reader(client)
    await hears(redis, ID)
    scribe = Scribe(redis, ID)
    await scribe.begin()
    for number, entry in enumerate(ANSWER):
        await scribe.write([entry], pushed=number % 3 == 0)
    await scribe.finish()
    assert await reader.to_its_end() == ALL


async def test_the_last_push_may_be_missing_too(client: Client, redis: Redis) -> None:
    # given a reader that has heard the beginning / if the rest is never pushed, and nothing comes after it
    reader = Reader(client)
    await hears(redis, ID)
    scribe = Scribe(redis, ID)
    await scribe.begin()
    await scribe.write(ANSWER[:2])
    await until(lambda: len(reader.seen) == 4)
    await scribe.write(ANSWER[2:], pushed=False)
    # expect it within a few of the looks at quiet logs
    await until(lambda: len(reader.seen) == len(ANSWER) + 2)
    reader.task.cancel()


async def test_pushes_that_come_twice_late_or_in_disorder_are_seen_once(client: Client, redis: Redis) -> None:
    reader = Reader(client)
    await hears(redis, ID)
    scribe = Scribe(redis, ID)
    await scribe.begin()
    heard: list[bytes] = []
    async with redis.pubsub() as pubsub:
        await pubsub.subscribe(push_channel(push_shard(ID)))
        for entry in ANSWER:
            await scribe.write([entry])
            async with asyncio.timeout(10):
                while not (said := await pubsub.get_message(ignore_subscribe_messages=True, timeout=10)):
                    pass
            heard.append(said["data"])
            for again in reversed(heard):
                await redis.publish(push_channel(push_shard(ID)), again)
    await scribe.finish()
    assert await reader.to_its_end() == ALL


async def test_other_messages_on_a_channel_are_ignored(client: Client, redis: Redis) -> None:
    reader = Reader(client)
    await hears(redis, ID)
    for rubbish in (b"", b"hello", b"\x91\x94", b"\x91\x93\xa3one\x01\x02", b"\xc1"):
        await redis.publish(push_channel(push_shard(ID)), rubbish)
    await Scribe(redis, ID).answer()
    assert await reader.to_its_end() == ALL


async def test_a_missing_channel_permission_is_named(redis_url: str, producer: Client, redis: Redis) -> None:
    url = redis_url.replace("redis://", "redis://deaf:pw@")
    await redis.execute_command("ACL", "SETUSER", "deaf", "on", ">pw", "~*", "+@all", "resetchannels")
    async with Client(url, ClientOptions(quiet_log_s=0.2)) as client:
        with pytest.raises(StoreRefused, match=r"tr:push:\*"):
            await Reader(client).to_its_end()
        # if it gets the right, and nothing else
        await redis.execute_command("ACL", "SETUSER", "deaf", "&tr:push:*")
        await Scribe(redis, ID).answer()
        reader = Reader(client)
        assert await reader.to_its_end() == ALL
    await redis.execute_command("ACL", "DELUSER", "deaf")


async def test_closing_the_client_ends_its_tails_with_an_error(redis_url: str, producer: Client, redis: Redis) -> None:
    client = Client(redis_url)
    readers = [Reader(client) for _ in range(3)]
    await hears(redis, ID)
    await until(lambda: all(reader.seen for reader in readers))
    await client.aclose()
    for reader in readers:
        with pytest.raises(StoreError, match="the client is closed"):
            await reader.to_its_end()


async def test_a_tail_begun_at_any_moment_of_a_growing_log_gives_all_of_it(client: Client, redis: Redis) -> None:
    # given a log that is written entry by entry / if tails begin before and after each, from every cursor there is
    scribe = Scribe(redis, ID)
    readers: list[tuple[str, Reader]] = []
    await scribe.begin()
    cursors = ["0-1", "1-0"]
    for number in range(40):
        readers += [(cursor, Reader(client, after=cursor)) for cursor in cursors[number % 7 :: 7]]
        await scribe.write([AssistantDelta(0, 0, str(number))], pushed=number % 5 != 3)
        cursors.append(str(scribe.last))
    await scribe.finish()
    cursors.append("1-41")
    for cursor, reader in readers:
        assert await reader.to_its_end() == cursors[cursors.index(cursor) + 1 :]
        assert isinstance(reader.seen[-1].entry, Completed)
