"""The sink: takes what has ended out of the outbox, writes it into the database, and only then lets it go.

Waits where one of the two is away, with back-off, and says so once. Knows neither Redis's commands nor SQL.
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
SAY_S = 10.0
"""At most one line in so long says how many were written."""

CLAIMS_PER_TIMEOUT = 3
"""What is taken is given out again after that many time limits of a batch: who takes so long has died or hangs."""

_logger = logging.getLogger("tailrace.sink")


class Sink:
    """One sink; there may be several.

    Args:
        outbox: where outcomes wait.
        database: where they go.
        look_s: how often it looks for what others have taken and left.

    Attributes:
        written: how many outcomes it has written.
    """

    def __init__(self, outbox: OutcomeOutbox, database: Database, *, look_s: float) -> None:
        self._outbox = outbox
        self._database = database
        self._look_s = look_s
        self._looked_at = float("-inf")
        self._stopping = asyncio.Event()
        self._said_at, self._said = monotonic(), 0
        self.written = 0

    def stop(self) -> None:
        """`run` returns when the part that is being written has been, or at once where it only waits."""
        self._stopping.set()

    async def run(self) -> None:
        """Writes until it is stopped. A fault of ours is logged, and it goes on after a while."""
        while not self._stopping.is_set():
            try:
                await self._run()
            except Exception as error:
                log_internal_error("sink", error)
                await self._pause(RETRY.cap_s)

    async def _run(self) -> None:
        await self._patiently("use the database of outcomes", self._begin)
        while not self._stopping.is_set():
            taken = await self._unless_stopped(self._patiently("read the outbox", self._take))
            if taken:
                await self._write(taken)

    async def _begin(self) -> None:
        await self._outbox.open()  # at each try: it lives as long as somebody looks at it
        await self._database.check()

    async def _take(self) -> list[Taken]:
        again = monotonic() - self._looked_at >= self._look_s
        taken = await self._outbox.take(again=again)
        if again and len(taken) < BATCH:  # there may be more that others left
            self._looked_at = monotonic()
        return taken

    async def _write(self, taken: Sequence[Taken]) -> None:
        for part in await self._patiently("read the outbox", lambda: self._outbox.parts(taken)) or ():
            if self._stopping.is_set():
                return
            await self._patiently("write outcomes", lambda: self._part(part))  # noqa: B023 - it is awaited here

    async def _part(self, part: Sequence[Taken]) -> None:
        found = await self._outbox.read(part)
        refused = found.refused
        if found.outcomes:
            refused = [*refused, *await self._database.write([row_of(stored) for stored in found.outcomes])]
        lost = {one.request_id for one in refused}
        written = [stored.outcome for stored in found.outcomes if stored.outcome.request_id not in lost]
        await self._outbox.settle(part, written, refused)
        self.written += len(written)
        self._say(refused, found.gone)

    def _say(self, refused: Sequence[Refused], gone: Sequence[str]) -> None:
        for one in refused:
            log_event("outcome_refused", one.request_id, level=logging.ERROR, by=self._database.place, why=one.why)
        for request_id in gone:
            log_event("outcome_missing", request_id, level=logging.WARNING, why="its record has no outcome, or is gone")
        if monotonic() - self._said_at >= SAY_S or not self._said:
            place, count = self._database.place, self.written - self._said
            _logger.info(
                "%d outcomes to %s", count, place, extra=fields("outcomes_written", outcomes=count, place=place)
            )
            self._said_at, self._said = monotonic(), self.written

    async def _patiently(self, verb: str, call: Callable[[], Awaitable[_T]]) -> _T | None:
        """What the call gives, however long that takes; None when we are stopped meanwhile."""
        retries = Retries(verb, backoff=RETRY, pause=self._pause)
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
        """Waits; True when we are stopped meanwhile."""
        with suppress(TimeoutError):
            async with asyncio.timeout(pause_s):
                await self._stopping.wait()
        return self._stopping.is_set()

    async def _unless_stopped(self, work: Awaitable[_T]) -> _T | None:
        """What it gives; None when we are stopped first: then it is broken off, and what it took is given out again."""
        working, stopping = asyncio.ensure_future(work), asyncio.ensure_future(self._stopping.wait())
        try:
            await asyncio.wait({working, stopping}, return_when=asyncio.FIRST_COMPLETED)
            return working.result() if working.done() else None
        finally:
            for task in (working, stopping):
                task.cancel()
            await asyncio.wait({working, stopping})
