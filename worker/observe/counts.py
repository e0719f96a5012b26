"""The counts of a worker process. Each part of the worker adds to them; `telemetry/metrics.py` defines each."""

import os
from collections.abc import Iterator
from time import process_time

from tailrace.schemas.ids import EntryId
from tailrace.schemas.outcome import Outcome
from tailrace.telemetry import metrics
from tailrace.telemetry.metric_samples import Counter, Histogram, LabeledCounter, MetricSample, gauge_sample
from tailrace.telemetry.metrics import cause_label, error_label
from tailrace.worker.observe.attempt_events import AttemptStart, AttemptSubscriber

_PAGE_BYTES = os.sysconf("SC_PAGE_SIZE") if hasattr(os, "sysconf") else 0


class Counts:
    """The counts of one process."""

    def __init__(self) -> None:
        self.attempts = LabeledCounter(metrics.ATTEMPTS, [("first",), ("retry",), ("lease_expired",), ("drained",)])
        self.retries = LabeledCounter(metrics.RETRIES)
        self.outcomes = LabeledCounter(
            metrics.OUTCOMES, [(status, "none") for status in ("completed", "incomplete", "cancelled")]
        )
        self.drained = Counter(metrics.DRAINED)
        self.deltas = Counter(metrics.DELTAS)
        self.upstream_responses = LabeledCounter(metrics.UPSTREAM_RESPONSES)
        self.backpressure = Counter(metrics.BACKPRESSURE)
        self.commit_failures = Counter(metrics.COMMIT_FAILURES)
        self.queue_wait = Histogram(metrics.QUEUE_WAIT)
        self.first_delta = Histogram(metrics.FIRST_DELTA)
        self.upstream_first_delta = Histogram(metrics.UPSTREAM_FIRST_DELTA)
        self.duration = Histogram(metrics.DURATION)
        self.commit_duration = Histogram(metrics.COMMIT_DURATION)
        self.commit_entries = Histogram(metrics.COMMIT_ENTRIES)
        self.commit_bytes = Histogram(metrics.COMMIT_BYTES)

    def metric_samples(self) -> Iterator[MetricSample]:
        """The current counts, and the processor time and memory of the process."""
        for counted in vars(self).values():
            yield from counted.metric_samples()
        yield MetricSample(metrics.CPU.name, (), process_time())
        if memory := _resident_bytes():
            yield gauge_sample(metrics.MEMORY, memory)


class AttemptCounts(AttemptSubscriber):
    """Counts the events of one attempt.

    Args:
        counts: those of the process.
        start: the attempt, which is counted at once.
    """

    def __init__(self, counts: Counts, start: AttemptStart) -> None:
        self._counts = counts
        self._waited_s = start.waited_s
        counts.attempts.increment(cause_label(start.why))
        if start.why == "first":
            counts.queue_wait.observe(start.waited_s)

    def first_delta(self, after_s: float) -> None:
        """Observes both times to the first delta: from the start of the attempt and from submit."""
        self._counts.upstream_first_delta.observe(after_s)
        self._counts.first_delta.observe(self._waited_s + after_s)

    def failed(self, code: str, why: str, retry_in_s: float | None) -> None:
        """Counts a retry."""
        if retry_in_s is not None:
            self._counts.retries.increment(error_label(code))

    def finished(self, outcome: Outcome, terminal_id: EntryId, ms: int) -> None:
        """Counts the outcome, and observes the time from submit."""
        self._counts.outcomes.increment(outcome.status, error_label(outcome.error.code if outcome.error else None))
        self._counts.duration.observe(self._waited_s + ms / 1000, outcome.status)

    def released(self, status: str) -> None:
        """Counts a request that was handed back."""
        self._counts.drained.value += 1


def _resident_bytes() -> int:
    """Resident memory as Linux reports it (proc(5), statm); 0 on other systems."""
    try:
        with open("/proc/self/statm", "rb") as statm:
            return int(statm.read().split()[1]) * _PAGE_BYTES
    except OSError:
        return 0
