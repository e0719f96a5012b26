"""The programs that a demo runs: each is a `tailrace` command in its own process, started and stopped in order.

Owns their processes. Knows nothing of what the demo shows.
"""

import contextlib
import json
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator, Mapping, Sequence
from queue import Empty, Queue
from typing import IO

from tailrace.schemas.errors import TailraceError

READY_S = 20.0
STOP_S = 5.0
_COMMAND = (sys.executable, "-m", "tailrace")


class DemoError(TailraceError):
    """A part of the demo has failed."""

    code = "demo_failed"


class Part:
    """One `tailrace` command that runs as its own process; a context manager that ends it.

    Args:
        name: the name in messages.
        arguments: the arguments of `tailrace`.
        environment: the environment of the process.
        given: text for its standard input.
    """

    def __init__(
        self, name: str, arguments: Sequence[str], environment: Mapping[str, str], given: str | None = None
    ) -> None:
        self.name = name
        # In its own process group: Ctrl-C at a terminal goes to the demo, which ends its parts in order.
        self._process = subprocess.Popen(
            [*_COMMAND, *arguments],
            env=dict(environment),
            stdin=subprocess.DEVNULL if given is None else subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            encoding="utf-8",
            process_group=0,
        )
        self._complaints: list[str] = []
        self._lines: Queue[str | None] = Queue()
        self._readers = [
            threading.Thread(target=self._pump_lines, args=(self._process.stdout,), daemon=True),
            threading.Thread(target=self._pump_complaints, args=(self._process.stderr,), daemon=True),
        ]
        for reader in self._readers:
            reader.start()
        if given is not None and self._process.stdin is not None:
            with contextlib.suppress(BrokenPipeError), self._process.stdin as stdin:
                stdin.write(given)

    def line(self, within_s: float = READY_S) -> str | None:
        """The next line that it prints, None at its end.

        Raises:
            DemoError: it printed nothing in time.
        """
        try:
            return self._lines.get(timeout=within_s)
        except Empty:
            raise DemoError(f"{self.name} printed nothing for {within_s:g} s{self.last_words}") from None

    def lines(self) -> Iterator[str]:
        """Every line that it prints until its end."""
        while (line := self.line()) is not None:
            yield line

    def first_line(self) -> str:
        """Its first line.

        Raises:
            DemoError: it ended without one, or printed nothing in time.
        """
        line = self.line()
        if line is None:
            raise DemoError(f"{self.name} ended before it was ready{self.last_words}")
        return line

    def wait(self, within_s: float | None = READY_S) -> int:
        """Waits for its end, up to `within_s` (None: without limit), and returns its exit code."""
        code = self._process.wait(within_s)
        for reader in self._readers:
            reader.join(STOP_S)
        return code

    def kill(self) -> None:
        """Sends SIGKILL, as if its machine had failed."""
        self._process.kill()
        self.wait()

    def stop(self) -> None:
        """Sends SIGTERM, and SIGKILL if it does not end in time."""
        if self._process.poll() is None:
            self._process.send_signal(signal.SIGTERM)
        try:
            self._process.wait(STOP_S)
        except subprocess.TimeoutExpired:
            self._process.kill()
        self.wait()

    @property
    def last_words(self) -> str:
        """The last lines on its standard error, for messages."""
        return f"; its last output: {' / '.join(self._complaints)}" if self._complaints else ""

    def __enter__(self) -> "Part":
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def _pump_lines(self, stream: IO[str]) -> None:
        for line in stream:
            self._lines.put(line.rstrip("\n"))
        self._lines.put(None)

    def _pump_complaints(self, stream: IO[str]) -> None:
        for line in stream:
            self._complaints = [*self._complaints[-4:], line.rstrip("\n")]


def run(arguments: Sequence[str], environment: Mapping[str, str], given: str | None = None) -> str:
    """Runs a `tailrace` command to its end and returns what it printed.

    Raises:
        DemoError: its exit code was not 0.
    """
    with Part(f"tailrace {arguments[0]}", arguments, environment, given) as part:
        printed = "\n".join(part.lines())
        if code := part.wait():
            raise DemoError(f"{part.name} ended with exit code {code}{part.last_words}")
    return printed


def simulator_url(part: Part) -> str:
    """The base URL that a simulator prints when it is ready."""
    return str(json.loads(part.first_line())["url"])


def clean_environment(additions: Mapping[str, str]) -> dict[str, str]:
    """This process's environment without our settings and the SDK's: a demo must not use them by accident."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("TAILRACE_", "OPENAI_"))}
    return kept | dict(additions)
