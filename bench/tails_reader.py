"""The reader of `bench tails`: many tails in one process, in one of several ways.

`python -m bench.tails_reader WAY URL COUNT` prints "open" and the memory of a tail in bytes once every tail has reached
the end of its log. Each line on standard input is a number of seconds, for which it measures; it then prints one JSON
line (`Measured`).
"""

import asyncio
import os
import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from functools import partial
from time import monotonic, monotonic_ns, process_time

import msgspec
import uvloop

from bench.statistics import percentile
from tailrace.producers.client import Client
from tailrace.producers.options import ClientOptions
from tailrace.producers.store import ProducerStore
from tailrace.producers.tail import log_tail as tails
from tailrace.producers.tail.fanout.fanout import Fanout
from tailrace.producers.tail.log_tail import Tailed
from tailrace.schemas.deltas import AssistantDelta
from tailrace.schemas.ids import BEGINNING, EntryId

_AT_ONCE = 100
_PAGE_BYTES = os.sysconf("SC_PAGE_SIZE")


class Measured(msgspec.Struct):
    """The measurements of one window."""

    seconds: float
    deltas: int
    cpu_s: float
    p50_ms: float
    p99_ms: float


class Count:
    """What was delivered since the last reset."""

    def __init__(self) -> None:
        self.deltas = 0
        self.late_ns: list[int] = []

    def reset(self) -> None:
        """Starts again at zero."""
        self.deltas, self.late_ns = 0, []


async def follow(items: AsyncIterator[Tailed], count: Count, opened: Callable[[], None]) -> None:
    """Follows one tail and records the latency of each delta."""
    async for item in items:
        if isinstance(item.entry, AssistantDelta):
            count.deltas += 1
            count.late_ns.append(monotonic_ns() - int(item.entry.content or 0))
        elif item.cursor == "1-0":
            opened()


async def follow_raw(fanout: Fanout, request_id: str, count: Count, opened: Callable[[], None]) -> None:
    """Follows a log through the hub alone, without decoding entries."""
    place, position = fanout.place(request_id), BEGINNING
    while True:
        if entries := await place.read(request_id, position, None):
            count.deltas += len(entries)
            position = entries[-1].id
        if position >= EntryId(1, 0):
            opened()


def rss_bytes(pid: int | None = None) -> int:
    """The resident memory of a process, by default this one, in bytes (proc(5), statm)."""
    with open(f"/proc/{pid or 'self'}/statm") as statm:
        return int(statm.read().split()[1]) * _PAGE_BYTES


async def main(way: str, url: str, number: int) -> None:
    """Opens the tails, then measures on each command."""
    store = ProducerStore(url, timeout_s=30.0)
    client = Client(url, ClientOptions(timeout_s=30.0, away_limit_s=60.0, stalled_after_s=3_600.0))
    fanout = Fanout(store)
    count = Count()
    # One connection of its own, whichever way is measured: the figure of connections leaves it out.
    await (client.ping() if way == "client" else store.record("bench-0"))
    before = rss_bytes()

    async def each(request_id: str, opened: Callable[[], None]) -> None:
        if way == "client":
            await follow(client.tail(request_id), count, opened)
        elif way == "hub":
            await follow_raw(fanout, request_id, count, opened)
        else:
            opening = partial(tails.open_log, store, request_id, BEGINNING)
            await follow(tails.tail(store, request_id, opening, tails.tailed, away_limit_s=60.0), count, opened)

    readers = await _open(each, number)
    await asyncio.sleep(0.5)
    print("open", (rss_bytes() - before) // number, flush=True)
    while line := await asyncio.to_thread(sys.stdin.readline):
        count.reset()
        began, used = monotonic(), process_time()
        await asyncio.sleep(float(line))
        seconds, cpu_s = monotonic() - began, process_time() - used
        late_ms = [late / 1e6 for late in count.late_ns] or [0.0]
        measured = Measured(seconds, count.deltas, cpu_s, percentile(late_ms, 50), percentile(late_ms, 99))
        print(msgspec.json.encode(measured).decode(), flush=True)
        failed = [reader for reader in readers if reader.done()]
        if failed:
            failed[0].result()


async def _open(each: Callable[[str, Callable[[], None]], Awaitable[None]], number: int) -> list[asyncio.Task[None]]:
    """Opens tails, not all at once: the blocking way would exceed the server's backlog of connections."""
    tasks: list[asyncio.Task[None]] = []
    for first in range(0, number, _AT_ONCE):
        waiting: list[asyncio.Event] = []
        for index in range(first, min(first + _AT_ONCE, number)):
            opened = asyncio.Event()
            waiting.append(opened)
            tasks.append(asyncio.ensure_future(each(f"bench-{index}", opened.set)))
        await asyncio.gather(*(opened.wait() for opened in waiting))
    return tasks


if __name__ == "__main__":
    uvloop.run(main(sys.argv[1], sys.argv[2], int(sys.argv[3])))
