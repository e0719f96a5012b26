"""`tailrace` commands as processes that come and go, each in a place of its own, for tests that restart them."""

import asyncio
import signal
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Self

from tailrace.demo.parts import clean_environment
from tests.until import until

TAILRACE = Path(sys.executable).with_name("tailrace")
WAIT_S = 60.0  # a fleet that starts at once on a busy machine takes its time


class Place:
    """One command at a time; `async with` starts the first and ends the last.

    Args:
        arguments: of `tailrace`.
        environment: TAILRACE_* and what else it is to see.
        ready: how the line begins that it prints when it is ready.
        log: file for what it says on standard error.
        came: told the rest of that line, at each start.
    """

    def __init__(
        self,
        arguments: Sequence[str],
        environment: Mapping[str, str],
        ready: str,
        log: Path,
        came: Callable[[str], None] = lambda line: None,
    ) -> None:
        self._arguments = arguments
        self._environment = clean_environment(environment)
        self._ready = ready
        self._log = log
        self._came = came
        self._child: asyncio.subprocess.Process | None = None

    async def start(self) -> None:
        """Starts it, and again should it end before it was ready: without Redis none gets ready."""
        await until(self._start_one, WAIT_S)

    async def ends(self, by: signal.Signals) -> int:
        """Sends the signal; the exit code, once it has ended."""
        assert self._child is not None
        self._child.send_signal(by)
        async with asyncio.timeout(WAIT_S):
            return await self._child.wait()

    async def _start_one(self) -> bool:
        with self._log.open("ab") as log:
            self._child = await asyncio.create_subprocess_exec(
                *(TAILRACE, *self._arguments), env=self._environment, stdout=asyncio.subprocess.PIPE, stderr=log
            )
        assert self._child.stdout is not None
        async with asyncio.timeout(WAIT_S):
            line = (await self._child.stdout.readline()).decode()
        if not line.startswith(self._ready):
            await self._child.wait()
            return False
        self._came(line.removeprefix(self._ready).strip())
        return True

    async def __aenter__(self) -> Self:
        await self.start()
        return self

    async def __aexit__(self, *_: object) -> None:
        if self._child is not None and self._child.returncode is None:
            await self.ends(signal.SIGKILL)
