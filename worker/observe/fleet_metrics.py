"""Figures of the processes of a fleet: each says its own to the parent now and then, the parent answers for all.

What a process has counted is kept when it dies and added to what the next one in its place counts, so nothing that
only grows ever shrinks. What one that was killed counted in its last second is lost. Knows nothing of HTTP.
"""

import asyncio
import os
from collections.abc import Callable
from time import monotonic

from tailrace.telemetry import metrics
from tailrace.telemetry.metric_samples import Figure, added, decode_figures, encode_figures, gauge, of_process

TELL_S = 1.0
SILENT_S = 10.0
"""A process that has said nothing for so long hangs, or has not come up."""


class Voice:
    """A child's end of the pipe.

    Args:
        pipe: its file descriptor.
        figures: what to say.
    """

    def __init__(self, pipe: int, figures: Callable[[], list[Figure]]) -> None:
        self._pipe = pipe
        self._figures = figures
        self._rest = b""
        os.set_blocking(pipe, False)

    async def keep(self) -> None:
        """Says them every `TELL_S`, until it is cancelled, and then once more."""
        try:
            while True:
                self.say()
                await asyncio.sleep(TELL_S)
        finally:
            self.say()

    def say(self) -> None:
        """Says them now. A parent that does not listen is no reason to wait: it hears the rest of the line later."""
        try:
            self._rest = self._rest or encode_figures(self._figures()) + b"\n"
            self._rest = self._rest[os.write(self._pipe, self._rest) :]
        except BlockingIOError:
            pass
        except OSError:  # the parent has died, of which we are told otherwise
            self._rest = b""


class FleetFigures:
    """The parent's end: what each of its processes has said last, by its place in the fleet."""

    def __init__(self) -> None:
        self._before: dict[int, list[Figure]] = {}
        self._now: dict[int, list[Figure]] = {}
        self._heard_at: dict[int, float] = {}

    def hear(self, place: int, line: bytes) -> None:
        """A process has said its figures. What is no figures is passed over."""
        try:
            self._now[place] = decode_figures(line)
        except ValueError:
            return
        self._heard_at[place] = monotonic()

    def ended(self, place: int) -> None:
        """The process in this place is no more."""
        total = added(self._before.get(place, ()), self._now.pop(place, ()))
        self._before[place] = added(total, ())
        self._heard_at.pop(place, None)

    @property
    def alive(self) -> int:
        """Processes that have spoken lately."""
        now = monotonic()
        return sum(now - at < SILENT_S for at in self._heard_at.values())

    def figures(self) -> list[Figure]:
        """All figures, each with the place of its process."""
        found = [gauge(metrics.PROCESSES, self.alive)]
        for place in sorted(self._before.keys() | self._now.keys()):
            found += of_process(added(self._before.get(place, ()), self._now.get(place, ())), str(place))
        return found
