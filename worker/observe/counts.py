"""What a worker process counts. Every part of it adds here, no more; `telemetry/metrics.py` says what each means."""

import os
from collections.abc import Iterator
from time import process_time

from tailrace.telemetry import metrics
from tailrace.telemetry.metric_samples import Count, Figure, Histogram, Tally, gauge

_PAGE_BYTES = os.sysconf("SC_PAGE_SIZE") if hasattr(os, "sysconf") else 0


class Counts:
    """The counts of one process."""

    def __init__(self) -> None:
        self.attempts = Tally(metrics.ATTEMPTS, [("first",), ("retry",), ("lease_expired",), ("drained",)])
        self.retries = Tally(metrics.RETRIES)
        self.outcomes = Tally(
            metrics.OUTCOMES, [(status, "none") for status in ("completed", "incomplete", "cancelled")]
        )
        self.drained = Count(metrics.DRAINED)
        self.deltas = Count(metrics.DELTAS)
        self.upstream_responses = Tally(metrics.UPSTREAM_RESPONSES)
        self.backpressure = Count(metrics.BACKPRESSURE)
        self.commit_failures = Count(metrics.COMMIT_FAILURES)
        self.queue_wait = Histogram(metrics.QUEUE_WAIT)
        self.first_delta = Histogram(metrics.FIRST_DELTA)
        self.upstream_first_delta = Histogram(metrics.UPSTREAM_FIRST_DELTA)
        self.duration = Histogram(metrics.DURATION)
        self.commit_duration = Histogram(metrics.COMMIT_DURATION)
        self.commit_entries = Histogram(metrics.COMMIT_ENTRIES)
        self.commit_bytes = Histogram(metrics.COMMIT_BYTES)

    def figures(self) -> Iterator[Figure]:
        """All counts as they stand, and what the process itself uses."""
        for counted in vars(self).values():
            yield from counted.figures()
        yield Figure(metrics.CPU.name, (), process_time())
        if memory := _resident_bytes():
            yield gauge(metrics.MEMORY, memory)


def _resident_bytes() -> int:
    """As Linux tells it (proc(5), statm); 0 elsewhere."""
    try:
        with open("/proc/self/statm", "rb") as statm:
            return int(statm.read().split()[1]) * _PAGE_BYTES
    except OSError:
        return 0
