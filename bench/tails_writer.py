"""The writer of `bench tails`: as many running attempts as there are tails, through the worker's own publisher.

`python -m bench.tails_writer URL COUNT RATE` says "ready" once every log stands; told to go on, it appends RATE deltas
a second to each, evenly spread, until it is ended. Each delta says in its text when it was appended (ns, by the
machine's clock).
"""

import asyncio
import sys
from time import monotonic, monotonic_ns

import uvloop
from redis.asyncio import Redis

from schemas.codec import encode_entry
from schemas.deltas import FORMAT_VERSION, Accepted, AssistantDelta, AttemptStarted, MessageIds
from schemas.keys import log_key, rec_key
from worker.commit_line import CommitLine
from worker.log_writer import LogWriter
from worker.publisher import Publisher

TOKEN = "bench"  # noqa: S105 -- names the owner of an attempt; nothing is secret here
_LIFE_S = 600
_STEP_S = 0.002


async def prepare(url: str, count: int) -> None:
    """Records and logs of requests whose first attempt has begun."""
    accepted = encode_entry(Accepted(FORMAT_VERSION, "2026-01-01T00:00:00.000Z", "chat", "m"))
    started = encode_entry(
        AttemptStarted(FORMAT_VERSION, 1, "2026-01-01T00:00:00.000Z", "first", MessageIds("message-a", "message-t"))
    )
    async with Redis.from_url(url) as redis:
        for first in range(0, count, 500):
            async with redis.pipeline(transaction=False) as pipe:
                for number in range(first, min(first + 500, count)):
                    request_id = f"bench-{number}"
                    pipe.execute_command("HSET", rec_key(request_id), "status", "running", "attempt", 1, "token", TOKEN)
                    pipe.xadd(log_key(request_id), {"e": accepted}, id="0-1")
                    pipe.xadd(log_key(request_id), {"e": started}, id="1-0")
                    pipe.expire(rec_key(request_id), _LIFE_S)
                    pipe.expire(log_key(request_id), _LIFE_S)
                await pipe.execute()


async def write(writers: list[LogWriter], rate: float) -> None:
    """Appends to each in its turn, so that the whole is even."""
    began, written = monotonic(), 0
    while True:
        due = int((monotonic() - began) * rate * len(writers))
        while written < due:
            writer = writers[written % len(writers)]
            writer.append(encode_entry(AssistantDelta(2, 801, str(monotonic_ns()))))
            written += 1
        await asyncio.sleep(_STEP_S)


async def main(url: str, count: int, rate: float) -> None:
    """Writes until it is ended."""
    await prepare(url, count)
    line = CommitLine(url)
    async with Publisher(line, buffer_bytes=1 << 30, max_entries=1 << 30, max_bytes=1 << 40) as publisher:
        writers = [publisher.open(f"bench-{number}", 1, TOKEN, lambda: True) for number in range(count)]
        print("ready", flush=True)
        await asyncio.to_thread(sys.stdin.readline)
        await write(writers, rate)


if __name__ == "__main__":
    uvloop.run(main(sys.argv[1], int(sys.argv[2]), float(sys.argv[3])))
