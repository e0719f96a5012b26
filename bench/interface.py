"""`bench interface`: what a chunk costs, from its bytes to its deltas, by the length of the answer.

Measures the CPU time of this thread, so that other load on the machine matters little. The floor decodes the same chunk
into the few fields that are read. The naive way parses the whole argument text again at each fragment, with the fastest
parser for incomplete JSON (jiter's partial mode, in pydantic-core).
"""

from collections.abc import Callable, Sequence
from itertools import accumulate
from time import thread_time_ns

import msgspec
from pydantic_core import from_json

from bench.answers import KINDS, Answer, Kind
from bench.figures import Report
from bench.statistics import flatness, interleaved, median
from tailrace.schemas.errors import UpstreamError
from tailrace.worker.interface.chat.chat_interface import ChatInterface
from tailrace.worker.interface.chat.chunk import ChatChunk, decode_chunk
from tailrace.worker.interface.stream_decoder import StreamDecoder

SIZES = (100, 1_000, 20_000)
ROUNDS, QUICK_ROUNDS = 7, 3
MEASURED_CHUNKS, QUICK_MEASURED_CHUNKS = 20_000, 5_000
NAIVE_SAMPLES = 500
"""How many fragments the naive way is measured at; all fragments of the longest answer would take minutes."""

FLAT = 1.3
"""How many times the cost in the shortest answer the cost in the longest may be, to allow for inexact measurements."""

READER, READ, FEED = "StreamDecoder.feed", "ChatInterface.read", "ChatInterface.feed"
FLOOR, NAIVE = "msgspec decode alone", "whole text parsed again"


class _Function(msgspec.Struct):
    name: str | None = None
    arguments: str | None = None


class _Call(msgspec.Struct):
    index: int = 0
    id: str | None = None
    function: _Function | None = None


class _Delta(msgspec.Struct):
    content: str | None = None
    reasoning_content: str | None = None
    tool_calls: list[_Call] | None = None


class _Choice(msgspec.Struct):
    delta: _Delta
    finish_reason: str | None = None


class _Chunk(msgspec.Struct):
    """The fewest fields that a reader of the stream has to decode."""

    choices: list[_Choice]


_decode = msgspec.json.Decoder(_Chunk).decode


def run(report: Report, *, quick: bool) -> None:
    """Measures each kind of answer and prints its results."""
    rounds = QUICK_ROUNDS if quick else ROUNDS
    measured = QUICK_MEASURED_CHUNKS if quick else MEASURED_CHUNKS
    for kind in KINDS:
        by_size: dict[int, dict[str, float]] = {}
        for size in SIZES:
            report.progress(f"{kind.name}, {size} chunks")
            costs = interleaved(_ways(kind, kind.make(size), max(1, measured // size)), rounds)
            by_size[size] = {way: median(values) for way, values in costs.items()}
        _report(report, kind, by_size)


def _ways(kind: Kind, answer: Answer, times: int) -> dict[str, Callable[[], float]]:
    """The ways to read an answer; each returns its cost in microseconds per chunk."""
    chunks = [decode_chunk(data) for data in answer.data]

    def timed(way: Callable[[], UpstreamError | None]) -> Callable[[], float]:
        def cost() -> float:
            began_ns = thread_time_ns()
            for _ in range(times):
                if failure := way():
                    raise failure
            return (thread_time_ns() - began_ns) / 1000 / times / len(answer.data)

        return cost

    ways = {
        READER: timed(lambda: _reader(kind, answer)),
        READ: timed(lambda: _read(kind, answer)),
        FEED: timed(lambda: _feed(kind, chunks)),
        FLOOR: timed(lambda: _floor(answer)),
    }
    return ways | ({NAIVE: _naive(answer, times)} if answer.arguments else {})


def _reader(kind: Kind, answer: Answer) -> UpstreamError | None:
    reader = StreamDecoder("chat", kind.options)
    for event in answer.events:
        reader.feed(event)
    return reader.failure


def _read(kind: Kind, answer: Answer) -> UpstreamError | None:
    interface = ChatInterface(kind.options)
    for data in answer.data:
        interface.read("", data)
    return interface.failure


def _feed(kind: Kind, chunks: Sequence[ChatChunk]) -> UpstreamError | None:
    interface = ChatInterface(kind.options)
    for chunk in chunks:
        interface.feed(chunk)
    return interface.failure


def _floor(answer: Answer) -> None:
    for data in answer.data:
        _decode(data)


def _naive(answer: Answer, times: int) -> Callable[[], float]:
    """Measures at evenly spaced fragments, which gives the mean over all of them in less time."""
    whole, ends = "".join(answer.arguments), list(accumulate(map(len, answer.arguments)))
    samples = range(len(ends) - 1, -1, -max(1, len(ends) // NAIVE_SAMPLES))

    def cost() -> float:
        began_ns = thread_time_ns()
        for _ in range(times):
            for number in samples:
                _decode(answer.data[number + 1])  # the first chunk has no arguments
                from_json(whole[: ends[number]], allow_partial="trailing-strings")
        return (thread_time_ns() - began_ns) / 1000 / times / len(samples)

    return cost


def _report(report: Report, kind: Kind, by_size: dict[int, dict[str, float]]) -> None:
    for size, costs in by_size.items():
        for way in (READER, READ, FEED):
            peers = (FLOOR, NAIVE) if way == READ else (FLOOR,)  # the naive way also starts from the data of the event
            beside = {name: costs[name] for name in peers if name in costs}
            report.figure(f"{kind.name}, {size} chunks", way, costs[way], "us/chunk", beside=beside)
    for way in by_size[SIZES[0]]:
        case = f"{kind.name}, {SIZES[-1]} by {SIZES[0]} chunks"
        flat = flatness({size: costs[way] for size, costs in by_size.items()})
        report.figure(case, f"{way}, flatness", flat, "times", at_most=FLAT if way in (READER, READ, FEED) else None)
