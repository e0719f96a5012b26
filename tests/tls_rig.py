"""A Redis that speaks TLS alone, with certificates of a CA that the test has made."""

import shutil
import socket
import subprocess
import time
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path

import pytest

START_S = 10.0


def need(program: str) -> str:
    """Path of a program; skips the test by name where it is missing."""
    found = shutil.which(program)
    if found is None:
        pytest.skip(f"{program} is not on this machine")
    return found


def free_port() -> int:
    """A port that nobody listens on just now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


class Authority:
    """A certificate authority in a folder."""

    def __init__(self, folder: Path) -> None:
        folder.mkdir()
        self._folder = folder
        self.certificate = folder / "ca.crt"
        self._key = folder / "ca.key"
        self._openssl(
            *("req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", "-subj", "/CN=Test CA"),
            *("-keyout", self._key, "-out", self.certificate),
        )

    def issue(self, name: str, alternative: str) -> tuple[Path, Path]:
        """Certificate and key.

        Args:
            name: of the files.
            alternative: subject alternative name, such as `IP:127.0.0.1`.
        """
        asked, certificate, key = (self._folder / f"{name}.{end}" for end in ("csr", "crt", "key"))
        self._openssl(
            *("req", "-newkey", "rsa:2048", "-nodes", "-subj", f"/CN={name}", "-keyout", key, "-out", asked),
            *("-addext", f"subjectAltName={alternative}"),
        )
        self._openssl(
            *("x509", "-req", "-in", asked, "-CA", self.certificate, "-CAkey", self._key, "-CAcreateserial"),
            *("-days", "2", "-copy_extensions", "copy", "-out", certificate),
        )
        return certificate, key

    def _openssl(self, *arguments: str | Path) -> None:
        subprocess.run([need("openssl"), *arguments], check=True, capture_output=True)


@contextmanager
def tls_redis(folder: Path, authority: Authority, alternative: str, *, asks_clients: bool = False) -> Generator[int]:
    """The port of a server whose certificate has this subject alternative name.

    Args:
        folder: for its files.
        authority: who signs.
        alternative: whose certificate it shows.
        asks_clients: whether clients must show one, too.
    """
    binary = need("redis-server")
    certificate, key = authority.issue("server", alternative)
    port = free_port()
    options = {
        "port": "0",
        "tls-port": str(port),
        "tls-cert-file": str(certificate),
        "tls-key-file": str(key),
        "tls-ca-cert-file": str(authority.certificate),
        "tls-auth-clients": "yes" if asks_clients else "no",
        "bind": "127.0.0.1",
        "dir": str(folder),
        "save": "",
        "maxmemory-policy": "noeviction",
    }
    log = folder / "redis.log"
    with log.open("wb") as out:
        words = [word for name, value in options.items() for word in (f"--{name}", value)]
        server = subprocess.Popen([binary, *words], stdin=subprocess.DEVNULL, stdout=out, stderr=out)
    try:
        deadline = time.monotonic() + START_S
        while "Ready to accept connections" not in log.read_text():
            assert server.poll() is None, log.read_text()
            assert time.monotonic() < deadline, log.read_text()
            time.sleep(0.01)
        yield port
    finally:
        server.terminate()
        server.wait(5)
