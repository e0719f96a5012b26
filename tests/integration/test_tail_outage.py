"""Tails over a network that fails: connections cut, replies lost, a server that restarts. Nothing lost or doubled."""

import asyncio
from collections.abc import AsyncIterator

import pytest
from redis.asyncio import Redis

from tailrace.demo.valkey import EmbeddedValkey
from tailrace.producers.client import Client
from tailrace.producers.options import ClientOptions
from tailrace.producers.tail.log_tail import Tailed
from tailrace.schemas.deltas import AssistantDelta, Completed
from tailrace.schemas.errors import StoreRefused, StoreUnavailable, UnknownRequest
from tests.proxy import Proxy
from tests.scribe import ANSWER, Scribe
from tests.until import until

ID = "one"
HELLO = [{"role": "user", "content": "hello"}]


@pytest.fixture
async def proxy(redis_url: str) -> AsyncIterator[Proxy]:
    async with Proxy(redis_url) as running:
        yield running


def through(proxy: Proxy, *, away_limit_s: float = 10.0) -> Client:
    return Client(proxy.url, ClientOptions(timeout_s=2.0, quiet_log_s=0.2, away_limit_s=away_limit_s))


class Reader:
    """A tail in a task, with what it has seen so far."""

    def __init__(self, client: Client, request_id: str = ID) -> None:
        self.seen: list[Tailed] = []
        self.task = asyncio.create_task(self._read(client, request_id))

    async def _read(self, client: Client, request_id: str) -> None:
        async for item in client.tail(request_id):
            self.seen.append(item)

    async def to_its_end(self) -> list[str | None]:
        async with asyncio.timeout(20):
            await self.task
        return [item.cursor for item in self.seen]


ALL = ["0-1", *(f"1-{seq}" for seq in range(len(ANSWER) + 2))]


async def test_cut_after_every_entry_it_loses_and_doubles_nothing(proxy: Proxy, redis: Redis) -> None:
    async with through(proxy) as client:
        await client.submit(id=ID, model="m", messages=HELLO)
        reader = Reader(client)
        scribe = Scribe(redis, ID)
        await scribe.begin()
        for entry in ANSWER:
            seen = len(reader.seen)
            await scribe.write([entry])
            await until(lambda seen=seen: len(reader.seen) > seen)
            proxy.cut()
        await scribe.finish()
        assert await reader.to_its_end() == ALL


@pytest.mark.parametrize("fault", ["lose_reply", "halve_request"])
async def test_a_lost_read_is_read_again(fault: str, proxy: Proxy, redis: Redis) -> None:
    async with through(proxy) as client:
        await client.submit(id=ID, model="m", messages=HELLO)
        getattr(proxy, fault)(b"XRANGE")
        reader = Reader(client)
        await until(lambda: not proxy.fault_pending)
        await Scribe(redis, ID).answer()
        assert await reader.to_its_end() == ALL


async def test_it_goes_on_after_redis_was_away(proxy: Proxy, redis: Redis) -> None:
    # given a tail in the middle / if Redis cannot be reached while the answer is written to its end
    async with through(proxy) as client:
        await client.submit(id=ID, model="m", messages=HELLO)
        reader = Reader(client)
        await until(lambda: len(reader.seen) == 1)
        before = proxy.connections
        proxy.refusing = True
        proxy.cut()
        await Scribe(redis, ID).answer()
        await asyncio.sleep(0.3)  # long enough for a few tries in vain
        proxy.refusing = False
        # expect the whole of it
        assert await reader.to_its_end() == ALL
        assert proxy.connections > before


async def test_a_server_that_only_stalls_is_waited_for(proxy: Proxy, redis: Redis) -> None:
    async with through(proxy) as client:
        await client.submit(id=ID, model="m", messages=HELLO)
        reader = Reader(client)
        await until(lambda: len(reader.seen) == 1)
        proxy.stall()
        await Scribe(redis, ID).answer()
        proxy.resume()
        assert await reader.to_its_end() == ALL


