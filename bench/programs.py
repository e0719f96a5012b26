"""The programs of a benchmark: starts them, reads their output, and ends them. Knows nothing of what they do.

Linux only: it reads the CPU clocks of other processes.
"""

import os
import signal
import subprocess
import sys
import tempfile
from collections import deque
from collections.abc import Mapping, Sequence
from selectors import EVENT_READ, DefaultSelector
from time import clock_gettime, monotonic
from types import TracebackType
from typing import NamedTuple, Self

from bench.figures import BenchError

READY_S = 20.0
STOP_S = 5.0
_READ_BYTES = 65_536


def cpu_s(pid: int) -> float:
    """CPU seconds, user and system, that a running process has used.

    Source: clock_getcpuclockid(3). Python has no such call; the number is the id of that clock on Linux.
    """
    return clock_gettime(~pid << 3 | 2)


class Program:
    """A Python program in a process of its own.

    Args:
        name: for messages.
        arguments: of the interpreter.
        environment: its environment variables.
    """

    def __init__(self, name: str, arguments: Sequence[str], environment: Mapping[str, str]) -> None:
        self.name = name
        self.errors = tempfile.TemporaryFile()
        # Its own process group: Ctrl-C at a terminal is for the benchmark, which ends its programs in order.
        self.popen = subprocess.Popen(  # noqa: S603 -- our own programs, with arguments made here
            [sys.executable, *arguments],
            env=dict(environment),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self.errors,
            process_group=0,
            bufsize=0,
        )
        self._begun = b""

    def fileno(self) -> int:
        """Its standard output, for a selector."""
        assert self.popen.stdout is not None  # noqa: S101 -- it is a pipe
        return self.popen.stdout.fileno()

    def read_lines(self) -> list[str]:
        """The complete lines of its output; waits until there is any output.

        Raises:
            BenchError: it has ended.
        """
        data = os.read(self.fileno(), _READ_BYTES)
        if not data:
            raise BenchError(f"{self.name} ended unexpectedly; its last output: {self.error_tail()}")
        *lines, self._begun = (self._begun + data).split(b"\n")
        return [line.decode() for line in lines]

    def send_line(self, line: str) -> None:
        """Writes a line to its standard input.

        Raises:
            BenchError: it has ended.
        """
        assert self.popen.stdin is not None  # noqa: S101 -- it is a pipe
        try:
            self.popen.stdin.write(f"{line}\n".encode())
        except BrokenPipeError as error:
            raise BenchError(f"{self.name} ended unexpectedly; its last output: {self.error_tail()}") from error

    def error_tail(self) -> str:
        """The last lines of its standard error."""
        self.errors.seek(0)
        return " / ".join(self.errors.read().decode(errors="replace").splitlines()[-3:]) or "nothing"

    def kill(self) -> None:
        """Sends SIGKILL and waits for the end of the process."""
        self.popen.kill()
        self._wait()

    def stop(self) -> None:
        """Sends SIGTERM, and SIGKILL if it does not end in time."""
        self.popen.send_signal(signal.SIGTERM)
        try:
            self.popen.wait(STOP_S)
        except subprocess.TimeoutExpired:
            self.popen.kill()
        self._wait()

    def _wait(self) -> None:
        self.popen.wait()
        for pipe in (self.popen.stdin, self.popen.stdout, self.errors):
            if pipe is not None:
                pipe.close()


class OutputLine(NamedTuple):
    """A line of output, and the program that printed it."""

    program: Program
    line: str


class Fleet:
    """Several programs whose output is read together; a context manager that kills those still running."""

    def __init__(self) -> None:
        self.programs: list[Program] = []
        self._selector = DefaultSelector()
        self._unread: deque[OutputLine] = deque()

    def start(self, name: str, arguments: Sequence[str], environment: Mapping[str, str]) -> Program:
        """Starts one more program."""
        program = Program(name, arguments, environment)
        self.programs.append(program)
        self._selector.register(program, EVENT_READ, program)
        return program

    def kill(self, program: Program) -> None:
        """Kills one of them."""
        self._selector.unregister(program)
        self.programs.remove(program)
        program.kill()

    def wait_for_lines(self, count: int, within_s: float, what: str) -> list[OutputLine]:
        """The next `count` lines of output of all programs.

        Raises:
            BenchError: they did not arrive in time.
        """
        lines = self.read_within(count, within_s)
        if len(lines) < count:
            raise BenchError(f"only {len(lines)} of {count} {what} within {within_s:g} s")
        return lines

    def read_within(self, count: int, within_s: float) -> list[OutputLine]:
        """The lines of output that arrive within a time, at most `count` of them."""
        deadline = monotonic() + within_s
        while len(self._unread) < count and (left_s := deadline - monotonic()) > 0:
            for key, _ in self._selector.select(left_s):
                program: Program = key.data
                self._unread.extend(OutputLine(program, line) for line in program.read_lines())
        return [self._unread.popleft() for _ in range(min(count, len(self._unread)))]

    def close(self) -> None:
        """Kills those still running."""
        for program in self.programs:
            program.kill()
        self.programs.clear()
        self._selector.close()

    def cpu_s(self) -> float:
        """CPU seconds of all running programs."""
        return sum(cpu_s(program.popen.pid) for program in self.programs)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()
