"""The decision on another attempt, case by case."""

from typing import Any

import pytest

from tailrace.broker.backoff import Backoff
from tailrace.schemas.errors import (
    DeadlineExceeded,
    LogFull,
    RequestRejected,
    TailraceError,
    UpstreamProtocol,
    UpstreamRefused,
    UpstreamUnavailable,
)
from tailrace.worker.attempt.retry import Decision, decide


def unavailable(status: int | None = 500, retry_after_s: float | None = None) -> UpstreamUnavailable:
    return UpstreamUnavailable("no", code=f"upstream_{status}", status=status, retry_after_s=retry_after_s)


def decided(error: TailraceError, **given: Any) -> Decision:
    usual: dict[str, Any] = {
        "failures": 1,
        "max_attempts": 3,
        "has_published": False,
        "on_failure": "restart",
        "left_s": 600.0,
        "dice": lambda: 0.5,
    }
    return decide(error, **(usual | given))


@pytest.mark.parametrize(
    "error", [unavailable(), unavailable(429), unavailable(None), UpstreamProtocol("no", code="upstream_truncated")]
)
def test_a_transient_error_is_retried(error: TailraceError) -> None:
    assert decided(error).again


@pytest.mark.parametrize(
    "error",
    [
        UpstreamRefused("no", code="upstream_400", status=400),
        LogFull("full"),
        DeadlineExceeded("over"),
        RequestRejected("unreadable"),
        TailraceError("internal error in the worker"),
    ],
)
def test_a_permanent_error_is_not_retried(error: TailraceError) -> None:
    assert not decided(error).again


@pytest.mark.parametrize(
    ("has_published", "on_failure", "again"),
    [(False, "fail", True), (False, "restart", True), (True, "restart", True), (True, "fail", False)],
)
def test_after_the_first_delta_the_request_decides(has_published: bool, on_failure: str, again: bool) -> None:
    assert decided(unavailable(), has_published=has_published, on_failure=on_failure).again is again


def test_attempts_are_limited() -> None:
    assert [decided(unavailable(), failures=number).again for number in (1, 2, 3, 4)] == [True, True, False, False]


def test_the_pause_is_at_least_what_the_server_asks_for() -> None:
    assert decided(unavailable(429, retry_after_s=7.0), dice=lambda: 0.0).pause_s == 7.0
    assert decided(unavailable(429, retry_after_s=7.0), dice=lambda: 0.9).pause_s > 7.0


def test_there_is_no_retry_after_the_deadline() -> None:
    assert not decided(unavailable(429, retry_after_s=7.0), left_s=7.0).again
    assert decided(unavailable(429, retry_after_s=7.0), left_s=8.0).again
    assert not decided(unavailable(), left_s=-1.0).again


def test_pauses_grow_up_to_a_limit_and_have_full_jitter() -> None:
    backoff = Backoff(base_s=0.5, cap_s=4.0)
    assert [backoff.pause_s(tries, lambda: 1.0) for tries in (1, 2, 3, 4, 5, 2000)] == [0.5, 1.0, 2.0, 4.0, 4.0, 4.0]
    assert backoff.pause_s(5, lambda: 0.0) == 0.0
