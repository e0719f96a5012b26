"""A job that kills its worker, beside others that do nothing of the kind: it is found, and nobody else pays for it."""

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

INNOCENTS = 8
LIMIT_S = 60.0


@asynccontextmanager
async def kept(url: str, workers: int) -> AsyncGenerator[list[subprocess.Popen[bytes]]]:
    """So many worker processes; one that dies is replaced, as a fleet's parent does it."""

    def start() -> subprocess.Popen[bytes]:
        return worker_process(url, trial_s=0.5)

    async def keep() -> None:
        while True:
            await until(lambda: any(worker.poll() is not None for worker in running), LIMIT_S)
            running[:] = [worker if worker.poll() is None else start() for worker in running]

    running = [start() for _ in range(workers)]
    keeping = asyncio.create_task(keep())
    try:
        yield running
    finally:
        keeping.cancel()
        await asyncio.wait({keeping})
        for worker in running:
            worker.kill()
            worker.wait()


async def all_ended(client: ArqRedis) -> bool:
    return await left_behind(client) == {EVENTS.encode()}


@pytest.mark.parametrize("fuse_s", [0.0, 0.8])
async def test_poison_dies_alone(redis_url: str, fuse_s: float) -> None:
    # given a job that kills its worker, at once or later than a first trial lasts, beside others that run long enough
    # to be hit again and again, expect it to be found, and every other to come to its own end
    async with plain_client(redis_url) as client:
        for number in range(INNOCENTS):
            await client.enqueue_job("generate", 1.5, _job_id=f"innocent-{number}")
        await client.enqueue_job("generate", fuse_s, True, _job_id="poison")
        async with kept(redis_url, 2):
            await until(lambda: all_ended(client), LIMIT_S)
        ends = [entry for entry in await events(client) if entry["event"] in ("finished", "job_crashed")]
        assert {entry["job"] for entry in ends if entry["event"] == "job_crashed"} == {"poison"}
        finished = Counter(entry["job"] for entry in ends if entry["event"] == "finished")
        assert set(finished) == {f"innocent-{number}" for number in range(INNOCENTS)}


async def test_a_fleet_that_dies_twice_convicts_nobody(redis_url: str) -> None:
    # given many jobs whose workers are all killed, twice, expect them all to run a third time, and to end
    async with plain_client(redis_url) as client, kept(redis_url, 2) as workers:
        for number in range(40):
            await client.enqueue_job("generate", 4.0, _job_id=f"j{number}")
        for crash in range(2):
            await until(lambda crash=crash: ran(client, 40, crash), LIMIT_S)
            for worker in tuple(workers):
                worker.kill()
        await until(lambda: all_ended(client), LIMIT_S)
        assert "job_crashed" not in {entry["event"] for entry in await events(client)}


async def ran(client: ArqRedis, jobs: int, crashes: int) -> bool:
    """Whether so many have begun, or ended, after so many crashes."""
    noted = await events(client)
    ended = {entry["job"] for entry in noted if entry["event"] == "finished"}
    begun = {entry["job"] for entry in noted if entry["event"] == "started" and entry["crashes"] >= crashes}
    return len(begun | ended) >= jobs
