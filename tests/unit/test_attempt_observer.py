"""The observer of an attempt passes every event on to every subscriber."""

import inspect
from typing import Any

import pytest

from tailrace.schemas.errors import TailraceError
from tailrace.schemas.ids import EntryId
from tailrace.schemas.outcome import Outcome
from tailrace.worker.observe.attempt_events import AttemptStart, AttemptSubscriber
from tailrace.worker.observe.attempt_observer import AttemptObserver, AttemptObservers
from tailrace.worker.observe.counts import Counts

EVENTS: dict[str, tuple[Any, ...]] = {
    "upstream_asked": (),
    "first_delta": (0.5,),
    "reading_ended": ("failed", "upstream_500"),
    "failed": ("upstream_500", "backoff", 0.25),
    "internal_error": (ValueError("x"),),
    "finished": (Outcome(status="completed"), EntryId(1, 7), 1500),
    "finish_refused": ("stale",),
    "released": ("released",),
    "closed": (),
}
START = AttemptStart("r1", 1, "first", None, submitted_ms=1_000, started_ms=3_000)


class Recorder(AttemptSubscriber):
    """Keeps the events it receives."""

    def __init__(self) -> None:
        self.received: list[tuple[str, tuple[Any, ...]]] = []

    def __getattribute__(self, name: str) -> Any:
        def receive(*given: Any) -> None:
            self.received.append((name, given))

        return receive if name in EVENTS else super().__getattribute__(name)


def test_the_events_are_those_of_the_interface() -> None:
    assert set(EVENTS) == {name for name, _ in inspect.getmembers(AttemptSubscriber, inspect.isfunction)}


@pytest.mark.parametrize("event", EVENTS)
def test_all_subscribers_receive_an_event_with_its_arguments(event: str) -> None:
    recorders = [Recorder(), Recorder()]
    getattr(AttemptObserver(recorders, Counts()), event)(*EVENTS[event])
    assert [recorder.received for recorder in recorders] == [[(event, EVENTS[event])]] * 2


def test_the_counts_of_an_attempt_that_is_retried() -> None:
    counts = Counts()
    observer = AttemptObservers(counts).attempt_started(START)
    observer.first_delta(0.5)
    observer.failed("upstream_500", "backoff", 0.25)
    observer.closed()
    observed = {(sample.name, sample.labels): sample.value for sample in counts.metric_samples() if sample.value}
    assert observed[("tailrace_attempts_total", ("first",))] == 1
    assert observed[("tailrace_retries_total", ("upstream_500",))] == 1
    assert observed[("tailrace_queue_wait_seconds", ())] == 2.0
    assert observed[("tailrace_upstream_time_to_first_delta_seconds", ())] == 0.5
    assert observed[("tailrace_time_to_first_delta_seconds", ())] == 2.5


def test_a_failure_without_a_retry_is_not_counted_as_one() -> None:
    counts = Counts()
    AttemptObservers(counts).attempt_started(START).failed("upstream_400", "another attempt would not help", None)
    assert not [sample for sample in counts.metric_samples() if sample.name == "tailrace_retries_total"]


@pytest.mark.parametrize("ended", [True, False])
def test_a_request_that_is_given_up_counts_as_an_outcome_once_it_has_ended(ended: bool) -> None:
    counts = Counts()
    AttemptObservers(counts).request_given_up("r1", TailraceError.code, "finished", ended=ended)
    failed = [sample.value for sample in counts.metric_samples() if sample.labels == ("failed", "internal")]
    assert failed == ([1] if ended else [])
