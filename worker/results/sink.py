"""The sink: takes outcomes from the outbox, writes them into the database, and removes them from the outbox after that.

If Redis or the database is unavailable, it retries with backoff and logs that once. Knows no Redis commands and no SQL.
"""

import asyncio
import logging
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from time import monotonic
from typing import TypeVar

from tailrace.broker.backoff import Backoff, Retries
from tailrace.schemas.errors import StoreError
from tailrace.schemas.results import row_of
from tailrace.telemetry.logging import fields
from tailrace.worker.observe.log_events import log_event, log_internal_error
from tailrace.worker.results.database import Database, Refused
from tailrace.worker.results.outbox import BATCH, OutcomeOutbox, Taken

_T = TypeVar("_T")

RETRY = Backoff(base_s=0.5, cap_s=15.0)
LOG_S = 10.0
"""The shortest time between two log lines about outcomes that were written."""

CLAIMS_PER_TIMEOUT = 3
"""A taken entry is delivered again after this many time limits of a batch: a slower sink has died or hangs."""

_logger = logging.getLogger("tailrace.sink")


class Sink:
    """One sink. Several may run.

    Args:
        outbox: has the outcomes that wait.
        database: where they are written.
        unsettled_s: how often it checks for entries that other sinks have taken and not settled.

    Attributes:
        written: how many outcomes it has written.
    """

    def __init__(self, outbox: OutcomeOutbox, database: Database, *, unsettled_s: float) -> None:
        self._outbox = outbox
        self._database = database
        self._unsettled_s = unsettled_s
        self._took_unsettled_at = float("-inf")
        self._stopping = asyncio.Event()
        self._logged_at, self._logged = monotonic(), 0
        self.written = 0

    def stop(self) -> None:
        """Lets `run` return: after the part that is being written, or at once if it only waits."""
        self._stopping.set()

    async def run(self) -> None:
        """Writes until it is stopped. A bug is logged, and `run` continues after a pause."""
        while not self._stopping.is_set():
            try:
                await self._run()
            except Exception as error:
                log_internal_error("sink", error)
                await self._pause(RETRY.cap_s)

    async def _run(self) -> None:
        await self._retry_until_stopped("use the database of outcomes", self._begin)
        while not self._stopping.is_set():
            taken = await self._unless_stopped(self._retry_until_stopped("read the outbox", self._take))
            if taken:
                await self._write(taken)

    async def _begin(self) -> None:
        await self._outbox.open()  # at each try, because the outbox expires if no sink uses it
        await self._database.check()

    async def _take(self) -> list[Taken]:
        again = monotonic() - self._took_unsettled_at >= self._unsettled_s
        taken = await self._outbox.take(again=again)
        if again and len(taken) < BATCH:  # after a full batch there may be more of them
            self._took_unsettled_at = monotonic()
        return taken

    async def _write(self, taken: Sequence[Taken]) -> None:
        parts = await self._retry_until_stopped("read the outbox", lambda: self._outbox.parts(taken))
        for part in parts or ():
            if self._stopping.is_set():
                return
            await self._retry_until_stopped("write outcomes", lambda: self._write_part(part))  # noqa: B023 - it is awaited here

    async def _write_part(self, part: Sequence[Taken]) -> None:
        found = await self._outbox.read(part)
        refused = found.refused
        if found.outcomes:
            refused = [*refused, *await self._database.write([row_of(stored) for stored in found.outcomes])]
        lost = {one.request_id for one in refused}
        written = [stored.outcome for stored in found.outcomes if stored.outcome.request_id not in lost]
        await self._outbox.settle(part, written, refused)
        self.written += len(written)
        self._log(refused, found.gone)

    def _log(self, refused: Sequence[Refused], gone: Sequence[str]) -> None:
        for one in refused:
            log_event("outcome_refused", one.request_id, level=logging.ERROR, by=self._database.place, why=one.why)
        for request_id in gone:
            log_event("outcome_missing", request_id, level=logging.WARNING, why="its record has no outcome, or is gone")
        if monotonic() - self._logged_at >= LOG_S or not self._logged:
            place, count = self._database.place, self.written - self._logged
            _logger.info(
                "%d outcomes to %s", count, place, extra=fields("outcomes_written", outcomes=count, place=place)
            )
            self._logged_at, self._logged = monotonic(), self.written

    async def _retry_until_stopped(self, action: str, call: Callable[[], Awaitable[_T]]) -> _T | None:
        """The result of the call, which is retried until it succeeds; None if the sink is stopped before that."""
        retries = Retries(action, backoff=RETRY, pause=self._pause)
        while True:
            try:
                answer = await call()
            except StoreError as error:
                await retries.log_and_back_off(error)
                if self._stopping.is_set():
                    return None
            else:
                retries.succeeded()
                return answer

    async def _pause(self, pause_s: float) -> bool:
        """Waits. Returns True as soon as the sink is stopped, otherwise False."""
        with suppress(TimeoutError):
            async with asyncio.timeout(pause_s):
                await self._stopping.wait()
        return self._stopping.is_set()

    async def _unless_stopped(self, work: Awaitable[_T]) -> _T | None:
        """The result of the work; None if the sink is stopped first. Entries it has taken are delivered again later."""
        working, stopping = asyncio.ensure_future(work), asyncio.ensure_future(self._stopping.wait())
        try:
            await asyncio.wait({working, stopping}, return_when=asyncio.FIRST_COMPLETED)
            return working.result() if working.done() else None
        finally:
            for task in (working, stopping):
                task.cancel()
            await asyncio.wait({working, stopping})
