"""`tailrace worker` as real processes: output, draining, fleets, and every reason not to start."""

import asyncio
import os
import signal
import sys
from collections.abc import AsyncGenerator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from types import MappingProxyType

import pytest
from redis.asyncio import Redis

from tailrace.broker.keys import log_key
from tailrace.demo.simulator import Simulator
from tailrace.demo.valkey import EmbeddedValkey
from tailrace.producers.client import Client
from tests.rig import KEY, request_for
from tests.until import until

TAILRACE = Path(sys.executable).with_name("tailrace")
WAIT_S = 30.0
TEXT = "The water comes back to the river below the mill."
SLOW = {"steps": [{"kind": "text", "text": TEXT}], "pace": {"chunks_per_s": 20}}


class Command:
    """A running `tailrace` command: stdout by line, stderr as a whole."""

    def __init__(self, child: asyncio.subprocess.Process) -> None:
        assert child.stdout is not None
        assert child.stderr is not None
        self.child = child
        self._stdout = child.stdout
        self._stderr = asyncio.create_task(child.stderr.read())

    async def line(self) -> str:
        """Reads the next line of stdout."""
        async with asyncio.timeout(WAIT_S):
            return (await self._stdout.readline()).decode()

    async def ended(self) -> tuple[int, str]:
        """Waits for the end; returns the exit code and stderr."""
        async with asyncio.timeout(WAIT_S):
            return await self.child.wait(), (await self._stderr).decode()


