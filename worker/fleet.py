"""Several worker processes under one parent: starts them, passes signals on, replaces one that dies.

Knows nothing of what a worker does. Each child is a fresh interpreter: nothing is forked that has an event loop.
The parent holds the other end of each child's stdin and never writes: when it ends there, the parent has died, however.
"""

import asyncio
import logging
import os
import signal
import sys
from collections.abc import Callable, Sequence
from time import monotonic

from worker.retry import Backoff

STABLE_S = 30.0
"""A child that ran for so long had started well: its death counts as the first again."""

RESTART = Backoff(base_s=2.0, cap_s=30.0)
SIGNALS = (signal.SIGTERM, signal.SIGINT)

_logger = logging.getLogger("tailrace.worker")


class Fleet:
    """Worker processes of one parent.

    Args:
        command: what a child runs.
        size: how many children.
    """

    def __init__(self, command: Sequence[str], size: int) -> None:
        self._command = command
        self._size = size
        self._children: dict[int, asyncio.subprocess.Process] = {}
        self._stopping = asyncio.Event()

    async def run(self) -> None:
        """Runs the children until a signal has ended them all. A signal repeated is passed on too: it hurries them."""
        loop = asyncio.get_running_loop()
        for number in SIGNALS:
            loop.add_signal_handler(number, self.stop, number)
        try:
            async with asyncio.TaskGroup() as tasks:
                for _ in range(self._size):
                    tasks.create_task(self._keep_one())
        finally:
            for number in SIGNALS:
                loop.remove_signal_handler(number)

    def stop(self, number: int = signal.SIGTERM) -> None:
        """Passes a signal on; no child is started any more."""
        self._stopping.set()
        for child in tuple(self._children.values()):
            child.send_signal(number)

    async def _keep_one(self) -> None:
        deaths = 0
        while not self._stopping.is_set():
            started = monotonic()
            code = await self._run_one()
            if self._stopping.is_set():
                return
            deaths = 1 if monotonic() - started > STABLE_S else deaths + 1
            pause_s = RESTART.pause_s(deaths)
            _logger.error("a worker process ended unexpectedly (exit %s); another starts in %.1f s", code, pause_s)
            try:
                async with asyncio.timeout(pause_s):
                    await self._stopping.wait()
            except TimeoutError:
                continue

    async def _run_one(self) -> int:
        # In a process group of its own: Ctrl-C at a terminal is for the parent, which passes it on once.
        child = await asyncio.create_subprocess_exec(*self._command, stdin=asyncio.subprocess.PIPE, process_group=0)
        self._children[child.pid] = child
        if self._stopping.is_set():  # the signal came while it started
            child.terminate()
        try:
            return await child.wait()
        finally:
            del self._children[child.pid]
            if child.returncode is None:
                child.kill()


def child_command(arguments: Sequence[str]) -> list[str]:
    """This program as one worker process. `-P`: a folder that happens to be the current one has no say in imports."""
    return [sys.executable, "-P", "-m", "worker.cli", *arguments]


def when_the_parent_dies(call: Callable[[], None]) -> None:
    """Calls `call` once, from the running event loop; for a child of a fleet, whose stdin its parent holds."""
    loop, stdin = asyncio.get_running_loop(), sys.stdin.fileno()

    def readable() -> None:
        if not os.read(stdin, 1):
            loop.remove_reader(stdin)
            _logger.error("the parent of this worker process has died")
            call()

    loop.add_reader(stdin, readable)
