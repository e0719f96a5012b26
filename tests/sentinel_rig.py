"""A primary, its replica and three Sentinels, all real, on the loopback."""

import subprocess
from collections.abc import AsyncGenerator, Generator
from contextlib import ExitStack, asynccontextmanager, contextmanager
from pathlib import Path

from redis.asyncio import Redis
from redis.exceptions import ConnectionError as NotThere

from tailrace.demo.valkey import EmbeddedValkey, server_binary
from tests.tls_rig import free_port
from tests.until import until

SERVICE = "mymaster"
START_S = 10.0
DOWN_MS = 500
"""How long a primary is silent before a Sentinel takes it for gone."""


class Guarded:
    """What a test talks to."""

    def __init__(self, primary: EmbeddedValkey, replica: EmbeddedValkey, sentinels: list[int]) -> None:
        self.primary = primary
        self.replica = replica
        self.sentinels = sentinels

    @property
    def url(self) -> str:
        """Names a Sentinel that is not there, and all that are."""
        hosts = ",".join(f"127.0.0.1:{port}" for port in (1, *self.sentinels))
        return f"redis+sentinel://{hosts}/{SERVICE}/0"


@asynccontextmanager
async def guarded(folder: Path) -> AsyncGenerator[Guarded]:
    """Runs them; the replica has what the primary has, and each Sentinel knows of the others and of the replica."""
    with ExitStack() as stack:
        primary = stack.enter_context(EmbeddedValkey())
        follows = {"replicaof": f"127.0.0.1 {primary.port}"}
        replica = stack.enter_context(EmbeddedValkey(options=follows))
        ports = [stack.enter_context(_sentinel(folder / f"sentinel-{number}", primary)) for number in range(3)]
        for port in ports:
            await until(lambda port=port: _knows_all(port), START_S)
        yield Guarded(primary, replica, ports)


@contextmanager
def _sentinel(folder: Path, primary: EmbeddedValkey) -> Generator[int]:
    folder.mkdir()
    port = free_port()
    settings = folder / "sentinel.conf"
    settings.write_text(
        f"port {port}\nbind 127.0.0.1\ndir {folder}\n"
        f"sentinel monitor {SERVICE} 127.0.0.1 {primary.port} 2\n"
        f"sentinel down-after-milliseconds {SERVICE} {DOWN_MS}\n"
        f"sentinel failover-timeout {SERVICE} 3000\n"
    )
    with (folder / "log").open("wb") as log:
        sentinel = subprocess.Popen(
            [server_binary(), settings, "--sentinel"], stdin=subprocess.DEVNULL, stdout=log, stderr=log
        )
    try:
        yield port
    finally:
        sentinel.terminate()
        sentinel.wait(5)


async def _knows_all(port: int) -> bool:
    """Whether a Sentinel knows the other two, and the replica, and that it follows."""
    async with Redis(port=port) as sentinel:
        try:
            seen = await sentinel.execute_command("SENTINEL MASTER", SERVICE)
            replicas = await sentinel.execute_command("SENTINEL SLAVES", SERVICE)
        except NotThere:
            return False
    return seen["num-other-sentinels"] == 2 and [one["master-link-status"] for one in replicas] == ["ok"]
