"""Errors that are raised again keep their class and attributes."""

from tailrace.schemas.errors import StoreUnavailable, UnknownRequest, UpstreamUnavailable


def test_context_is_added_and_nothing_is_lost() -> None:
    error = UpstreamUnavailable("busy", code="upstream_429", whose="provider", status=429, retry_after_s=1.5)
    more = error.with_context(before="model m: ", after="; try later")
    assert type(more) is UpstreamUnavailable
    assert str(more) == "model m: busy; try later"
    assert (more.code, more.whose, more.status, more.retry_after_s) == ("upstream_429", "provider", 429, 1.5)
    assert str(error) == "busy"


def test_without_context_it_is_a_copy() -> None:
    error = StoreUnavailable("away")
    again = error.with_context()
    assert again is not error
    assert (type(again), str(again), again.code) == (StoreUnavailable, "away", "store_unavailable")


def test_another_message_keeps_the_rest() -> None:
    error = UnknownRequest.of("x").with_message("gone")
    assert (str(error), error.code, error.whose) == ("gone", "unknown_request", "caller")
