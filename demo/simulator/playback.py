"""When each piece of a body leaves, and what goes wrong on the way: events and a scenario in, timed beats out.

Pure: times are seconds since the body began; whoever plays the beats brings the clock.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterable, Iterator
from typing import Literal, NamedTuple

from demo.simulator.plan import seeded
from demo.simulator.scenario import Cut, End, ErrorEvent, Fault, Garbage, Pace, Rst, Scenario, Stall, StreamFault

Then = Literal["go on", "end", "cut", "rst"]
NEVER = float("inf")

_COMMENT = b": keep-alive\n\n"


class Beat(NamedTuple):
    """Bytes of the body that are due at `at_s`, how many events they complete, and what follows them.

    `alone`: to be written by itself, not together with its neighbours.
    """

    at_s: float
    data: bytes
    events: int = 0
    then: Then = "go on"
    alone: bool = False


class _Clock:
    """The course of time in one body: the gaps of its pace, and comments in silences."""

    def __init__(self, pace: Pace, usual_chunks_per_s: float, keepalive_s: float | None, rng: random.Random) -> None:
        rate = usual_chunks_per_s if pace.chunks_per_s is None else pace.chunks_per_s
        self._gap_s = 1 / rate if rate else 0.0
        self._jitter = pace.jitter
        self._keepalive_s = keepalive_s
        self._rng = rng
        self._last_s = 0.0
        self.now_s = 0.0

    def gap(self) -> None:
        if self._gap_s:
            self.now_s += self._gap_s * (1 + self._jitter * (2 * self._rng.random() - 1))

    def comments(self) -> Iterator[Beat]:
        """Keep-alive comments in the silence since the last beat; without end when the silence has none."""
        if self._keepalive_s is not None:
            while self._last_s + self._keepalive_s < self.now_s:
                self._last_s += self._keepalive_s
                yield Beat(self._last_s, _COMMENT)
        self._last_s = self.now_s


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


def play(
    events: Iterable[bytes],
    scenario: Scenario,
    faults: Iterable[Fault],
    *,
    usual_chunks_per_s: float,
    error: Callable[[ErrorEvent], bytes],
) -> Iterator[Beat]:
    """The beats of a body.

    Args:
        events: what the body would be without faults, an event each.
        faults: those that apply to this call; those that replace the whole answer are not looked at.
        usual_chunks_per_s: pace where the scenario has none of its own; 0 is as fast as it is read.
        error: renders an error event in the form of the API.
    """
    rng = seeded(f"{scenario.seed}:pace")
    clock = _Clock(scenario.pace, usual_chunks_per_s, scenario.keepalive_s, rng)
    most = scenario.chunking.split_bytes
    for beat in _beats(events, clock, [fault for fault in faults if isinstance(fault, StreamFault)], error):
        if most and len(beat.data) > 1:
            yield from _pieces(beat, most, rng)
        else:
            yield beat


def _beats(
    events: Iterable[bytes], clock: _Clock, faults: list[StreamFault], error: Callable[[ErrorEvent], bytes]
) -> Iterator[Beat]:
    faults = sorted(faults, key=lambda fault: fault.after)
    coming = iter(events)
    sent = 0
    while True:
        for fault in _due(faults, sent):
            if isinstance(fault, Stall):
                clock.now_s += NEVER if fault.for_s is None else fault.for_s
                yield from clock.comments()
                if fault.for_s is None:
                    yield Beat(NEVER, b"")
                    return
                continue
            yield _struck(fault, clock.now_s, error)
            if not isinstance(fault, Garbage):
                return
        event = next(coming, None)
        if event is None:
            yield Beat(clock.now_s, b"", then="end")
            return
        if sent:
            clock.gap()
            yield from clock.comments()
        sent += 1
        yield Beat(clock.now_s, event, 1)


def _struck(fault: Cut | Rst | End | ErrorEvent | Garbage, now_s: float, error: Callable[[ErrorEvent], bytes]) -> Beat:
    match fault:
        case Cut():
            return Beat(now_s, b"", then="cut")
        case Rst():
            return Beat(now_s, b"", then="rst")
        case End():
            return Beat(now_s, b"", then="end")
        case ErrorEvent():
            return Beat(now_s, error(fault), 1, then="end")
        case Garbage():
            return Beat(now_s, b"data: " + fault.data.encode() + b"\n\n")
