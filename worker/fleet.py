"""Several worker processes under one parent: starts them, forwards signals, replaces one that dies.

Knows nothing of what a worker does. Each child is a fresh interpreter; no process with an event loop is forked. The
parent holds the writing end of each child's stdin and never writes to it: end of file there means that the parent has
died. A child may send lines of metrics over a pipe of its own, which are given to a `MetricsReceiver`.
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
"""A child that ran for this long started properly: its death counts as a first one, and the backoff starts again."""

METRICS_PIPE = "--metrics-pipe"
"""The option of a child with the file descriptor of its pipe to the parent."""

PIPE_DRAIN_S = 1.0
"""How long the pipe of a child that has ended is still read."""

LINE_BYTES_MAX = 1024 * 1024
RESTART = Backoff(base_s=2.0, cap_s=30.0)
SIGNALS = (signal.SIGTERM, signal.SIGINT)

_logger = logging.getLogger("tailrace.worker")


class MetricsReceiver(Protocol):
    """Receives the lines that children send. A child and its replacement have the same place in the fleet."""

    def receive_line(self, place: int, line: bytes) -> None:
        """Called when a child has sent a line."""
        ...

    def process_ended(self, place: int) -> None:
        """Called when the child in this place has ended and its pipe has been read."""
        ...


class Fleet:
    """Worker processes of one parent.

    Args:
        command: the command line of a child.
        size: the number of children.
        receiver: receives what they send over their pipes; without one they get no pipe.

    Attributes:
        deaths: how many children have ended unexpectedly.
    """

    def __init__(self, command: Sequence[str], size: int, receiver: MetricsReceiver | None = None) -> None:
        self._command = command
        self._size = size
        self._receiver = receiver
        self.deaths = 0
        self._children: dict[int, asyncio.subprocess.Process] = {}
        self._stopping = asyncio.Event()

    async def run(self) -> None:
        """Runs the children until a signal has ended them all. A second one is forwarded too: it shortens drains."""
        loop = asyncio.get_running_loop()
        for number in SIGNALS:
            loop.add_signal_handler(number, self.stop, number)
        try:
            async with asyncio.TaskGroup() as tasks:
                for place in range(self._size):
                    tasks.create_task(self._keep_running(place))
        finally:
            for number in SIGNALS:
                loop.remove_signal_handler(number)

    def stop(self, number: int = signal.SIGTERM) -> None:
        """Forwards a signal to all children. No child is started after that."""
        self._stopping.set()
        for child in tuple(self._children.values()):
            child.send_signal(number)

    async def _keep_running(self, place: int) -> None:
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
        if self._receiver is None:
            return await self._run_child(self._command)
        read_end, write_end = os.pipe()
        reading = asyncio.create_task(_read_lines(self._receiver, place, read_end))
        try:
            return await self._run_child([*self._command, METRICS_PIPE, str(write_end)], write_end)
        finally:
            await asyncio.wait({reading}, timeout=PIPE_DRAIN_S)
            reading.cancel()
            await asyncio.wait({reading})
            self._receiver.process_ended(place)

    async def _run_child(self, command: Sequence[str], write_end: int | None = None) -> int:
        # In its own process group, so that Ctrl-C at a terminal reaches only the parent, which forwards it once.
        inherited = () if write_end is None else (write_end,)
        try:
            child = await asyncio.create_subprocess_exec(
                *command, stdin=asyncio.subprocess.PIPE, process_group=0, pass_fds=inherited
            )
        finally:
            for pipe in inherited:
                os.close(pipe)
        self._children[child.pid] = child
        if self._stopping.is_set():  # the signal arrived while the child started
            child.terminate()
        try:
            return await child.wait()
        finally:
            del self._children[child.pid]
            if child.returncode is None:
                child.kill()


async def _read_lines(receiver: MetricsReceiver, place: int, read_end: int) -> None:
    reader = asyncio.StreamReader(LINE_BYTES_MAX)
    with os.fdopen(read_end, "rb", buffering=0) as pipe:
        transport, _ = await asyncio.get_running_loop().connect_read_pipe(
            lambda: asyncio.StreamReaderProtocol(reader), pipe
        )
        try:
            async for line in reader:
                receiver.receive_line(place, line)
        finally:
            transport.close()


def child_command(arguments: Sequence[str]) -> list[str]:
    """The command line of one worker process. `-P` keeps the current folder out of the import path."""
    return [sys.executable, "-P", "-m", "tailrace.worker.cli", *arguments]


def when_the_parent_dies(call: Callable[[], None]) -> None:
    """Calls `call` once, from the running event loop, when stdin ends: the parent of a child holds the other end."""
    loop, stdin = asyncio.get_running_loop(), sys.stdin.fileno()

    def readable() -> None:
        if not os.read(stdin, 1):
            loop.remove_reader(stdin)
            _logger.error("the parent of this worker process has died", extra=fields("parent_process_died"))
            call()

    loop.add_reader(stdin, readable)
