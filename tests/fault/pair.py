"""A primary and its replica, and a failover that loses what the replica had not got: real servers, proxies between."""

import asyncio
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from urllib.parse import urlsplit

from redis.asyncio import Redis

from tailrace.demo.valkey import EmbeddedValkey
from tests.proxy import Proxy
from tests.until import until

_OPTIONS = {"repl-diskless-sync-delay": "0", "repl-timeout": "60"}


class Pair:
    """Two servers, and the one address at which the primary is found.

    Attributes:
        door: leads to whoever is the primary.
        redis: a client of the first primary, that no fault reaches.
        heir: a client of the replica.
    """

    def __init__(self, primary: EmbeddedValkey, door: Proxy, link: Proxy, redis: Redis, heir: Redis, url: str) -> None:
        self._primary, self._link, self._heir_url = primary, link, url
        self.door, self.redis, self.heir = door, redis, heir

    async def in_step(self) -> None:
        """Waits until the replica has all there is."""

        async def same() -> bool:
            sent, got = await self.redis.info("replication"), await self.heir.info("replication")
            return got["master_link_status"] == "up" and sent["master_repl_offset"] == got["slave_repl_offset"]

        await until(same)

    async def part(self) -> None:
        """The replica gets nothing more: what is written from now on will be lost."""
        await self.in_step()
        self._link.stall()

    async def fail_over(self) -> None:
        """The primary dies, the replica takes its place, whoever comes through the door finds it there."""
        self.door.refusing = True
        await asyncio.to_thread(self._primary.kill)
        await self.heir.execute_command("REPLICAOF", "NO", "ONE")
        self.door.cut()
        self.door.lead_to(self._heir_url)
        self.door.refusing = False


@asynccontextmanager
async def pair() -> AsyncGenerator[Pair]:
    """A primary and a replica in step."""
    with EmbeddedValkey(options=_OPTIONS) as primary, EmbeddedValkey(options=_OPTIONS) as replica:
        async with (
            Proxy(primary.url) as door,
            Proxy(primary.url) as link,
            Redis.from_url(primary.url) as redis,
            Redis.from_url(replica.url) as heir,
        ):
            await heir.execute_command("REPLICAOF", "127.0.0.1", str(urlsplit(link.url).port))
            both = Pair(primary, door, link, redis, heir, replica.url)
            await both.in_step()
            yield both