async def test_away_for_too_long_it_says_so_and_the_cursor_stays_good(proxy: Proxy, redis: Redis) -> None:
    async with through(proxy, away_limit_s=0.3) as client:
        await client.submit(id=ID, model="m", messages=HELLO)
        reader = Reader(client)
        await until(lambda: len(reader.seen) == 1)
        proxy.refusing = True
        proxy.cut()
        with pytest.raises(StoreUnavailable, match=r"for 0\.3 s"):
            await reader.to_its_end()
        proxy.refusing = False
        await Scribe(redis, ID).answer()
        rest = [item.cursor async for item in client.tail(ID, after=reader.seen[-1].cursor)]
        assert rest == ALL[1:]


async def test_many_short_absences_are_not_added_up(proxy: Proxy, redis: Redis) -> None:
    # given a limit of half a second / if Redis is away for less than that, often
    async with through(proxy, away_limit_s=0.5) as client:
        await client.submit(id=ID, model="m", messages=HELLO)
        reader = Reader(client)
        await until(lambda: len(reader.seen) == 1)
        scribe = Scribe(redis, ID)
        await scribe.begin()
        for entry in ANSWER:
            seen = len(reader.seen)
            proxy.refusing = True
            proxy.cut()
            await asyncio.sleep(0.1)
            proxy.refusing = False
            await scribe.write([entry])
            await until(lambda seen=seen: len(reader.seen) > seen)
        await scribe.finish()
        assert await reader.to_its_end() == ALL


async def test_many_tails_survive_cuts_at_random(proxy: Proxy, redis: Redis) -> None:
    async with through(proxy) as client:
        ids = [f"r{number}" for number in range(20)]
        for request_id in ids:
            await client.submit(id=request_id, model="m", messages=HELLO)
        readers = [Reader(client, request_id) for request_id in ids]
        await until(lambda: all(reader.seen for reader in readers))

        async def write(request_id: str) -> None:
            scribe = Scribe(redis, request_id)
            await scribe.begin()
            for number in range(60):
                await scribe.write([AssistantDelta(0, number, str(number))])
            await scribe.finish()

        async def cut() -> None:
            while True:
                await asyncio.sleep(0.01)
                proxy.cut()

        cutting = asyncio.create_task(cut())
        await asyncio.gather(*(write(request_id) for request_id in ids))
        cutting.cancel()
        for reader in readers:
            assert await reader.to_its_end() == ["0-1", *(f"1-{seq}" for seq in range(62))]
            assert isinstance(reader.seen[-1].entry, Completed)


async def test_a_restart_of_the_server_is_survived() -> None:
    with EmbeddedValkey(appendonly=True, options={"appendfsync": "always"}) as valkey:
        client = Client(valkey.url, ClientOptions(timeout_s=2.0, quiet_log_s=0.2, away_limit_s=20))
        async with client, Redis.from_url(valkey.url) as redis:
            await client.submit(id=ID, model="m", messages=HELLO)
            scribe = Scribe(redis, ID)
            await scribe.begin()
            await scribe.write(ANSWER[:4])
            reader = Reader(client)
            await until(lambda: len(reader.seen) == 6)
            await asyncio.to_thread(valkey.kill)
            await asyncio.to_thread(valkey.start)
            await scribe.write(ANSWER[4:])
            await scribe.finish()
            assert await reader.to_its_end() == ALL


async def test_a_restart_that_loses_all_data_is_an_error() -> None:
    with EmbeddedValkey() as valkey:
        client = Client(valkey.url, ClientOptions(timeout_s=2.0, quiet_log_s=0.2, away_limit_s=20))
        async with client:
            await client.submit(id=ID, model="m", messages=HELLO)
            reader = Reader(client)
            await until(lambda: len(reader.seen) == 1)
            await asyncio.to_thread(valkey.kill)
            await asyncio.to_thread(valkey.start)
            with pytest.raises(UnknownRequest, match="its lifetime is over"):
                await reader.to_its_end()


async def test_rights_taken_away_end_the_tail_at_once(redis_url: str, redis: Redis) -> None:
    await redis.execute_command("ACL", "SETUSER", "passing", "on", ">pw", "~*", "+@all")
    url = redis_url.replace("redis://", "redis://passing:pw@")
    async with Client(url, ClientOptions(timeout_s=2.0, quiet_log_s=0.2, away_limit_s=20)) as client:
        await client.submit(id=ID, model="m", messages=HELLO)
        reader = Reader(client)
        await until(lambda: len(reader.seen) == 1)
        await redis.execute_command("ACL", "DELUSER", "passing")
        with pytest.raises(StoreRefused):
            await reader.to_its_end()
