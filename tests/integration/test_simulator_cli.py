"""The simulator as a program: ready line, signals, a port in use, wrong arguments."""

from __future__ import annotations

import json
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Generator
from contextlib import contextmanager
from typing import Any

import pytest

COMMAND = [sys.executable, "-m", "tailrace.demo.simulator"]


@contextmanager
def running(*arguments: str) -> Generator[tuple[subprocess.Popen[str], str]]:
    """The program and its base URL, once it has said so."""
    with subprocess.Popen(
        [*COMMAND, "--port", "0", *arguments], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as program:
        try:
            assert program.stdout is not None
            yield program, json.loads(program.stdout.readline())["url"]
        finally:
            program.kill()


def models(url: str, key: str = "any") -> int:
    request = urllib.request.Request(f"{url}/models", headers={"authorization": f"Bearer {key}"})  # noqa: S310 -- http
    try:
        with urllib.request.urlopen(request, timeout=10) as response:  # noqa: S310 -- our own loopback URL
            return response.status
    except urllib.error.HTTPError as error:
        with error:
            return error.code


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_it_serves_when_it_says_so_and_stops_when_told(number: signal.Signals) -> None:
    with running() as (program, url):
        assert models(url) == 200
        program.send_signal(number)
        out, err = program.communicate(timeout=10)

    assert program.returncode == 0
    assert out == ""
    assert err.startswith("GET /v1/models - 200 completed")
    assert err.count("\n") == 1


def stream_with(url: str, fault: dict[str, Any]) -> socket.socket:
    """A bare connection on which a stream with this fault has been asked for."""
    address = urllib.parse.urlsplit(url)
    assert address.hostname is not None
    assert address.port is not None
    line = socket.create_connection((address.hostname, address.port), timeout=10)
    scenario = json.dumps({"name": "text", "faults": [fault]})
    body = b'{"model": "sim", "stream": true, "messages": [{"role": "user", "content": "Hello"}]}'
    head = ["POST /v1/chat/completions HTTP/1.1", "host: sim", "authorization: Bearer any",
            f"x-simulator-scenario: {scenario}", f"content-length: {len(body)}", "", ""]  # fmt: skip
    line.sendall("\r\n".join(head).encode() + body)
    return line


def read_all(line: socket.socket) -> tuple[bytes, bool]:
    """What arrives until the end, and whether the end was a reset."""
    raw = b""
    try:
        while piece := line.recv(65536):
            raw += piece
    except ConnectionResetError:
        return raw, True
    return raw, False


def test_faults_on_the_loop_of_the_program() -> None:
    # given: the program, which runs on uvloop where there is one
    with running("--quiet") as (_, url):
        with stream_with(url, {"kind": "rst", "after": 2}) as line:
            reset = read_all(line)
        with stream_with(url, {"kind": "cut", "after": 2}) as line:
            cut = read_all(line)
        with stream_with(url, {"kind": "stall", "after": 2}) as line:
            line.recv(1)

        # expect: what was sent arrives, then a reset or a plain close; a client that goes is noticed
        assert (reset[0].count(b"data: "), reset[1]) == (2, True)
        assert (cut[0].count(b"data: "), cut[1]) == (2, False)
        deadline = time.monotonic() + 10
        while (ends := ended(url)) != ["rst", "cut", "client_closed"]:
            assert time.monotonic() < deadline, ends
            time.sleep(0.01)


def ended(url: str) -> list[str]:
    with urllib.request.urlopen(url.removesuffix("/v1") + "/__sim/requests", timeout=10) as response:  # noqa: S310 -- our own loopback URL
        return [entry["ended"] for entry in json.load(response)["requests"]]


def test_key_and_quiet() -> None:
    with running("--key", "secret", "--quiet") as (program, url):
        assert (models(url), models(url, "secret")) == (401, 200)
        program.terminate()
        assert program.communicate(timeout=10)[1] == ""


def test_a_port_in_use_is_one_line() -> None:
    with running() as (_, url):
        port = url.removesuffix("/v1").rpartition(":")[2]
        second = subprocess.run([*COMMAND, "--port", port], capture_output=True, text=True, timeout=10, check=False)

    assert (second.returncode, second.stdout) == (1, "")
    assert second.stderr.count("\n") == 1
    assert port in second.stderr


@pytest.mark.parametrize("arguments", [["--port", "x"], ["--port", "70000"], ["--chunks-per-s", "-1"], ["--what"]])
def test_wrong_arguments_are_refused(arguments: list[str]) -> None:
    refused = subprocess.run([*COMMAND, *arguments], capture_output=True, text=True, timeout=10, check=False)

    assert refused.returncode == 2
    assert arguments[0] in refused.stderr
    assert refused.stderr.count("\n") == 1
    assert f"{arguments[-1]!r} is not a" in refused.stderr or len(arguments) == 1


def test_help_has_an_example() -> None:
    shown = subprocess.run([*COMMAND, "--help"], capture_output=True, text=True, timeout=10, check=False)

    assert shown.returncode == 0
    assert "curl -N" in shown.stdout
