"""Several worker processes under one parent: starts them, passes signals on, replaces one that dies.

Knows nothing of what a worker does. Each child is a fresh interpreter: nothing is forked that has an event loop.
The parent holds the other end of each child's stdin and never writes: when it ends there, the parent has died, however.
A child may speak to the parent, line by line, on a pipe of its own; what it says is handed on.
"""

import asyncio
import logging
import os
import signal
import sys
from collections.abc import Callable, Sequence
from time import monotonic
from typing import Protocol

from tailrace.broker.backoff import Backoff
from tailrace.telemetry.logging import fields

STABLE_S = 30.0
"""A child that ran for so long had started well: its death counts as the first again."""

VOICE = "--voice"
"""The option by which a child is told the file descriptor of its pipe to the parent."""

LAST_WORDS_S = 1.0
"""So long what a child has said is still read after its end."""

LINE_BYTES_MAX = 1024 * 1024
RESTART = Backoff(base_s=2.0, cap_s=30.0)
SIGNALS = (signal.SIGTERM, signal.SIGINT)

_logger = logging.getLogger("tailrace.worker")


class Hearer(Protocol):
    """Who is told what children say. A child is known by its place in the fleet, as is the one that replaces it."""

    def hear(self, place: int, line: bytes) -> None:
        """A child has said a line."""
        ...

    def ended(self, place: int) -> None:
        """The child in this place is no more."""
        ...


class Fleet:
    """Worker processes of one parent.

    Args:
        command: what a child runs.
        size: how many children.
        hearer: told what they say, if they are to say anything.

    Attributes:
        deaths: how many have ended unexpectedly.
    """

    def __init__(self, command: Sequence[str], size: int, hearer: Hearer | None = None) -> None:
        self._command = command
        self._size = size
        self._hearer = hearer
        self.deaths = 0
        self._children: dict[int, asyncio.subprocess.Process] = {}
        self._stopping = asyncio.Event()

    async def run(self) -> None:
        """Runs the children until a signal has ended them all. A signal repeated is passed on too: it hurries them."""
        loop = asyncio.get_running_loop()
        for number in SIGNALS:
            loop.add_signal_handler(number, self.stop, number)
        try:
            async with asyncio.TaskGroup() as tasks:
                for place in range(self._size):
                    tasks.create_task(self._keep_one(place))
        finally:
            for number in SIGNALS:
                loop.remove_signal_handler(number)

    def stop(self, number: int = signal.SIGTERM) -> None:
        """Passes a signal on; no child is started any more."""
        self._stopping.set()
        for child in tuple(self._children.values()):
            child.send_signal(number)

    async def _keep_one(self, place: int) -> None:
        deaths = 0
        while not self._stopping.is_set():
            started = monotonic()
            code = await self._run_one(place)
            if self._stopping.is_set():
                return
            self.deaths += 1
            deaths = 1 if monotonic() - started > STABLE_S else deaths + 1
            pause_s = RESTART.pause_s(deaths)
            _logger.error(
                "a worker process ended unexpectedly (exit %s); another starts in %.1f s",
                code,
                pause_s,
                extra=fields("worker_process_died", exit_code=code, restart_in_s=round(pause_s, 1)),
            )
            try:
                async with asyncio.timeout(pause_s):
                    await self._stopping.wait()
            except TimeoutError:
                continue

    async def _run_one(self, place: int) -> int:
        if self._hearer is None:
            return await self._run_child(self._command)
        listening, speaking = os.pipe()
        hearing = asyncio.create_task(self._hear(self._hearer, place, listening))
        try:
            return await self._run_child([*self._command, VOICE, str(speaking)], speaking)
        finally:
            await asyncio.wait({hearing}, timeout=LAST_WORDS_S)
            hearing.cancel()
            await asyncio.wait({hearing})
            self._hearer.ended(place)

    async def _run_child(self, command: Sequence[str], speaking: int | None = None) -> int:
        # In a process group of its own: Ctrl-C at a terminal is for the parent, which passes it on once.
        passed = () if speaking is None else (speaking,)
        try:
            child = await asyncio.create_subprocess_exec(
                *command, stdin=asyncio.subprocess.PIPE, process_group=0, pass_fds=passed
            )
        finally:
            for pipe in passed:
                os.close(pipe)
        self._children[child.pid] = child
        if self._stopping.is_set():  # the signal came while it started
            child.terminate()
        try:
            return await child.wait()
        finally:
            del self._children[child.pid]
            if child.returncode is None:
                child.kill()

    async def _hear(self, hearer: Hearer, place: int, listening: int) -> None:
        reader = asyncio.StreamReader(LINE_BYTES_MAX)
        with os.fdopen(listening, "rb", buffering=0) as pipe:
            transport, _ = await asyncio.get_running_loop().connect_read_pipe(
                lambda: asyncio.StreamReaderProtocol(reader), pipe
            )
            try:
                async for line in reader:
                    hearer.hear(place, line)
            finally:
                transport.close()


def child_command(arguments: Sequence[str]) -> list[str]:
    """This program as one worker process. `-P`: a folder that happens to be the current one has no say in imports."""
    return [sys.executable, "-P", "-m", "tailrace.worker.cli", *arguments]


def when_the_parent_dies(call: Callable[[], None]) -> None:
    """Calls `call` once, from the running event loop; for a child of a fleet, whose stdin its parent holds."""
    loop, stdin = asyncio.get_running_loop(), sys.stdin.fileno()

    def readable() -> None:
        if not os.read(stdin, 1):
            loop.remove_reader(stdin)
            _logger.error("the parent of this worker process has died", extra=fields("parent_process_died"))
            call()

    loop.add_reader(stdin, readable)
