"""The naive worker: a plain, well-written arq job as people write it today, which Tailrace is compared with.

`python -m bench.naive URL MAX_JOBS` prints "ready" and ends with its standard input. A job is `(request id, parameters
of the SDK's create)`. Each chunk, an object of the SDK, becomes an entry of a Redis stream by an awaited XADD.
"""

import sys
from typing import Any

import uvloop
from openai import AsyncOpenAI, AsyncStream
from openai.types.chat import ChatCompletionChunk

from bench.queue_worker import end_with_stdin, print_line, stock


def log_key(request_id: str) -> str:
    """The stream of an answer."""
    return f"answer:{request_id}"


async def answer(ctx: dict[Any, Any], request_id: str, parameters: dict[str, Any]) -> None:
    """The job: streams an answer into its Redis stream."""
    client: AsyncOpenAI = ctx["openai"]
    stream: AsyncStream[ChatCompletionChunk] = await client.chat.completions.create(**parameters, stream=True)
    async with stream:
        async for chunk in stream:
            await ctx["redis"].xadd(log_key(request_id), {"e": chunk.model_dump_json(exclude_unset=True)})


async def _connect(ctx: dict[Any, Any]) -> None:
    ctx["openai"] = AsyncOpenAI(max_retries=0)
    print_line("ready")


async def main(redis_url: str, max_jobs: int) -> None:
    """Runs the worker until standard input ends."""
    end_with_stdin()
    await stock(answer, _connect, redis_url, max_jobs)


if __name__ == "__main__":
    uvloop.run(main(sys.argv[1], int(sys.argv[2])))
