"""The real parts of a campaign: a Valkey, proxies in front of it, a simulator, worker processes.

Starts and ends them, and records how worker processes end. `faults.py` applies the faults.
"""

import asyncio
import json
import os
import signal
import sys
import time
from contextlib import AsyncExitStack, suppress
from pathlib import Path
from types import TracebackType
from typing import Any, Literal, Self
from urllib.request import urlopen

from tailrace.demo.parts import clean_environment
from tailrace.demo.valkey import EmbeddedValkey, ValkeyError
from tests.fault.campaign.history import Exit
from tests.fault.campaign.plan import Form
from tests.proxy import Proxy
from tests.until import until

READY_S = 120.0  # a whole fleet starts at once, on a busy machine
EXIT_S = 60.0
_WORKER = (sys.executable, "-m", "tailrace", "worker")
_SIMULATOR = (sys.executable, "-m", "tailrace.demo.simulator", "--port", "0", "--quiet")


class Worker:
    """One `tailrace worker` of the fleet, behind its own proxy; it can be ended and started again.

    Attributes:
        number: its number in the fleet.
        proxy: the proxy between it and Valkey.
        lock: held while a fault is applied to it.
        exits: how its processes ended.
    """

    def __init__(self, number: int, proxy: Proxy, folder: Path, environment: dict[str, str]) -> None:
        self.number = number
        self.proxy = proxy
        self.lock = asyncio.Lock()
        self.exits: list[Exit] = []
        self._log = folder / f"worker-{number}.log"
        self._environment = environment | {"TAILRACE_REDIS_URL": proxy.url}
        self._process: asyncio.subprocess.Process | None = None
        self._watch: asyncio.Task[None] | None = None
        self._asked: Literal["SIGKILL", "SIGTERM"] | None = None
        self._ready = False

    @property
    def pid(self) -> int:
        """The pid of the current process; 0 if there is none."""
        return self._process.pid if self._process is not None and self._process.returncode is None else 0

    async def start(self) -> None:
        """Starts a process; again if it ends before it is ready, as it does without Redis."""
        await until(self._start_one, READY_S)

    async def _start_one(self) -> bool:
        with self._log.open("ab") as log:
            mark = log.tell()
            self._asked, self._ready = None, False
            process = self._process = await asyncio.create_subprocess_exec(
                *_WORKER,
                stdin=asyncio.subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                env=self._environment,
                process_group=0,  # so that Ctrl-C reaches only the campaign, which ends its parts in order
            )
        self._watch = asyncio.create_task(self._record_exit(process))

        def is_ready_or_ended() -> bool:
            with self._log.open("rb") as log:
                log.seek(mark)
                self._ready = b"ready: pid" in log.read(1 << 16)
            return self._ready or process.returncode is not None

        await until(is_ready_or_ended, READY_S)
        return self._ready

    async def _record_exit(self, process: asyncio.subprocess.Process) -> None:
        code = await process.wait()
        self.exits.append(Exit(self.number, process.pid, code, self._asked, self._ready, time.time()))

    def signal(self, number: signal.Signals) -> None:
        """Sends a signal to the process, if it has not ended."""
        if number is signal.SIGKILL:
            self._asked = "SIGKILL"
        elif number is signal.SIGTERM:
            self._asked = "SIGTERM"
        with suppress(ProcessLookupError):
            if self._process is not None and self._process.returncode is None:
                self._process.send_signal(number)

    async def wait_for_exit(self) -> None:
        """Waits until the process has ended. Raises TimeoutError."""
        if self._watch is not None:
            async with asyncio.timeout(EXIT_S):
                await asyncio.shield(self._watch)


class Site:
    """All parts; `async with` starts and ends them.

    Args:
        form: settings of the campaign.
        folder: for logs and Valkey's data.
    """

    def __init__(self, form: Form, folder: Path) -> None:
        self.form = form
        self.folder = folder
        (folder / "valkey").mkdir()
        self.valkey = EmbeddedValkey(folder=folder / "valkey", appendonly=True, options={"appendfsync": form.fsync})
        self.server_lock = asyncio.Lock()
        self.workers: list[Worker] = []
        self.clients_proxy: Proxy
        self._simulator_root = ""
        self._stack = AsyncExitStack()

    async def __aenter__(self) -> Self:
        try:
            await self._start()
        except BaseException:
            await self._stack.aclose()
            raise
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await self._stack.aclose()

    async def _start(self) -> None:
        await asyncio.to_thread(self.valkey.start)
        self._stack.push_async_callback(asyncio.to_thread, self.valkey.close)
        self.clients_proxy = await self._stack.enter_async_context(Proxy(self.valkey.url))
        base_url = await self._start_simulator()
        environment = clean_environment(
            {
                "OPENAI_BASE_URL": base_url,
                "OPENAI_API_KEY": "simulated",
                **{f"TAILRACE_{name}": value for name, value in self.form.settings.items()},
            }
        )
        for number in range(self.form.workers):
            proxy = await self._stack.enter_async_context(Proxy(self.valkey.url))
            self.workers.append(Worker(number, proxy, self.folder, environment))
        self._stack.push_async_callback(self._kill_workers)
        await asyncio.gather(*(worker.start() for worker in self.workers))

    async def _start_simulator(self) -> str:
        process = await asyncio.create_subprocess_exec(
            *_SIMULATOR,
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.PIPE,
            env=clean_environment({}),
            process_group=0,
        )

        async def end() -> None:
            process.kill()
            await process.wait()

        self._stack.push_async_callback(end)
        assert process.stdout is not None
        async with asyncio.timeout(READY_S):
            url: str = json.loads(await process.stdout.readline())["url"]
        self._simulator_root = url.removesuffix("/v1")
        return url

    async def _kill_workers(self) -> None:
        for worker in self.workers:
            worker.signal(signal.SIGKILL)
        for worker in self.workers:
            await worker.wait_for_exit()

    async def ledger(self) -> dict[str, Any]:
        """Asks the simulator for its ledger of calls."""

        def ask() -> dict[str, Any]:
            with urlopen(f"{self._simulator_root}/__sim/requests", timeout=READY_S) as reply:  # noqa: S310 - the simulator, on the loopback
                return json.loads(reply.read())

        return await asyncio.to_thread(ask)

    async def repair(self) -> None:
        """Repairs the server, the proxies and every worker."""
        async with self.server_lock:
            if not self.server_runs:
                await asyncio.to_thread(self.valkey.start)
        for proxy in (self.clients_proxy, *(worker.proxy for worker in self.workers)):
            proxy.mend()
        for worker in self.workers:
            async with worker.lock:
                worker.signal(signal.SIGCONT)
                if not worker.pid:
                    await worker.start()

    @property
    def server_runs(self) -> bool:
        """Whether Valkey's process runs."""
        try:
            return self.valkey.pid > 0
        except ValkeyError:
            return False

    async def drain(self) -> list[int]:
        """Drains every worker; returns the pids of those that did not end."""
        for worker in self.workers:
            worker.signal(signal.SIGTERM)
        with suppress(TimeoutError):
            await until(lambda: not any(worker.pid for worker in self.workers), EXIT_S)
        return [worker.pid for worker in self.workers if worker.pid and _exists(worker.pid)]


def _exists(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True
