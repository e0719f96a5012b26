"""A delta leaves no garbage in cycles, so that pauses of the garbage collector do not grow with the answer."""

import gc
from collections.abc import Generator
from contextlib import contextmanager

import pytest
from redis.asyncio import Redis

from bench.answers import KINDS, Kind
from tailrace.broker.keys import log_key
from tailrace.schemas.codec import encode_entry
from tailrace.worker.interface.stream_decoder import StreamDecoder
from tailrace.worker.publish.commit_line import CommitLine
from tailrace.worker.publish.publisher import Publisher

FEW, MANY = 200, 2_000
PIECES = 20
"""The number of commits, however long the answer: garbage of a commit must not count as that of a delta."""


@contextmanager
def uncollected() -> Generator[list[int]]:
    """Counts the objects that its body leaves in cycles."""
    found: list[int] = []
    gc.collect()
    gc.disable()
    try:
        yield found
        found.append(gc.collect())
    finally:
        gc.enable()


async def left_by(publisher: Publisher, redis: Redis, kind: Kind, chunks: int) -> int:
    """The garbage of an answer of this many chunks, from its bytes to the log."""
    events = kind.make(chunks).events
    request_id = f"r{chunks}"
    await redis.xadd(log_key(request_id), {"e": "begun"}, id="1-0")
    writer = publisher.open_writer(request_id, 1, "owner", lambda: True)
    with uncollected() as found:
        reader = StreamDecoder("chat", kind.options)
        for first in range(0, len(events), len(events) // PIECES):
            for event in events[first : first + len(events) // PIECES]:
                for delta in reader.feed(event):
                    writer.append_entry(encode_entry(delta))
            await writer.flush()
        reader.close()
        del reader
    assert writer.seq > chunks * 0.85
    return found[0]


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.name)
async def test_a_delta_leaves_no_cycle(kind: Kind, redis: Redis, redis_url: str) -> None:
    # given the collector off, if a short answer and one ten times as long are published, expect as much garbage
    line = CommitLine(redis_url)
    async with Publisher(line, buffer_bytes=1 << 30, max_entries=1 << 20, max_bytes=1 << 30) as publisher:
        await left_by(publisher, redis, kind, 100)  # connects and fills caches
        few, many = [await left_by(publisher, redis, kind, chunks) for chunks in (FEW, MANY)]
    assert many - few < MANY * 0.01