@asynccontextmanager
async def command(*arguments: str, environment: Mapping[str, str] = MappingProxyType({})) -> AsyncGenerator[Command]:
    child = await asyncio.create_subprocess_exec(
        TAILRACE,
        *arguments,
        env={"PATH": os.environ["PATH"], **environment},
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    running = Command(child)
    try:
        yield running
    finally:
        if child.returncode is None:
            child.terminate()
            await running.ended()


def settings(redis_url: str, simulator: Simulator | None = None, **more: str) -> dict[str, str]:
    base_url = simulator.url if simulator else "http://127.0.0.1:1/v1"
    return {"TAILRACE_REDIS_URL": redis_url, "OPENAI_API_KEY": KEY, "OPENAI_BASE_URL": base_url, **more}


def pid_of(ready: str) -> int:
    assert ready.startswith("ready: "), ready
    return int(ready.split("pid ")[1].split(",")[0])


async def test_a_worker_announces_itself_runs_requests_and_drains(redis_url: str) -> None:
    """given: SIGTERM while a request runs / expect: it ends, one log line an event, exit code 0."""
    async with (
        Simulator() as simulator,
        Client(redis_url) as client,
        command("worker", "--max-jobs", "7", environment=settings(redis_url, simulator)) as worker,
    ):
        ready = await worker.line()
        assert "7 jobs" in ready
        request_id = (await client.submit(request_for(SLOW))).id
        await until(lambda: len(simulator.ledger.entries()) == 1)
        os.kill(pid_of(ready), signal.SIGTERM)
        outcome = await client.result(request_id, wait_s=WAIT_S)
        assert outcome is not None
        assert (outcome.status, outcome.content, outcome.attempt) == ("completed", TEXT, 1)
        code, said = await worker.ended()
    assert code == 0
    lines = [line for line in said.splitlines() if request_id in line]
    events = ["attempt_started", "attempt_finished"]
    assert [event for line in lines for event in events if f" {event} " in line] == events
    assert KEY not in said
    assert TEXT not in said


async def test_a_request_that_outlasts_the_grace_period_is_handed_back(redis_url: str) -> None:
    async with (
        Simulator() as simulator,
        Client(redis_url) as client,
        Redis.from_url(redis_url) as redis,
    ):
        environment = settings(redis_url, simulator, TAILRACE_DRAIN_S="0")
        async with command("worker", environment=environment) as first:
            pid = pid_of(await first.line())
            request_id = (await client.submit(request_for(SLOW))).id

            async def has_text() -> bool:
                return await redis.xlen(log_key(request_id)) > 3

            await until(has_text)
            os.kill(pid, signal.SIGTERM)
            assert (await first.ended())[0] == 0
        assert (await client.status(request_id)).status == "queued"
        async with command("worker", environment=environment) as second:
            await second.line()
            outcome = await client.result(request_id, wait_s=WAIT_S)
    assert outcome is not None
    assert (outcome.status, outcome.content) == ("completed", TEXT)


async def test_a_fleet_replaces_dead_processes_and_ends_with_its_parent(redis_url: str) -> None:
    async with (
        Simulator() as simulator,
        Client(redis_url) as client,
        command("worker", "--processes", "2", environment=settings(redis_url, simulator)) as fleet,
    ):
        pids = {pid_of(await fleet.line()), pid_of(await fleet.line())}
        assert fleet.child.pid not in pids
        assert len(pids) == 2
        killed = pids.pop()
        os.kill(killed, signal.SIGKILL)
        pids.add(pid_of(await fleet.line()))
        assert killed not in pids
        request_id = (await client.submit(request_for({"steps": [{"kind": "text", "text": TEXT}]}))).id
        outcome = await client.result(request_id, wait_s=WAIT_S)
        assert outcome is not None
        assert outcome.status == "completed"
        fleet.child.send_signal(signal.SIGTERM)
        code, said = await fleet.ended()
        assert code == 0
        assert "ended unexpectedly" in said
        for pid in pids:
            with pytest.raises(ProcessLookupError):
                os.kill(pid, 0)


async def test_a_fleet_whose_parent_is_killed_drains(redis_url: str) -> None:
    # given a fleet with a running request, if the parent is killed, expect the children to drain and exit: the request
    # is handed back, and their stdout, which they inherit from the parent, is closed
    async with (
        Simulator() as simulator,
        Client(redis_url) as client,
        command(
            "worker", "--processes", "2", environment=settings(redis_url, simulator, TAILRACE_DRAIN_S="0")
        ) as fleet,
    ):
        children = [pid_of(await fleet.line()) for _ in range(2)]
        request_id = (await client.submit(request_for(SLOW))).id
        await until(lambda: len(simulator.ledger.entries()) == 1)
        fleet.child.kill()
        try:
            assert await fleet.line() == ""
        except TimeoutError:
            for pid in children:
                os.kill(pid, signal.SIGKILL)
            raise
        _, said = await fleet.ended()
        assert said.count("the parent of this worker process has died") == 2
        assert (await client.status(request_id)).status == "queued"


async def refused(*arguments: str, environment: Mapping[str, str] = MappingProxyType({})) -> str:
    """Runs a command that refuses to start; returns its only line on stderr."""
    async with command(*arguments, environment=environment) as worker:
        code, said = await worker.ended()
    assert code != 0
    assert "Traceback" not in said
    [line] = said.strip().splitlines()
    return line


@pytest.mark.parametrize("processes", ["1", "2"])
async def test_redis_is_unavailable(processes: str) -> None:
    url = "redis://user:secret-word@127.0.0.1:1/0"
    line = await refused("worker", "--processes", processes, environment=settings(url))
    assert "127.0.0.1:1" in line
    assert "TAILRACE_REDIS_URL" in line
    assert "secret-word" not in line


async def test_the_key_is_missing(redis_url: str) -> None:
    for processes in ("1", "2"):
        line = await refused(
            "worker", "--processes", processes, environment={**settings(redis_url), "OPENAI_API_KEY": ""}
        )
        assert "OPENAI_API_KEY" in line


async def test_the_base_url_is_invalid(redis_url: str) -> None:
    line = await refused("worker", environment={**settings(redis_url), "OPENAI_BASE_URL": "localhost"})
    assert "OPENAI_BASE_URL" in line


async def test_a_setting_is_unknown(redis_url: str) -> None:
    assert "TAILRACE_MAX_JOB" in await refused("worker", environment=settings(redis_url, TAILRACE_MAX_JOB="3"))


async def test_redis_is_a_replica(redis_url: str, valkey: EmbeddedValkey) -> None:
    valkey.ask("REPLICAOF 127.0.0.1 1")
    try:
        line = await refused("worker", environment=settings(redis_url))
    finally:
        valkey.ask("REPLICAOF NO ONE")
    assert "read-only replica" in line


async def test_the_redis_user_may_not_write(redis_url: str, valkey: EmbeddedValkey) -> None:
    valkey.ask("ACL SETUSER reader on >pass ~* &* +@all -@write")
    try:
        line = await refused("worker", environment=settings(redis_url.replace("//", "//reader:pass@")))
    finally:
        valkey.ask("ACL DELUSER reader")
    assert "TAILRACE_REDIS_URL" in line
    assert "permissions" in line
    assert "pass@" not in line


async def test_the_password_is_wrong(redis_url: str) -> None:
    line = await refused("worker", environment=settings(redis_url.replace("//", "//nobody:wrong@")))
    assert "TAILRACE_REDIS_URL" in line
    assert "wrong@" not in line


async def test_redis_is_full(redis_url: str, valkey: EmbeddedValkey) -> None:
    valkey.ask("CONFIG SET maxmemory 1")
    try:
        line = await refused("worker", environment=settings(redis_url))
    finally:
        valkey.ask("CONFIG SET maxmemory 0")
    assert "out of memory" in line


async def test_a_redis_that_evicts_causes_a_warning(redis_url: str, valkey: EmbeddedValkey) -> None:
    valkey.ask("CONFIG SET maxmemory-policy allkeys-lru")
    try:
        async with command("worker", environment=settings(redis_url)) as worker:
            os.kill(pid_of(await worker.line()), signal.SIGTERM)
            code, said = await worker.ended()
    finally:
        valkey.ask("CONFIG SET maxmemory-policy noeviction")
    assert code == 0
    assert "noeviction" in said


@pytest.mark.parametrize("arguments", [("--processes", "0"), ("--max-jobs", "x"), ("--nonsense",)])
async def test_invalid_arguments(arguments: tuple[str, ...]) -> None:
    async with command("worker", *arguments) as worker:
        code, said = await worker.ended()
    assert code == 2
    assert said.startswith("tailrace worker: ")
    assert said.count("\n") == 1


async def test_the_check_reports_whether_a_worker_is_alive(redis_url: str) -> None:
    async with command("worker", "--check", environment=settings(redis_url)) as check:
        code, said = await check.ended()
        assert code == 1
        assert "no worker" in said
    async with command("worker", environment=settings(redis_url)) as worker:
        await worker.line()

        async def alive() -> bool:
            async with command("worker", "--check", environment=settings(redis_url)) as check:
                return (await check.ended())[0] == 0

        await until(alive, within_s=WAIT_S)
    assert "TAILRACE_REDIS_URL" in await refused("worker", "--check", environment=settings("redis://127.0.0.1:1/0"))


async def test_help_has_an_example() -> None:
    async with command("worker", "--help") as asked:
        assert (await asked.line()).startswith("usage: tailrace worker")
        assert (await asked.ended())[0] == 0
