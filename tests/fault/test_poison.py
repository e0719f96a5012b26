"""A job that kills its worker, beside harmless ones: it is found, and no other job is ended for it."""

import asyncio
import subprocess
from collections import Counter
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager

import pytest
from arq.connections import ArqRedis

from tests.fault.queue_program import EVENTS
from tests.fault.queue_workers import events, worker_process
from tests.queue_rig import left_behind, plain_client
from tests.until import until

HARMLESS = 8
LIMIT_S = 60.0


@asynccontextmanager
async def fleet(url: str, workers: int) -> AsyncGenerator[list[subprocess.Popen[bytes]]]:
    """Runs so many worker processes; one that dies is replaced, as in a fleet."""

    def start() -> subprocess.Popen[bytes]:
        return worker_process(url, quarantine_s=0.5)

    async def replace_dead() -> None:
        while True:
            await until(lambda: any(worker.poll() is not None for worker in running), LIMIT_S)
            running[:] = [worker if worker.poll() is None else start() for worker in running]

    running = [start() for _ in range(workers)]
    replacing = asyncio.create_task(replace_dead())
    try:
        yield running
    finally:
        replacing.cancel()
        await asyncio.wait({replacing})
        for worker in running:
            worker.kill()
            worker.wait()


async def all_ended(client: ArqRedis) -> bool:
    return await left_behind(client) == {EVENTS.encode()}


@pytest.mark.parametrize("fuse_s", [0.0, 0.8])
async def test_only_the_job_that_kills_its_worker_is_ended(redis_url: str, fuse_s: float) -> None:
    # given a job that kills its worker, at once or after a first quarantine, beside harmless jobs that run long enough
    # to be hit repeatedly, expect it to be ended, and every other job to finish
    async with plain_client(redis_url) as client:
        for number in range(HARMLESS):
            await client.enqueue_job("generate", 1.5, _job_id=f"harmless-{number}")
        await client.enqueue_job("generate", fuse_s, True, _job_id="poison")
        async with fleet(redis_url, 2):
            await until(lambda: all_ended(client), LIMIT_S)
        ends = [entry for entry in await events(client) if entry["event"] in ("finished", "job_crashed")]
        assert {entry["job"] for entry in ends if entry["event"] == "job_crashed"} == {"poison"}
        finished = Counter(entry["job"] for entry in ends if entry["event"] == "finished")
        assert set(finished) == {f"harmless-{number}" for number in range(HARMLESS)}


async def test_no_job_is_ended_when_the_whole_fleet_dies_twice(redis_url: str) -> None:
    # given many jobs, if all workers are killed twice, expect every job to run a third time and to finish
    async with plain_client(redis_url) as client, fleet(redis_url, 2) as workers:
        for number in range(40):
            await client.enqueue_job("generate", 4.0, _job_id=f"j{number}")
        for crash in range(2):
            await until(lambda crash=crash: ran(client, 40, crash), LIMIT_S)
            for worker in tuple(workers):
                worker.kill()
        await until(lambda: all_ended(client), LIMIT_S)
        assert "job_crashed" not in {entry["event"] for entry in await events(client)}


async def ran(client: ArqRedis, jobs: int, crashes: int) -> bool:
    """Whether so many jobs have started after at least `crashes` crashes, or have finished."""
    noted = await events(client)
    ended = {entry["job"] for entry in noted if entry["event"] == "finished"}
    begun = {entry["job"] for entry in noted if entry["event"] == "started" and entry["crashes"] >= crashes}
    return len(begun | ended) >= jobs
