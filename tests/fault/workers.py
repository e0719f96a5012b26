"""`tailrace worker` as a process for the fault tests, and readers that are attached while things break."""

import asyncio
import os
import sys
from collections.abc import AsyncGenerator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from types import MappingProxyType

from tailrace.demo.simulator import Simulator
from tailrace.producers.client import Client
from tailrace.producers.options import ClientOptions
from tailrace.producers.tail.log_tail import Tailed
from tailrace.schemas.deltas import AttemptStarted, Gap
from tests.rig import KEY, shown

WAIT_S = 30.0
_TAILRACE = Path(sys.executable).with_name("tailrace")
_DEFAULTS = MappingProxyType({"TAILRACE_LEASE_S": "1.5", "TAILRACE_POLL_S": "0.2", "TAILRACE_DRAIN_S": "0"})


class WorkerProcess:
    """A worker; `said` is what it has logged so far."""

    def __init__(self, child: asyncio.subprocess.Process) -> None:
        self._child = child
        self._lines: list[str] = []
        self._reading = asyncio.create_task(self._read())

    @property
    def said(self) -> str:
        """Its log lines."""
        return "".join(self._lines)

    def memory_bytes(self) -> int:
        """What it keeps in memory, of its own. Source: proc(5), statm."""
        resident, shared = Path(f"/proc/{self._child.pid}/statm").read_text().split()[1:3]
        return (int(resident) - int(shared)) * os.sysconf("SC_PAGE_SIZE")

    async def ready(self) -> None:
        """Returns when it takes jobs."""
        assert self._child.stdout is not None
        async with asyncio.timeout(WAIT_S):
            line = await self._child.stdout.readline()
        assert line.startswith(b"ready: "), self.said

    def kill(self) -> None:
        """Ends it as a crash would."""
        self._child.kill()

    async def stop(self) -> None:
        """Ends it, by force if need be."""
        if self._child.returncode is None:
            self._child.terminate()
            try:
                async with asyncio.timeout(5):
                    await self._child.wait()
            except TimeoutError:
                self._child.kill()
                await self._child.wait()
        await self._reading

    async def _read(self) -> None:
        assert self._child.stderr is not None
        async for line in self._child.stderr:
            self._lines.append(line.decode())


@asynccontextmanager
async def worker_process(url: str, simulator: Simulator, **settings: str) -> AsyncGenerator[WorkerProcess]:
    """A worker that is ready.

    Args:
        url: where it finds Redis.
        simulator: the model's server.
        settings: TAILRACE_* variables.
    """
    environment = {
        "PATH": os.environ["PATH"],
        "OPENAI_API_KEY": KEY,
        "OPENAI_BASE_URL": simulator.url,
        "TAILRACE_REDIS_URL": url,
        **_DEFAULTS,
        **settings,
    }
    child = await asyncio.create_subprocess_exec(
        _TAILRACE, "worker", env=environment, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE
    )
    worker = WorkerProcess(child)
    try:
        await worker.ready()
        yield worker
    except BaseException as error:
        error.add_note(f"the worker said:\n{worker.said}")
        raise
    finally:
        await worker.stop()


def client_of(url: str) -> Client:
    """A client whose tails look around more often than by default."""
    return Client(url, ClientOptions(timeout_s=2.0, quiet_log_s=0.5, away_limit_s=WAIT_S))


class Attached:
    """A reader that follows a request from now on, whatever happens."""

    def __init__(self, client: Client, request_id: str, after: str | None = None) -> None:
        self.request_id = request_id
        self.items: list[Tailed] = []
        self._task = asyncio.create_task(self._read(client, request_id, after))

    async def _read(self, client: Client, request_id: str, after: str | None) -> None:
        async for item in client.tail(request_id, after=after):
            self.items.append(item)

    async def to_its_end(self) -> None:
        """Waits for the terminal; what the tail raises comes out here."""
        async with asyncio.timeout(WAIT_S):
            await self._task

    def has_read(self, count: int) -> Callable[[], bool]:
        """Whether it has read so many entries by now."""
        return lambda: len(self.items) >= count

    @property
    def text(self) -> str:
        """What the last attempt's deltas add up to."""
        return shown(self.items)[0]

    @property
    def attempts(self) -> list[int]:
        """Numbers of the attempts it saw begin."""
        return [item.entry.attempt for item in self.items if isinstance(item.entry, AttemptStarted)]

    @property
    def gaps(self) -> int:
        """How often it was told that entries are missing."""
        return sum(isinstance(item.entry, Gap) for item in self.items)
