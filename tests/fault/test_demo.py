"""The demo as a program, in an environment with unrelated settings."""

import asyncio
import os
import re
import signal
import subprocess
import sys
from asyncio.subprocess import PIPE
from pathlib import Path

import httpx2
import pytest

from tests.until import until

_DEMO = [str(Path(sys.executable).with_name("tailrace")), "demo"]
_LIMIT_S = 60


@pytest.fixture
def mark() -> str:
    """A variable in the demo's environment, by which all its processes are found."""
    return f"DEMO_MARK={os.getpid()}-{os.urandom(4).hex()}"


def _running(mark: str) -> list[str]:
    found: list[str] = []
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            if mark.encode() in (folder / "environ").read_bytes().split(b"\0"):
                found.append((folder / "cmdline").read_bytes().replace(b"\0", b" ").decode())
        except OSError:  # it has ended meanwhile
            continue
    return found


def _environment(mark: str) -> dict[str, str]:
    name, _, value = mark.partition("=")
    # The demo must not use this API key and this Redis: it would fail at once.
    unusable = {
        "OPENAI_API_KEY": "sk-must-not-be-used",
        "OPENAI_BASE_URL": "http://127.0.0.1:1/v1",
        "TAILRACE_REDIS_URL": "redis://127.0.0.1:1/0",
    }
    return {**os.environ, **unusable, name: value}


def test_the_demo_succeeds_and_leaves_no_process_running(mark: str) -> None:
    run = subprocess.run(_DEMO, env=_environment(mark), capture_output=True, text=True, timeout=_LIMIT_S, check=False)
    shown = run.stdout
    assert run.returncode == 0, run.stderr
    assert run.stderr == ""
    killed_at = re.search(r"killed at entry (\d+-\d+)", shown)
    assert killed_at, shown
    assert f"--after {killed_at[1]}" in shown
    # The two halves that the viewers showed, joined, are the outcome's reasoning: nothing lost or duplicated.
    halves = re.findall(r"^\[reasoning\] (.*?) ?$", shown, re.MULTILINE)
    outcome = re.search(r'"reasoning": "(.*)"', shown)
    assert outcome
    assert " ".join(halves) == outcome[1].replace('\\"', '"')
    assert shown.count("[completed]") == 2
    assert _running(mark) == []


@pytest.mark.parametrize("by", [signal.SIGINT, signal.SIGTERM])
async def test_an_interrupted_demo_stops_all_its_processes(mark: str, by: signal.Signals) -> None:
    demo = await asyncio.create_subprocess_exec(*_DEMO, env=_environment(mark), stdout=PIPE, stderr=PIPE)
    assert demo.stdout is not None
    async with asyncio.timeout(_LIMIT_S):
        while b"tailrace tail" not in await demo.stdout.readline():
            assert not demo.stdout.at_eof()
        demo.send_signal(by)
        _, complaints = await demo.communicate()
    assert demo.returncode != 0
    assert b"Traceback" not in complaints
    await until(lambda: _running(mark) == [])


@pytest.mark.parametrize("by", [signal.SIGINT, signal.SIGTERM])
async def test_demo_watch_serves_the_page_until_it_is_interrupted(mark: str, by: signal.Signals) -> None:
    demo = await asyncio.create_subprocess_exec(
        *_DEMO, "--watch", "--port", "0", env=_environment(mark), stdout=PIPE, stderr=PIPE
    )
    assert demo.stdout is not None
    async with asyncio.timeout(_LIMIT_S):
        while not (found := re.search(rb"open (http://127.0.0.1:\d+)/", await demo.stdout.readline())):
            assert not demo.stdout.at_eof()
        async with httpx2.AsyncClient(base_url=found[1].decode(), timeout=_LIMIT_S) as http:
            assert "<h1>Tailrace</h1>" in (await http.get("/")).text
            request = {"model": "gpt-4o-mini", "messages": [{"role": "user", "content": "Why?"}]}
            path = (await http.post("/v1/streams", json=request)).json()["links"]["events"]
            assert "event: completed" in (await http.get(path)).text
        demo.send_signal(by)
        _, complaints = await demo.communicate()
    assert (demo.returncode, complaints) == (0, b"")
    await until(lambda: _running(mark) == [])
