"""Many tails while connections are cut, pushes are lost and attempts change: each reads the log once, in order."""

import asyncio
import random
from collections.abc import Callable, Sequence
from contextlib import aclosing, suppress
from typing import Any

import pytest
from redis.asyncio import Redis
from redis.asyncio.connection import AbstractConnection

from tailrace.broker.keys import log_key
from tailrace.producers.client import Client
from tailrace.producers.options import ClientOptions
from tailrace.producers.tail.fanout.push_wire import PushWire
from tailrace.producers.tail.log_tail import Tailed
from tailrace.schemas.deltas import AssistantDelta, Completed
from tailrace.schemas.errors import StoreUnavailable
from tests.proxy import Proxy
from tests.scribe import Scribe
from tests.until import until

HELLO = [{"role": "user", "content": "hello"}]
REQUESTS = 30
ENTRIES = 120


class RestlessReader:
    """A reader that disconnects at random and resumes after its cursor, and that is sometimes slow."""

    def __init__(self, client: Client, request_id: str, chance: random.Random) -> None:
        self.seen: list[Tailed] = []
        self._client, self._id, self._chance = client, request_id, chance
        self.task = asyncio.create_task(self._read())

    async def _read(self) -> None:
        while not (self.seen and isinstance(self.seen[-1].entry, Completed)):
            with suppress(StoreUnavailable):  # a tail fails at once if Redis is unreachable when it opens
                await self._read_some(self._chance.choice((1, 3, 20, 10_000)))

    async def _read_some(self, count: int) -> None:
        async with aclosing(self._client.tail(self._id, self.seen[-1].cursor if self.seen else None)) as items:
            async for item in items:
                self.seen.append(item)
                if self._chance.random() < 0.02:
                    await asyncio.sleep(self._chance.uniform(0, 0.05))
                count -= 1
                if count == 0:
                    break


async def write(redis: Redis, request_id: str, chance: random.Random) -> None:
    """Writes attempts that are abandoned halfway, then a complete one; some pushes are never sent."""
    for attempt in range(1, chance.randrange(2, 5)):
        lost = Scribe(redis, request_id, attempt)
        await lost.begin("lease_expired")
        for number in range(chance.randrange(20)):
            await lost.write([AssistantDelta(0, number, "discarded")], pushed=chance.random() > 0.2)
    scribe = Scribe(redis, request_id, 9)
    await scribe.begin("lease_expired")
    for number in range(ENTRIES):
        await scribe.write([AssistantDelta(0, number, str(number))], pushed=chance.random() > 0.1)
        if chance.random() < 0.3:
            await asyncio.sleep(chance.uniform(0, 0.02))
    await scribe.finish()


@pytest.mark.parametrize("seed", [1, 2, 3])
async def test_every_reader_gets_the_whole_log(seed: int, redis_url: str, redis: Redis) -> None:
    chance = random.Random(seed)  # noqa: S311 - a seeded choice of faults, not a secret
    async with (
        Proxy(redis_url) as proxy,
        Client(proxy.url, ClientOptions(timeout_s=2.0, quiet_log_s=0.4, away_limit_s=20)) as client,
    ):
        ids = [f"r{number}" for number in range(REQUESTS)]
        async with Client(redis_url) as producer:
            for request_id in ids:
                await producer.submit(id=request_id, model="m", messages=HELLO)
        readers = {request_id: [RestlessReader(client, request_id, chance) for _ in range(3)] for request_id in ids}

        async def cause_faults() -> None:
            while True:
                await asyncio.sleep(chance.uniform(0.01, 0.1))
                match chance.randrange(4):
                    case 0:
                        proxy.cut()
                    case 1:
                        proxy.refusing = True
                        proxy.cut()
                        await asyncio.sleep(chance.uniform(0, 0.1))
                        proxy.refusing = False
                    case 2:
                        proxy.delay_s = chance.choice((0.0, 0.005))
                    case _:
                        await redis.client_kill_filter(_type="pubsub")

        faults = asyncio.create_task(cause_faults())
        await asyncio.gather(*(write(redis, request_id, chance) for request_id in ids))
        await asyncio.sleep(0.3)
        faults.cancel()
        proxy.mend()
        everyone = [reader.task for several in readers.values() for reader in several]
        async with asyncio.timeout(30):
            await asyncio.gather(*everyone)
        for request_id, several in readers.items():
            whole = [(i.decode(), fields[b"e"]) for i, fields in await redis.xrange(log_key(request_id))]
            for reader in several:
                assert [(item.cursor, item.raw) for item in reader.seen] == whole

        async def no_channel_is_left() -> bool:
            return not await redis.execute_command("PUBSUB", "CHANNELS", "tr:push:*")

        await until(no_channel_is_left)


async def test_pushes_continue_after_the_subscriber_was_disconnected(redis_url: str, redis: Redis) -> None:
    """Quiet logs are checked too rarely to help here, so the entries after each loss must arrive by push."""
    async with Client(redis_url, ClientOptions(timeout_s=2.0, quiet_log_s=600.0)) as client:
        await client.submit(id="one", model="m", messages=HELLO)
        reader = asyncio.create_task(_all(client))
        scribe = Scribe(redis, "one")
        await scribe.begin()
        for number in range(20):
            await scribe.write([AssistantDelta(0, number, str(number))])
            await redis.client_kill_filter(_type="pubsub")
        await scribe.finish()
        async with asyncio.timeout(20):
            assert await reader == ["0-1", *(f"1-{seq}" for seq in range(22))]


async def test_pushes_continue_after_a_subscriber_was_lost_right_after_connecting(
    redis_url: str, redis: Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The loss is noticed even though it happens before anything listens for it."""
    open_wire, lost = PushWire.open, list[AbstractConnection]()

    async def open_and_lose_the_first(
        connection: AbstractConnection, receive: Callable[[Sequence[Any]], None]
    ) -> PushWire:
        connect = connection.connect

        async def connect_and_lose() -> None:
            await connect()
            assert connection._writer is not None
            connection._writer.transport.abort()
            await asyncio.sleep(0.01)
            lost.append(connection)

        if not lost:
            monkeypatch.setattr(connection, "connect", connect_and_lose)
        return await open_wire(connection, receive)

    monkeypatch.setattr(PushWire, "open", open_and_lose_the_first)
    async with Client(redis_url, ClientOptions(timeout_s=2.0, quiet_log_s=600.0, stalled_after_s=600.0)) as client:
        await client.submit(id="one", model="m", messages=HELLO)
        reader = asyncio.create_task(_all(client))
        await until(lambda: bool(lost))
        scribe = Scribe(redis, "one")
        await scribe.begin()
        for number in range(20):
            await scribe.write([AssistantDelta(0, number, str(number))])
            await asyncio.sleep(0.01)
        await scribe.finish()
        async with asyncio.timeout(20):
            assert await reader == ["0-1", *(f"1-{seq}" for seq in range(22))]


async def _all(client: Client) -> list[str | None]:
    return [item.cursor async for item in client.tail("one")]
