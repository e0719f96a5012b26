"""A worker process to be measured: `stock` arq or ours, `leased`, with the same job function.

Prints `ready`, then `<job id> <monotonic ns>` for each job that starts. The clock is the same for all processes of the
machine, and the measurement adds no load to Redis. It ends with its standard input, so it never outlives the benchmark.
"""

import asyncio
import os
import sys
from time import monotonic_ns
from typing import Any

import uvloop
from arq.connections import RedisSettings
from arq.typing import StartupShutdown, WorkerCoroutine
from arq.worker import Worker, func

from tailrace.broker.keys import JOB_FUNCTION
from tailrace.schemas.codec import decode_job, encode_job
from tailrace.worker.queue.leased_worker import LeasedWorker
from tailrace.worker.queue.leases import Lease


async def _job(ctx: dict[Any, Any], _request_id: str, hold_s: float = 0.0) -> None:
    print_line(f"{ctx['job_id']} {monotonic_ns()}")
    if hold_s:
        await asyncio.sleep(hold_s)


async def _ready(ctx: dict[Any, Any]) -> None:
    print_line("ready")


def print_line(line: str) -> None:
    """Prints a line for the benchmark, unbuffered."""
    os.write(1, f"{line}\n".encode())


async def _never_dead(request_id: str, _lease: Lease, code: str, message: str) -> None:
    print(f"job {request_id} ended without being run: {code}: {message}", file=sys.stderr)


async def stock(job: WorkerCoroutine, ready: StartupShutdown, redis_url: str, max_jobs: int) -> None:
    """A worker as in arq's documentation, but with msgpack and uvloop and without results and log lines, as ours."""
    worker = Worker(
        [func(job, name=JOB_FUNCTION)],
        redis_settings=RedisSettings.from_dsn(redis_url),
        max_jobs=max_jobs,
        keep_result=0,
        log_results=False,
        job_serializer=encode_job,
        job_deserializer=decode_job,
        on_startup=ready,
        handle_signals=False,
    )
    await worker.async_run()


async def _leased(redis_url: str, max_jobs: int) -> None:
    """Our worker with its default settings."""
    worker = LeasedWorker(
        [func(_job, name=JOB_FUNCTION)],
        redis_url=redis_url,
        on_dead=_never_dead,
        max_jobs=max_jobs,
        on_startup=_ready,
        handle_signals=False,
    )
    await worker.run()


def end_with_stdin() -> None:
    """Ends this process with its standard input, on which nothing may be sent."""
    asyncio.get_running_loop().add_reader(0, os._exit, 0)


async def main(side: str, redis_url: str, max_jobs: int) -> None:
    """Runs a worker until standard input ends."""
    end_with_stdin()
    if side == "stock":
        await stock(_job, _ready, redis_url, max_jobs)
    else:
        await _leased(redis_url, max_jobs)


if __name__ == "__main__":
    uvloop.run(main(sys.argv[1], sys.argv[2], int(sys.argv[3])))
