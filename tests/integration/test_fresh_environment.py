"""The wheel in an environment of its own, beside an application whose modules have the names of Tailrace's parts."""

import asyncio
import json
import os
import subprocess
import sys
import sysconfig
from asyncio.subprocess import PIPE, Process
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from tailrace.demo.simulator import Simulator
from tests.rig import KEY, WAIT_S

ROOT = Path(__file__).parents[2]

OWN = 'OWN = "of the application"\n'
APPLICATION = {"schemas.py": OWN, "worker.py": OWN, "producers/__init__.py": OWN, "demo.py": OWN}
MAIN = """
import asyncio, json, os, sys, urllib.request

import demo, producers, schemas, worker
import tailrace
from tailrace import Client, Completed, SyncClient, UnknownRequest

REDIS, GATEWAY = sys.argv[1:]
HELLO = {"model": "sim", "messages": [{"role": "user", "content": "hello"}]}


def http(path, content=None):
    body = None if content is None else json.dumps(content).encode()
    request = urllib.request.Request(GATEWAY + path, body, {"content-type": "application/json"})
    with urllib.request.urlopen(request, timeout=30) as answer:
        return answer.read().decode()


async def main():
    async with Client(REDIS) as client:
        submission = await client.submit(HELLO)
        text = "".join([piece async for piece in client.tail(submission.id).text()])
        *_, last = [tailed async for tailed in client.tail(submission.id)]
        outcome = await client.result(submission.id, wait_s=30)
    return text == outcome.text, isinstance(last.entry, Completed), outcome.status


tailed = asyncio.run(main())
with SyncClient(REDIS) as client:
    streamed = [tailed.name for tailed in client.stream(HELLO)][-1]
submitted = json.loads(http("/v1/streams", HELLO))
events = http(f"/v1/streams/{submitted['id']}/events")
found = json.loads(http(f"/v1/streams/{submitted['id']}"))
print(json.dumps({
    "own": [module.OWN for module in (schemas, worker, producers, demo)],
    "tailrace": os.path.dirname(tailrace.__file__),
    "tailed": tailed,
    "streamed": streamed,
    "events": events.count("event: completed"),
    "found": found["outcome"]["status"],
}))
"""


def run(*command: str | Path, cwd: Path = ROOT) -> None:
    done = subprocess.run(list(map(str, command)), cwd=cwd, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.fixture(scope="module")
def python(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The Python of an environment in which the wheel is installed, and which sees the libraries of this one."""
    folder = tmp_path_factory.mktemp("environment")
    python = folder / "fresh" / "bin" / "python"
    run(sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", folder)
    run(sys.executable, "-m", "venv", folder / "fresh")
    (wheel,) = folder.glob("tailrace-*.whl")
    run(python, "-m", "pip", "install", "--no-deps", "--no-index", "--quiet", wheel)
    (packages,) = folder.glob("fresh/lib/python*/site-packages")
    # A path in a .pth file is searched, but the .pth files in it, such as that of the editable install, are not read.
    (packages / "libraries.pth").write_text(sysconfig.get_path("purelib") + "\n")
    return python


@pytest.fixture
def application(tmp_path: Path) -> Path:
    """The folder of an application with modules of its own."""
    folder = tmp_path / "application"
    for name, content in {**APPLICATION, "main.py": MAIN}.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(content)
    return folder


@asynccontextmanager
async def program(python: Path, folder: Path, *command: str, **environment: str) -> AsyncGenerator[Process]:
    """A program started in the application's folder, which Python searches first."""
    process = await asyncio.create_subprocess_exec(
        python, *command, cwd=folder, env={"PATH": os.environ["PATH"], **environment}, stdout=PIPE
    )
    try:
        yield process
    finally:
        if process.returncode is None:
            process.terminate()
        async with asyncio.timeout(WAIT_S):
            await process.communicate()


async def test_client_worker_and_gateway_run_beside_an_application_with_the_same_names(
    redis_url: str, python: Path, application: Path
) -> None:
    async with (
        Simulator(key=KEY) as simulator,
        program(
            python,
            application,
            *("-m", "tailrace", "worker"),
            TAILRACE_REDIS_URL=redis_url,
            OPENAI_API_KEY=KEY,
            OPENAI_BASE_URL=simulator.url,
        ),
        program(
            python, application, "-m", "tailrace", "gateway", "--open", "--port", "0", TAILRACE_REDIS_URL=redis_url
        ) as gateway,
    ):
        assert gateway.stdout is not None
        async with asyncio.timeout(WAIT_S):
            line = (await gateway.stdout.readline()).decode()
        url = line.removeprefix("tailrace gateway listens on ").strip()
        async with program(python, application, "main.py", redis_url, url) as main, asyncio.timeout(2 * WAIT_S):
            out, _ = await main.communicate()
    assert main.returncode == 0
    found = json.loads(out)
    assert found == {
        "own": ["of the application"] * 4,
        "tailrace": str(next(python.parents[1].glob("lib/python*/site-packages")) / "tailrace"),
        "tailed": [True, True, "completed"],
        "streamed": "completed",
        "events": 1,
        "found": "completed",
    }
