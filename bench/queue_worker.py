"""A worker process to be measured: `stock` arq or ours, `leased`, around the same job function.

Says on stdout `ready`, then `<job id> <monotonic ns>` for each job that starts: the clock is the machine's, the same
for all processes, and Redis does not hear of it. Ends when its stdin does, so that it never outlives the benchmark.
`stock-sdk` is stock arq with the job that one would write: the SDK's stream, an entry of a Redis stream for each chunk.
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
from openai import AsyncOpenAI, AsyncStream
from openai.types.chat import ChatCompletionChunk

from schemas.codec import decode_job, encode_job
from schemas.keys import JOB_FUNCTION
from worker.lease import Lease
from worker.queue import LeasedWorker


async def _job(ctx: dict[Any, Any], _request_id: str, hold_s: float = 0.0) -> None:
    _say(f"{ctx['job_id']} {monotonic_ns()}")
    if hold_s:
        await asyncio.sleep(hold_s)


async def _answer(ctx: dict[Any, Any], request_id: str, parameters: dict[str, Any]) -> None:
    """What `tailrace worker` does, done plainly."""
    client: AsyncOpenAI = ctx["openai"]
    stream: AsyncStream[ChatCompletionChunk] = await client.chat.completions.create(**parameters, stream=True)
    async with stream:
        async for chunk in stream:
            await ctx["redis"].xadd(f"answer:{request_id}", {"e": chunk.model_dump_json(exclude_unset=True)})


async def _connect(ctx: dict[Any, Any]) -> None:
    ctx["openai"] = AsyncOpenAI(max_retries=0)
    _say("ready")


async def _ready(ctx: dict[Any, Any]) -> None:
    _say("ready")


def _say(line: str) -> None:
    os.write(1, f"{line}\n".encode())


async def _never_dead(request_id: str, _lease: Lease, code: str, message: str) -> None:
    print(f"job {request_id} ended unrun: {code}: {message}", file=sys.stderr)


async def _stock(job: WorkerCoroutine, ready: StartupShutdown, redis_url: str, max_jobs: int) -> None:
    """As arq's documentation sets one up; but msgpack, uvloop, no results and no log lines, as ours."""
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
    """With the settings that a worker has by default."""
    worker = LeasedWorker(
        [func(_job, name=JOB_FUNCTION)],
        redis_url=redis_url,
        on_dead=_never_dead,
        max_jobs=max_jobs,
        on_startup=_ready,
        handle_signals=False,
    )
    await worker.async_run()


async def main(side: str, redis_url: str, max_jobs: int) -> None:
    """Runs a worker until stdin ends."""
    asyncio.get_running_loop().add_reader(0, os._exit, 0)
    match side:
        case "stock":
            await _stock(_job, _ready, redis_url, max_jobs)
        case "stock-sdk":
            await _stock(_answer, _connect, redis_url, max_jobs)
        case _:
            await _leased(redis_url, max_jobs)


if __name__ == "__main__":
    uvloop.run(main(sys.argv[1], sys.argv[2], int(sys.argv[3])))
