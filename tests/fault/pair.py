"""A primary and its replica, and a failover that loses what was not replicated: real servers with proxies between."""

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
    """Two servers, and the one address that leads to the primary.

    Attributes:
        door: the proxy in front of the current primary.
        redis: a client of the first primary, without a proxy.
        heir: a client of the replica.
    """

    def __init__(self, primary: EmbeddedValkey, door: Proxy, link: Proxy, redis: Redis, heir: Redis, url: str) -> None:
        self._primary, self._link, self._heir_url = primary, link, url
        self.door, self.redis, self.heir = door, redis, heir

    async def in_step(self) -> None:
        """Waits until the replica has everything."""

        async def same() -> bool:
            sent, got = await self.redis.info("replication"), await self.heir.info("replication")
            return got["master_link_status"] == "up" and sent["master_repl_offset"] == got["slave_repl_offset"]

        await until(same)

    async def part(self) -> None:
        """Stops replication: what is written from now on is lost in the failover."""
        await self.in_step()
        self._link.stall()

    async def fail_over(self) -> None:
        """Kills the primary and promotes the replica; the door then leads to it."""
        self.door.refusing = True
        await asyncio.to_thread(self._primary.kill)
        await self.heir.execute_command("REPLICAOF", "NO", "ONE")
        self.door.cut()
        self.door.lead_to(self._heir_url)
        self.door.refusing = False


@asynccontextmanager
async def pair() -> AsyncGenerator[Pair]:
    """Starts a primary with a replica in step."""
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
