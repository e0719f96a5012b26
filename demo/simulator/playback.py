"""When each piece of a body is sent, and which faults occur: events and a scenario in, timed beats out.

Pure: times are seconds since the body began; the player of the beats has the clock.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterable, Iterator
from typing import Literal, NamedTuple

from tailrace.demo.simulator.plan import seeded
from tailrace.demo.simulator.scenario import Cut, End, ErrorEvent, Fault, Garbage, Rst, Scenario, Stall, StreamFault

ErrorBytes = Callable[[ErrorEvent, int], bytes]  # an error event after that many others, in the form of the API
Then = Literal["go on", "end", "cut", "rst"]
NEVER = float("inf")

_COMMENT = b": keep-alive\n\n"


class Beat(NamedTuple):
    """Bytes of the body that are due at `at_s`, how many events they complete, and what follows them.

    `alone`: whether to write it by itself, not together with its neighbours.
    """

    at_s: float
    data: bytes
    events: int = 0
    then: Then = "go on"
    alone: bool = False


Scheduled = tuple[float, bytes]


def schedule(events: Iterable[bytes], scenario: Scenario, usual_chunks_per_s: float) -> Iterator[Scheduled]:
    """Each event with the second at which it is due by the scenario's pace.

    `usual_chunks_per_s` is the pace if the scenario has none of its own; 0 is as fast as it is read.
    """
    pace = scenario.pace
    rate = usual_chunks_per_s if pace.chunks_per_s is None else pace.chunks_per_s
    rng = seeded(f"{scenario.seed}:pace")
    gap_s = 1 / rate if rate else 0.0
    at_s = 0.0
    for event in events:
        yield at_s, event
        at_s += gap_s * (1 + pace.jitter * (2 * rng.random() - 1))


class _Silence:
    """Keep-alive comments in the pauses of one body."""

    def __init__(self, keepalive_s: float | None) -> None:
        self._keepalive_s = keepalive_s
        self._last_s = 0.0

    def until(self, at_s: float) -> Iterator[Beat]:
        """The comments before `at_s`; endless if that is never reached."""
        if self._keepalive_s is not None:
            while self._last_s + self._keepalive_s < at_s:
                self._last_s += self._keepalive_s
                yield Beat(self._last_s, _COMMENT)
        self._last_s = at_s


def _due(faults: list[StreamFault], sent: int) -> Iterator[StreamFault]:
    while faults and faults[0].after <= sent:
        yield faults.pop(0)


def _pieces(beat: Beat, most: int, rng: random.Random) -> Iterator[Beat]:
    """The beat cut at arbitrary bytes."""
    at = 0
    while len(beat.data) - at > most:
        size = rng.randint(1, most)
        yield Beat(beat.at_s, beat.data[at : at + size], alone=True)
        at += size
    yield beat._replace(data=beat.data[at:], alone=True)


def play(events: Iterable[Scheduled], scenario: Scenario, faults: Iterable[Fault], error: ErrorBytes) -> Iterator[Beat]:
    """The beats of a body.

    Args:
        events: the events of the body without faults, each with its time.
        faults: those that apply to this call; those that replace the whole answer are ignored.
        error: renders an error event in the form of the API.
    """
    rng = seeded(f"{scenario.seed}:split")
    most = scenario.chunking.split_bytes
    silence = _Silence(scenario.keepalive_s)
    for beat in _strike(events, silence, [fault for fault in faults if isinstance(fault, StreamFault)], error):
        if most and len(beat.data) > 1:
            yield from _pieces(beat, most, rng)
        else:
            yield beat


def _strike(
    events: Iterable[Scheduled], silence: _Silence, faults: list[StreamFault], error: ErrorBytes
) -> Iterator[Beat]:
    faults = sorted(faults, key=lambda fault: fault.after)
    coming = iter(events)
    now_s = late_s = 0.0
    sent = 0
    while True:
        for fault in _due(faults, sent):
            if isinstance(fault, Stall):
                stall_s = NEVER if fault.for_s is None else fault.for_s
                now_s, late_s = now_s + stall_s, late_s + stall_s
                yield from silence.until(now_s)
                if now_s == NEVER:
                    yield Beat(NEVER, b"")
                    return
                continue
            yield _struck(fault, now_s, sent, error)
            if not isinstance(fault, Garbage):
                return
        upcoming = next(coming, None)
        if upcoming is None:
            yield Beat(now_s, b"", then="end")
            return
        now_s = max(now_s, upcoming[0] + late_s)
        yield from silence.until(now_s)
        sent += 1
        yield Beat(now_s, upcoming[1], 1)


def _struck(fault: Cut | Rst | End | ErrorEvent | Garbage, now_s: float, sent: int, error: ErrorBytes) -> Beat:
    match fault:
        case Cut():
            return Beat(now_s, b"", then="cut")
        case Rst():
            return Beat(now_s, b"", then="rst")
        case End():
            return Beat(now_s, b"", then="end")
        case ErrorEvent():
            return Beat(now_s, error(fault, sent), 1, then="end")
        case Garbage():
            return Beat(now_s, b"data: " + fault.data.encode() + b"\n\n")
