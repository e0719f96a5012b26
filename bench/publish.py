"""`bench publish`: what writing a delta to the log costs, in CPU of the worker and of Valkey.

Measures the worker's publisher next to one awaited XADD per delta by redis-py, and next to RESP rendered by hand, which
has neither fencing nor pushes. In most cases each stream gets its deltas in one iteration of a loop, which then waits
for all of them. In the last case deltas are spread evenly over time, so a commit has only a few of them.
"""

import asyncio
import socket
import sys
from collections import defaultdict
from collections.abc import Callable, Sequence
from contextlib import AbstractAsyncContextManager, nullcontext
from functools import partial
from time import monotonic, process_time
from typing import NamedTuple
from urllib.parse import urlsplit

import uvloop

from bench.figures import Report
from bench.programs import Fleet, cpu_s
from bench.publish_ways import Way, by_hand, entries, one_by_one, ours
from bench.statistics import interleaved, median
from bench.tails_writer import prepare
from tailrace.broker import keys
from tailrace.demo.parts import clean_environment
from tailrace.demo.valkey import EmbeddedValkey

BATCH = 64
THIN, THIN_RATE = 500, 20.0
STEP_S = 0.001
OURS, HEARD, PEER, FLOOR = "publisher", "publisher, pushes heard", "an awaited XADD each", "RESP by hand"
WAYS = {OURS: ours, HEARD: ours, PEER: one_by_one, FLOOR: by_hand}
BATCH_US, THIN_US = 3.3, 5.0
_READY_S = 20.0


class Case(NamedTuple):
    """How many streams there are, and how many deltas each gets per iteration; `SPREAD` has THIN_RATE a second."""

    name: str
    streams: int
    each: int
    at_most_us: float | None = None


CASES = (
    Case(f"1 stream, {BATCH} deltas at a time", 1, BATCH, BATCH_US),
    Case("1 stream", 1, 1),
    Case("50 streams, 1 delta of each at a time", 50, 1),
    Case("500 streams, 1 delta of each at a time", 500, 1, THIN_US),
)
SPREAD = Case(f"{THIN} streams, {THIN_RATE:g} deltas/s each, evenly spread", THIN, 0)


class Effort(NamedTuple):
    """How much is measured."""

    rounds: int
    deltas: int
    spread_s: float


FULL = Effort(5, 20_000, 3.0)
QUICK = Effort(1, 5_000, 1.0)


class Cost(NamedTuple):
    """Microseconds of CPU a delta."""

    client_us: float
    server_us: float


def run(report: Report, *, quick: bool) -> None:
    """Measures every case; each way once per round."""
    effort = QUICK if quick else FULL
    for case in (*CASES, SPREAD):
        report.progress(case.name)
        costs: dict[str, list[Cost]] = defaultdict(list)
        names = [name for name in WAYS if name != PEER or case is not SPREAD]  # it cannot write so many a second
        ways = {name: partial(_measure, name, case, effort, costs[name].append) for name in names}
        interleaved(ways, effort.rounds)
        _report_case(report, case, costs)


def _report_case(report: Report, case: Case, costs: dict[str, list[Cost]]) -> None:
    client = {name: median([cost.client_us for cost in found]) for name, found in costs.items()}
    server = {name: median([cost.server_us for cost in found]) for name, found in costs.items()}
    for name, limit in ((OURS, case.at_most_us), (HEARD, None)):
        beside = [other for other in (PEER, FLOOR) if other in client]
        report.figure(case.name, f"{name}, client", client[name], "us/delta",
                      beside={other: client[other] for other in beside}, at_most=limit)  # fmt: skip
        report.figure(case.name, f"{name}, Valkey", server[name], "us/delta",
                      beside={other: server[other] for other in beside})  # fmt: skip


def _measure(name: str, case: Case, effort: Effort, take: Callable[[Cost], None]) -> float:
    """Measures one way once, on its own Valkey; returns the client's microseconds."""
    with EmbeddedValkey() as valkey, _listener(valkey.url) if name == HEARD else nullcontext():
        cost = uvloop.run(_cost(WAYS[name], valkey, case, effort, is_peer=name == PEER))
    take(cost)
    return cost.client_us


async def _cost(
    way: Callable[[str, int], AbstractAsyncContextManager[Way]],
    valkey: EmbeddedValkey,
    case: Case,
    effort: Effort,
    *,
    is_peer: bool,
) -> Cost:
    await prepare(valkey.url, case.streams)
    raws = entries(1_000)
    async with way(valkey.url, case.streams) as writing:
        await _iterations(writing, case, raws, max(1, case.streams * case.each))  # warm-up; also connects
        client_s, server_s = process_time(), cpu_s(valkey.pid)
        if case is SPREAD:
            count = await _spread(writing, raws, effort.spread_s)
        else:
            # Its time is proportional to the number of deltas, so fewer are enough.
            count = await _iterations(writing, case, raws, effort.deltas // (10 if is_peer else 1))
        return Cost((process_time() - client_s) / count * 1e6, (cpu_s(valkey.pid) - server_s) / count * 1e6)


async def _iterations(writing: Way, case: Case, raws: Sequence[bytes], deltas: int) -> int:
    count = 0
    while count < deltas:
        for stream in range(case.streams):
            for _ in range(max(1, case.each)):  # `SPREAD` uses this for warm-up only
                writing.append(stream, raws[count % len(raws)])
                count += 1
        await writing.written()
    return max(count, 1)


async def _spread(writing: Way, raws: Sequence[bytes], for_s: float) -> int:
    began, due = monotonic(), 0
    while (now := monotonic()) - began < for_s:
        last, due = due, int((now - began) * THIN_RATE * THIN)
        for number in range(last, due):
            writing.append(number % THIN, raws[number % len(raws)])
        writing.go()
        await asyncio.sleep(STEP_S)
    await writing.written()
    return due


def _listener(url: str) -> Fleet:
    """A process that receives every push and parses none."""
    fleet = Fleet()
    fleet.start("the listener", ["-m", "bench.publish", url], clean_environment({}))
    fleet.wait_for_lines(1, _READY_S, "listeners ready")
    return fleet


def _listen(url: str) -> None:
    parts = urlsplit(url)
    with socket.create_connection((parts.hostname, parts.port)) as connection:
        channels = " ".join(keys.push_channel(number) for number in range(keys.PUSH_SHARDS))
        connection.sendall(f"SUBSCRIBE {channels}\r\n".encode())
        connection.recv(1 << 16)
        print("ready", flush=True)
        while connection.recv(1 << 20):
            pass


if __name__ == "__main__":
    _listen(sys.argv[1])
