"""Writing outcomes while workers and sinks are killed, and while the database hangs or dies."""

import asyncio
import os
import signal
import sys
from collections.abc import AsyncGenerator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from redis.asyncio import Redis

from tailrace.broker import keys
from tailrace.demo.simulator import Simulator
from tailrace.schemas.outcome import Outcome
from tests.fault.workers import WAIT_S, client_of, worker_process
from tests.postgres import EmbeddedPostgres
from tests.results_rig import engine_of, migrated_database, stored_outcomes
from tests.rig import KEY, request_for
from tests.until import until

PROGRAM = Path(__file__).with_name("sink_program.py")
ROOT = Path(__file__).parents[2]
TEXT = {"steps": [{"kind": "text", "text": "a text that no log may show"}]}
FAST = {"TAILRACE_RESULTS_TIMEOUT_S": "1"}


@pytest.fixture
def own_postgres() -> Iterator[EmbeddedPostgres]:
    with EmbeddedPostgres() as running:
        yield running


async def settled(redis: Redis) -> bool:
    async with redis.pipeline(transaction=True) as at_once:
        at_once.zcard(keys.QUEUE)
        at_once.xlen(keys.OUTBOX)
        return await at_once.execute() == [0, 0]


@asynccontextmanager
async def doomed(command: str, place: str, environment: dict[str, str]) -> AsyncGenerator[asyncio.subprocess.Process]:
    """Runs a command that kills itself at this place."""
    child = await asyncio.create_subprocess_exec(
        *(sys.executable, PROGRAM, command, place),
        env={"PATH": os.environ["PATH"], "PYTHONPATH": str(ROOT), **environment},
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.DEVNULL,
    )
    assert child.stdout is not None
    try:
        async with asyncio.timeout(WAIT_S):
            assert (await child.stdout.readline()).startswith(b"ready: ")
        yield child
    finally:
        if child.returncode is None:
            child.kill()
            await child.wait()


async def killed(child: asyncio.subprocess.Process) -> None:
    async with asyncio.timeout(WAIT_S):
        assert await child.wait() == -signal.SIGKILL


@pytest.mark.parametrize("place", ["acknowledge", "commit", "settle"])
async def test_a_killed_worker_loses_and_duplicates_no_outcome(
    redis_url: str, redis: Redis, results_url: str, place: str
) -> None:
    # given a worker that dies between the end and the outbox, before the commit, or after it, expect the next worker to
    # write every outcome once, unchanged
    async with Simulator(key=KEY) as simulator, migrated_database(results_url), engine_of(results_url) as engine:
        settings = {"TAILRACE_RESULTS_URL": results_url, "TAILRACE_LEASE_S": "1.5", **FAST}
        environment = {
            "OPENAI_API_KEY": KEY,
            "OPENAI_BASE_URL": simulator.url,
            "TAILRACE_REDIS_URL": redis_url,
            **settings,
        }
        async with client_of(redis_url) as client:
            async with doomed("worker", place, environment) as child:
                first = await client.submit(request_for(TEXT))
                await killed(child)
            before = await client.result(first.id)
            assert before is not None
            assert set(await stored_outcomes(engine)) == ({first.id} if place == "settle" else set())
            async with worker_process(redis_url, simulator, **settings) as worker:
                others = [await client.submit(request_for(TEXT)) for _ in range(5)]
                outcomes = [await client.result(one.id, wait_s=WAIT_S) for one in others]
                await until(lambda: settled(redis), WAIT_S)
                said = worker.said
        found = {request_id: stored.outcome for request_id, stored in (await stored_outcomes(engine)).items()}
    assert found == {one.request_id: one for one in (before, *outcomes) if one is not None}
    assert len(found) == 6
    assert "no log may show" not in said
    assert "s3cret" not in said


@pytest.mark.parametrize("place", ["commit", "settle"])
async def test_a_killed_sink_loses_and_duplicates_no_outcome(
    redis_url: str, redis: Redis, results_url: str, place: str
) -> None:
    # given a sink that dies with a batch, expect another sink to write that batch once, and to exit properly
    environment = {"TAILRACE_REDIS_URL": redis_url, "TAILRACE_RESULTS_URL": results_url, **FAST}
    async with Simulator(key=KEY) as simulator, migrated_database(results_url), engine_of(results_url) as engine:
        async with client_of(redis_url) as client, worker_process(redis_url, simulator):
            async with doomed("sink", place, environment) as child:
                ids = [(await client.submit(request_for(TEXT))).id for _ in range(20)]
                outcomes = [await client.result(request_id, wait_s=WAIT_S) for request_id in ids]
                await killed(child)
            second = await asyncio.create_subprocess_exec(
                *(Path(sys.executable).with_name("tailrace"), "sink"),
                env={"PATH": os.environ["PATH"], **environment},
                stdout=asyncio.subprocess.PIPE,
                stderr=asyncio.subprocess.PIPE,
            )
            await until(lambda: settled(redis), WAIT_S)
            second.terminate()
            async with asyncio.timeout(WAIT_S):
                said, told = await second.communicate()
        found = {request_id: stored.outcome for request_id, stored in (await stored_outcomes(engine)).items()}
    assert (second.returncode, b"outcomes written" in said) == (0, True)
    assert found == {one.request_id: one for one in outcomes if isinstance(one, Outcome)}
    assert len(found) == 20
    assert b"no log may show" not in told
    assert b"s3cret" not in said + told


@pytest.mark.parametrize("fault", ["freeze", "stop"])
async def test_a_database_that_hangs_or_dies_between_batches(
    redis_url: str, redis: Redis, own_postgres: EmbeddedPostgres, fault: str
) -> None:
    # given a stream of requests, if the database hangs or dies repeatedly, expect all requests to complete, every
    # outcome written once at the end, and few log lines, none with a text
    url = own_postgres.url
    async with Simulator(key=KEY) as simulator, migrated_database(url), engine_of(url) as engine:
        async with client_of(redis_url) as client:
            async with worker_process(redis_url, simulator, TAILRACE_RESULTS_URL=url, **FAST) as worker:
                ids: list[str] = []
                for _ in range(3):
                    ids += [(await client.submit(request_for(TEXT))).id for _ in range(30)]
                    await until(lambda: _has_some(redis), WAIT_S)
                    await asyncio.to_thread(own_postgres.freeze if fault == "freeze" else own_postgres.stop)
                    try:
                        ids += [(await client.submit(request_for(TEXT))).id for _ in range(30)]
                        for request_id in ids:
                            assert await client.result(request_id, wait_s=WAIT_S)
                    finally:
                        await asyncio.to_thread(own_postgres.thaw if fault == "freeze" else own_postgres.start)
                await until(lambda: settled(redis), WAIT_S)
                outcomes = {request_id: await client.result(request_id) for request_id in ids}
                said = worker.said
        found = {request_id: stored.outcome for request_id, stored in (await stored_outcomes(engine)).items()}
    assert found == outcomes
    assert said.count("cannot write outcomes") <= 12, said
    assert "no log may show" not in said
    assert "no log may show" not in own_postgres.log()


async def _has_some(redis: Redis) -> bool:
    return bool(await redis.xlen(keys.OUTBOX)) or not await redis.zcard(keys.QUEUE)
