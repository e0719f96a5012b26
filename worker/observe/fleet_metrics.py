"""Metrics of a fleet: each child sends its samples to the parent over a pipe, and the parent serves all samples.

When a child dies, its counts are kept and added to those of its replacement, so that no counter ever decreases. Counts
from the last second of a killed child are lost. Knows nothing of HTTP.
"""

import asyncio
import os
from collections.abc import Callable
from time import monotonic

from tailrace.telemetry import metrics
from tailrace.telemetry.metric_samples import (
    MetricSample,
    add_samples,
    decode_samples,
    encode_samples,
    gauge_sample,
    with_process,
)

SEND_S = 1.0
SILENT_S = 10.0
"""A child that has sent nothing for this long hangs, or has not started."""


class MetricsPipe:
    """The writing end of the pipe, in a child.

    Args:
        pipe: its file descriptor.
        metric_samples: returns the samples to send.
    """

    def __init__(self, pipe: int, metric_samples: Callable[[], list[MetricSample]]) -> None:
        self._pipe = pipe
        self._metric_samples = metric_samples
        self._unsent = b""
        os.set_blocking(pipe, False)

    async def run(self) -> None:
        """Sends the samples every `SEND_S` until it is cancelled, and once more then."""
        try:
            while True:
                self.send_samples()
                await asyncio.sleep(SEND_S)
        finally:
            self.send_samples()

    def send_samples(self) -> None:
        """Sends the samples now. Never waits: what does not fit into the pipe is sent at the next call."""
        try:
            self._unsent = self._unsent or encode_samples(self._metric_samples()) + b"\n"
            self._unsent = self._unsent[os.write(self._pipe, self._unsent) :]
        except BlockingIOError:
            pass
        except OSError:  # the parent has died; the child notices that by its stdin
            self._unsent = b""


class FleetMetrics:
    """The last samples of each child, by its place in the fleet."""

    def __init__(self) -> None:
        self._earlier: dict[int, list[MetricSample]] = {}
        self._current: dict[int, list[MetricSample]] = {}
        self._received_at: dict[int, float] = {}

    def receive_line(self, place: int, line: bytes) -> None:
        """Takes one line of a child's pipe. A line without samples is ignored."""
        try:
            self._current[place] = decode_samples(line)
        except ValueError:
            return
        self._received_at[place] = monotonic()

    def process_ended(self, place: int) -> None:
        """Keeps the counts of the process in this place, which has ended."""
        total = add_samples(self._earlier.get(place, ()), self._current.pop(place, ()))
        self._earlier[place] = add_samples(total, ())
        self._received_at.pop(place, None)

    @property
    def alive(self) -> int:
        """The number of processes that have sent samples within `SILENT_S`."""
        now = monotonic()
        return sum(now - at < SILENT_S for at in self._received_at.values())

    def metric_samples(self) -> list[MetricSample]:
        """The samples of all processes, each labeled with its place."""
        found = [gauge_sample(metrics.PROCESSES, self.alive)]
        for place in sorted(self._earlier.keys() | self._current.keys()):
            total = add_samples(self._earlier.get(place, ()), self._current.get(place, ()))
            found += with_process(total, str(place))
        return found
