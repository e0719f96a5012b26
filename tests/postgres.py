"""A private PostgreSQL for tests, from Debian's package, in a folder of its own and behind a Unix socket."""

import os
import shutil
import signal
import subprocess
import tempfile
from pathlib import Path
from types import TracebackType
from typing import Self

import pytest

WAIT_S = "30"
_USER = "postgres"


def binaries() -> Path | None:
    """The folder of the server's programs; None if PostgreSQL is not installed."""
    found = sorted(Path("/usr/lib/postgresql").glob("*/bin/initdb"), key=lambda path: int(path.parts[4]))
    return found[-1].parent if found else None


class EmbeddedPostgres:
    """A server that runs inside a `with` block. It keeps its database over `stop` and `start`."""

    def __init__(self) -> None:
        programs = binaries()
        if programs is None:
            pytest.skip("no PostgreSQL is installed: apt-get install postgresql")
        self._programs = programs
        self._folder = Path(tempfile.mkdtemp(prefix="tailrace-pg-"))
        self._as_user = [] if os.getuid() else ["setpriv", "--reuid", _USER, "--regid", _USER, "--clear-groups"]
        self.url = f"postgresql+asyncpg://{_USER}:s3cret-of-the-database@/postgres?host={self._folder}"

    def __enter__(self) -> Self:
        if self._as_user:
            shutil.chown(self._folder, _USER, _USER)
        options = ["-A", "trust", "-U", _USER, "-E", "UTF8", "--locale=C", "--no-sync"]
        self._call("initdb", "-D", str(self._cluster), *options)
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.stop()
        shutil.rmtree(self._folder)

    @property
    def pid(self) -> int:
        """The id of its main process."""
        return int((self._cluster / "postmaster.pid").read_text().split()[0])

    def start(self) -> None:
        """Starts it, and returns when it accepts connections."""
        options = f"-c listen_addresses= -c unix_socket_directories={self._folder}"
        self._call("pg_ctl", "start", "-w", "-t", WAIT_S, "-D", str(self._cluster), "-o", options, "-l", self._log)

    def stop(self) -> None:
        """Stops it at once, as a crash does: connections break and open transactions are lost."""
        if (self._cluster / "postmaster.pid").exists():
            self._call("pg_ctl", "stop", "-m", "immediate", "-w", "-t", WAIT_S, "-D", str(self._cluster))

    def freeze(self) -> None:
        """Suspends all its processes until `thaw`."""
        self._signal(signal.SIGSTOP)

    def thaw(self) -> None:
        """Resumes it."""
        self._signal(signal.SIGCONT)

    def ask(self, statement: str) -> str:
        """The output of psql for a statement, unaligned."""
        connection = ["-h", str(self._folder), "-U", _USER, "-d", "postgres"]
        return self._call("psql", "-X", "-A", "-t", "-v", "ON_ERROR_STOP=1", *connection, "-c", statement)

    def log(self) -> str:
        """The log of the server."""
        return Path(self._log).read_text(errors="replace")

    @property
    def _cluster(self) -> Path:
        return self._folder / "cluster"

    @property
    def _log(self) -> str:
        return str(self._folder / "log")

    def _signal(self, number: signal.Signals) -> None:
        children = Path(f"/proc/{self.pid}/task/{self.pid}/children").read_text()
        for pid in (self.pid, *map(int, children.split())):
            os.kill(pid, number)

    def _call(self, program: str, *arguments: str) -> str:
        done = subprocess.run(
            [*self._as_user, self._programs / program, *arguments],
            cwd="/",
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE if program in ("psql", "initdb") else subprocess.DEVNULL,
            stderr=subprocess.PIPE if program in ("psql", "initdb") else subprocess.DEVNULL,
            text=True,
            timeout=2 * int(WAIT_S),
        )
        assert done.returncode == 0, f"{program}: {done.stderr}"
        return (done.stdout or "").strip()
