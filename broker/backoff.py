"""Retries: how long to pause between tries, and the one loop that retries until Redis has answered."""

import asyncio
import logging
import random
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from math import inf
from time import monotonic
from typing import TypeVar

from tailrace.schemas.errors import StoreError
from tailrace.telemetry.logging import fields

_T = TypeVar("_T")

_logger = logging.getLogger("tailrace.redis")


@dataclass(frozen=True)
class Backoff:
    """Exponential with full jitter (M. Brooker, "Exponential Backoff And Jitter", AWS Architecture Blog).

    Attributes:
        base_s: upper bound of the first pause.
        cap_s: upper bound of all later ones.
    """

    base_s: float
    cap_s: float

    def pause_s(self, tries: int, dice: Callable[[], float] = random.random) -> float:
        """The pause after `tries` failures: between zero and a bound that doubles with each failure.

        Args:
            tries: failures so far, at least 1.
            dice: returns a number from 0 up to 1. Nothing secret depends on it.
        """
        return dice() * min(self.cap_s, self.base_s * 2 ** min(tries - 1, 32))


REDIS_BACKOFF = Backoff(base_s=0.05, cap_s=1.0)
"""For one operation on Redis."""


class Retries:
    """The failures of one operation since it last succeeded.

    Args:
        operation: what is tried, as text that follows "cannot" in a log line.
        logged: whether to log when the operation starts to fail, when the reason changes, and when it succeeds again.
        backoff: the pauses.
        patience_s: how long the operation may fail before the error is raised.
        retried: the errors that are worth another try; any other is raised at once.
        pause: waits between two tries.
    """

    def __init__(
        self,
        operation: str,
        *,
        logged: bool = True,
        backoff: Backoff = REDIS_BACKOFF,
        patience_s: float = inf,
        retried: tuple[type[StoreError], ...] = (StoreError,),
        pause: Callable[[float], Awaitable[object]] = asyncio.sleep,
    ) -> None:
        self._operation = operation
        self._logged = logged
        self._backoff = backoff
        self._patience_s = patience_s
        self._retried = retried
        self._pause = pause
        self._since: float | None = None
        self._reason = ""
        self.failures = 0

    async def log_and_back_off(self, error: StoreError) -> None:
        """Logs a failure and pauses before the next try.

        Raises:
            StoreError: the one given, if it must not be retried or the time is over.
        """
        now = monotonic()
        self._since = now if self._since is None else self._since
        self.failures += 1
        left_s = self._since + self._patience_s - now
        if not isinstance(error, self._retried):
            raise error
        if left_s <= 0:
            raise error.with_context(after=f" (for {self._patience_s:g} s now)") if self._patience_s else error
        if self._logged and str(error) != self._reason:
            self._reason = str(error)
            _logger.warning(
                "cannot %s (%s); trying again",
                self._operation,
                error,
                extra=fields("store_retry", action=self._operation, why=error),
            )
        await self._pause(min(left_s, self._backoff.pause_s(self.failures)))

    def succeeded(self) -> None:
        """Ends the series of failures, because the operation has succeeded."""
        if self._since is None:
            return
        if self._logged and self._reason:
            away_s = round(monotonic() - self._since, 1)
            _logger.info(
                "can %s again, after %.1f s",
                self._operation,
                away_s,
                extra=fields("store_recovered", action=self._operation, away_s=away_s),
            )
        self._since, self._reason, self.failures = None, "", 0


async def retry_until_answered(call: Callable[[], Awaitable[_T]], retries: Retries) -> _T:
    """Calls until there is an answer.

    Args:
        call: one try.
        retries: how and for how long to retry.

    Raises:
        StoreError: `retries` allows no further try.
    """
    while True:
        try:
            answer = await call()
        except StoreError as error:
            await retries.log_and_back_off(error)
        else:
            retries.succeeded()
            return answer
