"""The observer of an attempt: passes each event on to metrics, traces and log lines.

Owns which subscribers there are. An attempt calls the observer and knows none of them.
"""

from collections.abc import Sequence

from tailrace.schemas.ids import EntryId
from tailrace.schemas.outcome import Outcome
from tailrace.telemetry.metrics import error_label
from tailrace.worker.observe.attempt_events import AttemptStart, AttemptSubscriber
from tailrace.worker.observe.counts import AttemptCounts, Counts
from tailrace.worker.observe.log_events import AttemptLog, log_event
from tailrace.worker.observe.tracing import NoTraces, Traces


class AttemptObserver(AttemptSubscriber):
    """Passes the events of one attempt on to all subscribers; `AttemptObservers.attempt_started` makes it.

    Attributes:
        deltas: the count of published deltas. The attempt adds to its `value` itself, since a call for each piece of
            an answer would cost more.
    """

    def __init__(self, subscribers: Sequence[AttemptSubscriber], counts: Counts) -> None:
        self._subscribers = subscribers
        self.deltas = counts.deltas

    def upstream_asked(self) -> None:
        """Passes the event on, as all methods do."""
        for subscriber in self._subscribers:
            subscriber.upstream_asked()

    def first_delta(self, after_s: float) -> None:
        for subscriber in self._subscribers:
            subscriber.first_delta(after_s)

    def reading_ended(self, end: str, code: str | None) -> None:
        for subscriber in self._subscribers:
            subscriber.reading_ended(end, code)

    def failed(self, code: str, why: str, retry_in_s: float | None) -> None:
        for subscriber in self._subscribers:
            subscriber.failed(code, why, retry_in_s)

    def internal_error(self, error: BaseException) -> None:
        for subscriber in self._subscribers:
            subscriber.internal_error(error)

    def finished(self, outcome: Outcome, terminal_id: EntryId, ms: int) -> None:
        for subscriber in self._subscribers:
            subscriber.finished(outcome, terminal_id, ms)

    def finish_refused(self, status: str) -> None:
        for subscriber in self._subscribers:
            subscriber.finish_refused(status)

    def released(self, status: str) -> None:
        for subscriber in self._subscribers:
            subscriber.released(status)

    def closed(self) -> None:
        for subscriber in self._subscribers:
            subscriber.closed()


class AttemptObservers:
    """Makes the observers of a process's attempts.

    Args:
        counts: the metrics of the process.
        traces: receives the traces.
    """

    def __init__(self, counts: Counts | None = None, traces: Traces | None = None) -> None:
        self._counts = counts or Counts()
        self._traces = traces or NoTraces()

    def attempt_started(self, start: AttemptStart) -> AttemptObserver:
        """The observer of an attempt that starts now."""
        subscribers = (AttemptLog(start), AttemptCounts(self._counts, start), self._traces.attempt(start))
        return AttemptObserver(subscribers, self._counts)

    def request_given_up(self, request_id: str, code: str, status: str, *, ended: bool) -> None:
        """A request that cannot be run was ended as failed, without an attempt that reads an answer.

        Args:
            request_id: the request.
            code: the error's code.
            status: the status that the script returned.
            ended: whether this ended the request.
        """
        log_event("request_given_up", request_id, code=code, status=status)
        if ended:
            self._counts.outcomes.increment("failed", error_label(code))
