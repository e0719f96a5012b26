"""Trying again until Redis has answered: what is tried again, for how long, and what is logged."""

import logging

import pytest

from tailrace.broker.backoff import Backoff, Retries, retry_until_answered
from tailrace.schemas.errors import StoreError, StoreRefused, StoreUnavailable


async def no_pause(pause_s: float) -> None:
    """Takes no time."""


class Flaky:
    """An operation that raises these errors, one each time, and then answers."""

    def __init__(self, *errors: StoreError) -> None:
        self.errors = list(errors)

    async def __call__(self) -> str:
        if self.errors:
            raise self.errors.pop(0)
        return "answer"


async def test_it_tries_until_there_is_an_answer(caplog: pytest.LogCaptureFixture) -> None:
    # given one reason twice and then another, expect a line for each reason and one for the recovery
    caplog.set_level(logging.INFO, "tailrace")
    operation = Flaky(StoreUnavailable("away"), StoreUnavailable("away"), StoreRefused("no rights"))
    retries = Retries("claim", pause=no_pause)
    assert await retry_until_answered(operation, retries) == "answer"
    assert [record.getMessage().partition(", after")[0] for record in caplog.records] == [
        "cannot claim (away); trying again",
        "cannot claim (no rights); trying again",
        "can claim again",
    ]
    assert retries.failures == 0


async def test_an_error_that_is_not_retried_is_raised_at_once() -> None:
    operation = Flaky(StoreRefused("no rights"))
    with pytest.raises(StoreRefused, match="no rights"):
        await retry_until_answered(operation, Retries("begin", logged=False, retried=(StoreUnavailable,)))


async def test_without_patience_the_first_error_is_raised() -> None:
    with pytest.raises(StoreUnavailable, match=r"^away$"):
        await retry_until_answered(Flaky(StoreUnavailable("away")), Retries("begin", logged=False, patience_s=0))


async def test_it_gives_up_when_its_time_is_over() -> None:
    operation = Flaky(*(StoreUnavailable("away") for _ in range(1_000)))
    retries = Retries("read", logged=False, backoff=Backoff(0.001, 0.01), patience_s=0.05)
    with pytest.raises(StoreUnavailable, match=r"away \(for 0\.05 s now\)"):
        await retry_until_answered(operation, retries)
    assert operation.errors
