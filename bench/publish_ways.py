"""The ways to write that `bench publish` measures: the worker's publisher, one XADD at a time, and RESP by hand."""

import asyncio
from collections.abc import AsyncGenerator, Sequence
from contextlib import asynccontextmanager
from typing import Protocol, cast
from urllib.parse import urlsplit

import hiredis
from redis.asyncio import Redis

from bench.tails_writer import TOKEN
from tailrace.broker.keys import ENTRY_FIELD, log_key
from tailrace.worker.publish.commit_line import CommitLine
from tailrace.worker.publish.publisher import Publisher

_ENDLESS = 1 << 40
_PREFIX = b"*6\r\n$4\r\nXADD\r\n$%d\r\n%b\r\n$10\r\nNOMKSTREAM\r\n"
_COMMAND = b"%b$%d\r\n%b\r\n$1\r\ne\r\n$%d\r\n%b\r\n"


def request_id(number: int) -> str:
    """The ids of the requests that `bench.tails_writer.prepare` creates."""
    return f"bench-{number}"


class Way(Protocol):
    """One way to write."""

    def append(self, stream: int, entry: bytes) -> None:
        """Adds an entry to a log. Returns at once."""
        ...

    def go(self) -> None:
        """No more entries come for now, so the buffered ones may be sent. Returns at once."""
        ...

    async def written(self) -> None:
        """Waits until Redis has all entries."""
        ...


class Ours:
    """The worker's publisher."""

    def __init__(self, publisher: Publisher, streams: int) -> None:
        self._writers = [publisher.open_writer(request_id(number), 1, TOKEN, lambda: True) for number in range(streams)]

    def append(self, stream: int, entry: bytes) -> None:
        """Appends as an attempt does."""
        self._writers[stream].append_entry(entry)

    def go(self) -> None:
        """Does nothing: the publisher sends by itself."""

    async def written(self) -> None:
        """Flushes every writer, as an attempt does before its end."""
        for writer in self._writers:
            if writer.buffer.unwritten_entries:
                await writer.flush()


class OneByOne:
    """The obvious way: an awaited XADD for each entry, by redis-py."""

    def __init__(self, redis: Redis, streams: int) -> None:
        self._redis = redis
        self._logs = [log_key(request_id(number)) for number in range(streams)]
        self._waiting: list[tuple[str, bytes]] = []

    def append(self, stream: int, entry: bytes) -> None:
        """Keeps the entry until `written`."""
        self._waiting.append((self._logs[stream], entry))

    def go(self) -> None:
        """Does nothing: `written` sends."""

    async def written(self) -> None:
        """Sends the entries one after the other."""
        for log, entry in self._waiting:
            await self._redis.xadd(log, {ENTRY_FIELD: entry}, nomkstream=True)
        self._waiting.clear()


class ByHand(asyncio.Protocol):
    """The floor: commands rendered by hand, one write for all of them, replies only counted. No fencing, no pushes."""

    def __init__(self, streams: int) -> None:
        logs = [log_key(request_id(number)).encode() for number in range(streams)]
        self._prefixes = [_PREFIX % (len(log), log) for log in logs]
        self._seqs = [0] * streams
        self._waiting: list[bytes] = []
        self._transport: asyncio.WriteTransport | None = None
        self._reader = hiredis.Reader()
        self._open = 0
        self._all: asyncio.Future[None] | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Keeps the transport."""
        self._transport = cast(asyncio.WriteTransport, transport)  # a stream's transport is one

    def data_received(self, data: bytes) -> None:
        """Counts the replies."""
        self._reader.feed(data)
        while self._reader.gets() is not False:
            self._open -= 1
        if not self._open and self._all is not None:
            self._all.set_result(None)
            self._all = None

    def append(self, stream: int, entry: bytes) -> None:
        """Renders the command at once."""
        self._seqs[stream] += 1
        entry_id = b"1-%d" % self._seqs[stream]
        self._waiting.append(_COMMAND % (self._prefixes[stream], len(entry_id), entry_id, len(entry), entry))

    def go(self) -> None:
        """Sends all commands in one write, unless one is in flight."""
        if self._waiting and not self._open and self._transport is not None:
            self._open = len(self._waiting)
            self._transport.write(b"".join(self._waiting))
            self._waiting.clear()

    async def written(self) -> None:
        """Waits for the write in flight, and then for the rest."""
        while self._waiting or self._open:
            self.go()
            self._all = asyncio.get_running_loop().create_future()
            await self._all


@asynccontextmanager
async def ours(url: str, streams: int) -> AsyncGenerator[Way]:
    """The worker's publisher on its own connection."""
    line = CommitLine(url)
    async with Publisher(line, buffer_bytes=1 << 30, max_entries=_ENDLESS, max_bytes=_ENDLESS) as publisher:
        yield Ours(publisher, streams)


@asynccontextmanager
async def one_by_one(url: str, streams: int) -> AsyncGenerator[Way]:
    """One XADD at a time by redis-py."""
    async with Redis.from_url(url) as redis:
        yield OneByOne(redis, streams)


@asynccontextmanager
async def by_hand(url: str, streams: int) -> AsyncGenerator[Way]:
    """RESP rendered by hand."""
    parts = urlsplit(url)
    loop = asyncio.get_running_loop()
    transport, way = await loop.create_connection(lambda: ByHand(streams), parts.hostname or "", parts.port or 0)
    try:
        yield way
    finally:
        transport.close()


def entries(count: int) -> Sequence[bytes]:
    """Encoded deltas of about one token each."""
    return [
        b'{"message_type":"assistant_message","i":2,"ms":%d,"content":" word%d"}' % (n * 20, n) for n in range(count)
    ]
