"""The writer of `bench tails`: one running attempt for each tail, through the worker's publisher.

`python -m bench.tails_writer URL COUNT RATE [mute]` prints "ready" once every log exists. After a line on standard
input it appends RATE deltas a second to each log, evenly spread, until it is killed. The text of a delta is the time at
which it was appended (ns, by the machine's monotonic clock).
"""

import asyncio
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from time import monotonic, monotonic_ns

import uvloop
from redis.asyncio import Redis

from tailrace.broker.keys import log_key, rec_key
from tailrace.schemas.codec import encode_entry
from tailrace.schemas.deltas import FORMAT_VERSION, Accepted, AssistantDelta, AttemptStarted, MessageIds
from tailrace.worker.publish.commit_line import CommitLine
from tailrace.worker.publish.commit_replies import Result
from tailrace.worker.publish.log_buffer import Batch
from tailrace.worker.publish.log_writer import LogWriter
from tailrace.worker.publish.publisher import Publisher

TOKEN = "bench"  # noqa: S105 -- names the owner of an attempt; nothing is secret here
_LIFE_S = 600
_RECORD: dict[str | bytes, bytes | float | int | str] = {
    **{"status": "running", "attempt": 1, "token": TOKEN, "api": "chat", "model": "m"},
    **{
        "submitted_ms": 1_767_225_600_000,
        "deadline_ms": 4_102_444_800_000,
    },  # the gateway asks for the state of a request
}
_STEP_S = 0.002
BACKLOG_BYTES = 512 * 200  # about one full commit


async def prepare(url: str, count: int) -> None:
    """Creates records and logs of requests whose first attempt has begun."""
    accepted = encode_entry(Accepted(FORMAT_VERSION, "2026-01-01T00:00:00.000Z", "chat", "m"))
    started = encode_entry(
        AttemptStarted(FORMAT_VERSION, 1, "2026-01-01T00:00:00.000Z", "first", MessageIds("message-a", "message-t"))
    )
    async with Redis.from_url(url) as redis:
        for first in range(0, count, 500):
            async with redis.pipeline(transaction=False) as pipe:
                for number in range(first, min(first + 500, count)):
                    request_id = f"bench-{number}"
                    pipe.hset(rec_key(request_id), mapping=_RECORD)
                    pipe.xadd(log_key(request_id), {"e": accepted}, id="0-1")
                    pipe.xadd(log_key(request_id), {"e": started}, id="1-0")
                    pipe.expire(rec_key(request_id), _LIFE_S)
                    pipe.expire(log_key(request_id), _LIFE_S)
                await pipe.execute()


@dataclass
class Count:
    """How many deltas were appended."""

    written: int = 0


class Mute(CommitLine):
    """Commits without pushes, to measure what pushes cost."""

    async def commit(self, batches: Sequence[Batch]) -> list[Result]:
        """As `CommitLine.commit`."""
        results = await super().commit(batches)
        self._unpushed = []
        return results


async def write(publisher: Publisher, writers: list[LogWriter], rate: float, count: Count) -> None:
    """Appends to the logs in rotation, evenly spread over time.

    It appends less when Redis or the machine cannot keep up, as a worker would. Otherwise the latencies would only show
    the length of this writer's backlog.
    """
    began, due = monotonic(), 0
    while True:
        last, due = due, int((monotonic() - began) * rate * len(writers))
        for number in range(last, due):
            if publisher.buffered_bytes > BACKLOG_BYTES:
                break
            writers[number % len(writers)].append_entry(encode_entry(AssistantDelta(2, 801, str(monotonic_ns()))))
            count.written += 1
        await asyncio.sleep(_STEP_S)


async def main(url: str, count: int, rate: float, mute: bool) -> None:
    """Writes until it is killed. Each further line on standard input is answered with the number of deltas so far."""
    await prepare(url, count)
    line = Mute(url) if mute else CommitLine(url)
    async with Publisher(line, buffer_bytes=1 << 30, max_entries=1 << 30, max_bytes=1 << 40) as publisher:
        writers = [publisher.open_writer(f"bench-{number}", 1, TOKEN, lambda: True) for number in range(count)]
        print("ready", flush=True)
        await asyncio.to_thread(sys.stdin.readline)
        written = Count()
        writing = asyncio.create_task(write(publisher, writers, rate, written))
        while await asyncio.to_thread(sys.stdin.readline):
            print(written.written, flush=True)
        writing.cancel()


if __name__ == "__main__":
    uvloop.run(main(sys.argv[1], int(sys.argv[2]), float(sys.argv[3]), "mute" in sys.argv[4:]))
