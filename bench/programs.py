"""Programs under measurement: started, listened to, and ended. Knows nothing of what they do.

Linux only: there a process's CPU clock can be read from outside.
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

    Source: clock_getcpuclockid(3); the number is how Linux spells that clock's id, which Python has no call for.
    """
    return clock_gettime(~pid << 3 | 2)


class Program:
    """A Python program of ours as a process of its own.

    Args:
        name: for messages.
        arguments: of the interpreter.
        environment: what it sees.
    """

    def __init__(self, name: str, arguments: Sequence[str], environment: Mapping[str, str]) -> None:
        self.name = name
        self.complaints = tempfile.TemporaryFile()
        # In a process group of its own: Ctrl-C at a terminal is for the benchmark, which ends its programs in order.
        self.popen = subprocess.Popen(  # noqa: S603 -- our own programs, with arguments made here
            [sys.executable, *arguments],
            env=dict(environment),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self.complaints,
            process_group=0,
            bufsize=0,
        )
        self._begun = b""

    def fileno(self) -> int:
        """Its standard output, for a selector."""
        assert self.popen.stdout is not None  # noqa: S101 -- it is a pipe
        return self.popen.stdout.fileno()

    def read_lines(self) -> list[str]:
        """The whole lines among what it has said; waits until it has said anything.

        Raises:
            BenchError: it has ended.
        """
        said = os.read(self.fileno(), _READ_BYTES)
        if not said:
            raise BenchError(f"{self.name} ended by itself; last it said: {self.last_words()}")
        *lines, self._begun = (self._begun + said).split(b"\n")
        return [line.decode() for line in lines]

    def say(self, line: str) -> None:
        """Sends it a line on its standard input.

        Raises:
            BenchError: it has ended.
        """
        assert self.popen.stdin is not None  # noqa: S101 -- it is a pipe
        try:
            self.popen.stdin.write(f"{line}\n".encode())
        except BrokenPipeError as error:
            raise BenchError(f"{self.name} ended by itself; last it said: {self.last_words()}") from error

    def last_words(self) -> str:
        """The end of what it has said on standard error."""
        self.complaints.seek(0)
        return " / ".join(self.complaints.read().decode(errors="replace").splitlines()[-3:]) or "nothing"

    def kill(self) -> None:
        """SIGKILL, as if its machine were gone; returns when it is."""
        self.popen.kill()
        self._wait()

    def stop(self) -> None:
        """SIGTERM, and SIGKILL if it does not end in time."""
        self.popen.send_signal(signal.SIGTERM)
        try:
            self.popen.wait(STOP_S)
        except subprocess.TimeoutExpired:
            self.popen.kill()
        self._wait()

    def _wait(self) -> None:
        self.popen.wait()
        for pipe in (self.popen.stdin, self.popen.stdout, self.complaints):
            if pipe is not None:
                pipe.close()


class Said(NamedTuple):
    """A line, and who said it."""

    program: Program
    line: str


class Fleet:
    """Several programs that are listened to together; a context manager that kills what is left of them."""

    def __init__(self) -> None:
        self.programs: list[Program] = []
        self._selector = DefaultSelector()
        self._unheard: deque[Said] = deque()

    def start(self, name: str, arguments: Sequence[str], environment: Mapping[str, str]) -> Program:
        """Starts one more program."""
        program = Program(name, arguments, environment)
        self.programs.append(program)
        self._selector.register(program, EVENT_READ, program)
        return program

    def kill(self, program: Program) -> None:
        """Ends one of them at once."""
        self._selector.unregister(program)
        self.programs.remove(program)
        program.kill()

    def hear(self, count: int, within_s: float, what: str) -> list[Said]:
        """The next `count` lines that any of them says.

        Raises:
            BenchError: they did not come in time.
        """
        heard = self.hear_until(count, within_s)
        if len(heard) < count:
            raise BenchError(f"only {len(heard)} of {count} {what} within {within_s:g} s")
        return heard

    def hear_until(self, count: int, within_s: float) -> list[Said]:
        """The next lines, `count` of them at most, that any of them says within a time."""
        deadline = monotonic() + within_s
        while len(self._unheard) < count and (left_s := deadline - monotonic()) > 0:
            for key, _ in self._selector.select(left_s):
                program: Program = key.data
                self._unheard.extend(Said(program, line) for line in program.read_lines())
        return [self._unheard.popleft() for _ in range(min(count, len(self._unheard)))]

    def close(self) -> None:
        """Kills what is left of them."""
        for program in self.programs:
            program.kill()
        self.programs.clear()
        self._selector.close()

    def cpu_s(self) -> float:
        """CPU seconds of all that run."""
        return sum(cpu_s(program.popen.pid) for program in self.programs)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()
