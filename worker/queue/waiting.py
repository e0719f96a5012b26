"""How the queue waits: for a change in this loop, and for Redis to answer again. Knows neither jobs nor verbs."""

import asyncio
import logging
from collections.abc import Awaitable, Callable
from contextlib import suppress
from typing import TypeVar

from tailrace.broker.backoff import Backoff
from tailrace.schemas.errors import StoreError
from tailrace.telemetry.logging import fields

_T = TypeVar("_T")

_RETRY = Backoff(base_s=0.05, cap_s=1.0)
_logger = logging.getLogger("tailrace.queue")


class Change:
    """Tells those who wait for a condition that it may be met by now."""

    def __init__(self) -> None:
        self._event = asyncio.Event()

    def tell(self) -> None:
        """Something has changed."""
        self._event.set()

    async def until(self, met: Callable[[], bool], limit_s: float | None = None) -> None:
        """Returns when `met` is true, or after `limit_s` seconds."""
        with suppress(TimeoutError):
            async with asyncio.timeout(limit_s):
                while not met():
                    self._event.clear()
                    await self._event.wait()


async def insist(verb: str, call: Callable[[int], Awaitable[_T]]) -> _T:
    """Calls until Redis has answered.

    Args:
        verb: what it is, for the log.
        call: gets how often it has failed so far.
    """
    failures = 0
    while True:
        try:
            return await call(failures)
        except StoreError as error:
            failures += 1
            await bear(error, verb, failures)


async def bear(error: StoreError, verb: str, failures: int) -> None:
    """Logs a failure and pauses before the next try."""
    _logger.warning("cannot %s (%s); trying again", verb, error, extra=fields("store_retry", action=verb, why=error))
    await asyncio.sleep(_RETRY.pause_s(failures))
