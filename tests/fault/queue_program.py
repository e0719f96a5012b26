"""A worker process for the fault tests: `python queue_program.py URL SETTINGS`. Its job records events in Redis.

SETTINGS are the worker's, as JSON. The job runs for the given number of seconds, or until it is asked to stop. A job
with `kills` kills its worker at its end.
"""

import asyncio
import json
import os
import signal
import sys
from typing import Any

from arq.connections import ArqRedis
from arq.worker import RetryJob, func

from tailrace.broker import keys
from tailrace.worker.queue.leased_worker import LeasedWorker
from tailrace.worker.queue.leases import Lease, Stop

EVENTS = "test:events"


async def _note(redis: ArqRedis, event: str, lease: Lease) -> None:
    entry = {
        "event": event,
        "pid": os.getpid(),
        "job": lease.request_id,
        "attempt": lease.attempt,
        "why": lease.why,
        "crashes": lease.crashes,
    }
    await redis.rpush(EVENTS, json.dumps(entry))


async def generate(ctx: dict[Any, Any], runs_s: float, kills: bool = False) -> None:
    """Runs for `runs_s` seconds or until asked to stop. When the lease is lost it returns as if it had finished."""
    lease: Lease = ctx["lease"]
    redis: ArqRedis = ctx["redis"]
    await _note(redis, "started", lease)
    await asyncio.wait({lease.stopped}, timeout=runs_s)
    if kills and not lease.stopped.done():
        os.kill(os.getpid(), signal.SIGKILL)
    stopped = lease.stopped.result() if lease.stopped.done() else None
    await _note(redis, stopped.value if stopped else "finished", lease)
    if stopped is Stop.DRAINED:
        raise RetryJob


async def _main(url: str, settings: dict[str, Any]) -> None:
    job = func(generate, name=keys.JOB_FUNCTION)
    ctx: dict[Any, Any] = {}

    async def on_dead(job_id: str, lease: Lease, code: str, message: str) -> None:
        await _note(ctx["redis"], code, lease)

    worker = LeasedWorker([job], redis_url=url, on_dead=on_dead, ctx=ctx, **settings)
    try:
        await worker.run()
    finally:
        await worker.close()


if __name__ == "__main__":
    asyncio.run(_main(sys.argv[1], json.loads(sys.argv[2])))
