"""`tailrace` commands as processes that tests stop and restart."""

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
    """One command, which can be ended and started again; `async with` starts it and kills it at the end.

    Args:
        arguments: of `tailrace`.
        environment: its environment, TAILRACE_* included.
        ready: the beginning of the line that it prints when it is ready.
        log: file for its standard error.
        came: called at each start with the rest of that line.
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
        """Starts the command; again if it ends before it is ready, as it does without Redis."""
        await until(self._start_one, WAIT_S)

    async def ends(self, by: signal.Signals) -> int:
        """Sends the signal and waits for the end; returns the exit code."""
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
