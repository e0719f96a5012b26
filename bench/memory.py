"""`bench memory`: the memory of a running answer in its worker, and of deltas and finished requests in Redis.

Redis' memory is what the server reports for each key (MEMORY USAGE). It is compared with the bytes of the text, and
with a stream that has a full Letta message for each delta instead of our short entries.
"""

from time import monotonic, sleep
from typing import NamedTuple

import msgspec

from bench.feeder import Plan
from bench.figures import BenchError, Report
from bench.path import FLOOR, HTTPX, NAIVE, OURS, Setup
from bench.tails_reader import rss_bytes
from tailrace.broker.keys import QUEUE
from tailrace.schemas.codec import decode_entry, encode_entry
from tailrace.schemas.deltas import DELTAS, AssistantDelta, AttemptStarted
from tailrace.schemas.letta import LettaView

RSS_KIB = 60.0
IDLE_PER_S = 1.0
WARM = 20
_ENDED_WITHIN_S = 60.0


class Effort(NamedTuple):
    """How much is measured: `--quick` or not."""

    streams: int
    settle_s: float
    requests: int
    chunks: int


FULL = Effort(streams=500, settle_s=3.0, requests=100, chunks=500)
QUICK = Effort(streams=100, settle_s=1.0, requests=20, chunks=100)


class Rss(NamedTuple):
    """Resident memory of a worker process, in KiB."""

    before: float
    a_stream: float


class Kept(NamedTuple):
    """What Redis stores, in bytes."""

    a_request: float
    a_delta: float
    letta_a_delta: float
    text_a_delta: float
    entry_a_delta: float


def run(report: Report, *, quick: bool) -> None:
    """Measures and prints the results."""
    effort = QUICK if quick else FULL
    rss = {way: _rss(report, way, effort) for way in (OURS, HTTPX, NAIVE, FLOOR)}
    case = f"{effort.streams} running answers, {IDLE_PER_S:g} chunk/s each"
    beside = {way: one.a_stream for way, one in rss.items() if way != OURS}
    report.figure(case, f"{OURS}, memory", rss[OURS].a_stream, "KiB/answer", beside=beside, at_most=RSS_KIB)
    beside = {way: one.before / 1024 for way, one in rss.items() if way != OURS}
    report.figure("none running", f"{OURS}, memory", rss[OURS].before / 1024, "MiB", beside=beside)
    kept = _kept(report, effort)
    case = f"answers of {effort.chunks} deltas"
    beside = {
        "full Letta messages": kept.letta_a_delta,
        "the entry alone": kept.entry_a_delta,
        "the text alone": kept.text_a_delta,
    }
    report.figure(case, f"{OURS}, Redis' memory", kept.a_delta, "bytes/delta", beside=beside)
    report.figure("answers of 1 delta", f"{OURS}, Redis' memory of a finished request", kept.a_request, "bytes/request")


def _rss(report: Report, way: str, effort: Effort) -> Rss:
    report.progress(f"{way}: memory with {effort.streams} answers")
    with Setup(way, effort.streams) as setup:
        setup.open(Plan(chunks=5), "warm-", WARM)  # warm-up; also connects
        setup.go()
        setup.until_running(0)
        sleep(effort.settle_s)
        (pid,) = (program.popen.pid for program in setup.workers.programs)
        before = rss_bytes(pid)
        setup.open(Plan(per_s=IDLE_PER_S))
        setup.go()
        sleep(effort.settle_s)
        return Rss(before / 1024, (rss_bytes(pid) - before) / 1024 / effort.streams)


def _kept(report: Report, effort: Effort) -> Kept:
    report.progress(f"Redis' memory, {effort.requests} requests")
    with Setup(OURS, effort.requests) as setup:
        _finish(setup, 1, "short-", effort.requests)
        _finish(setup, effort.chunks, "long-", effort.requests)
        short, long = (setup.broker.memory(f"*{prefix}*") / effort.requests for prefix in ("short-", "long-"))
        entries = setup.entries("long-0")
        messages = _letta(entries)
        setup.broker.add_streams({f"letta-{number}": messages for number in range(effort.requests)})
        letta = setup.broker.memory("letta-*") / effort.requests
    deltas = [entry for entry in map(decode_entry, entries) if isinstance(entry, DELTAS)]
    texts = [entry.content for entry in deltas if isinstance(entry, AssistantDelta) and entry.content]
    return Kept(
        short,
        (long - short) / (effort.chunks - 1),
        letta / len(messages),
        sum(len(text.encode()) for text in texts) / len(texts),
        sum(len(encode_entry(entry)) for entry in deltas) / len(deltas),
    )


def _letta(entries: list[bytes]) -> list[bytes]:
    """The full message of each delta of a log."""
    view: LettaView | None = None
    messages: list[bytes] = []
    for entry in map(decode_entry, entries):
        if isinstance(entry, AttemptStarted):
            view = LettaView(entry)
        elif isinstance(entry, DELTAS) and view is not None:
            messages.append(msgspec.json.encode(view.message(entry)))
    return messages


def _finish(setup: Setup, chunks: int, prefix: str, count: int) -> None:
    """Runs `count` requests to their end, until the queue is empty."""
    setup.open(Plan(chunks=chunks), prefix, count)
    setup.go()
    setup.until_running(0)
    deadline = monotonic() + _ENDED_WITHIN_S
    while setup.broker.waiting(QUEUE):
        if monotonic() > deadline:
            raise BenchError(f"not all of {count} requests have ended within {_ENDED_WITHIN_S:g} s")
        sleep(0.05)
