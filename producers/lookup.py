"""Looking up a request: its record in Redis, or else its row in the database of outcomes.

Knows when to use which. Knows nothing of Redis commands or of SQL.
"""

import asyncio
from collections.abc import Callable
from contextlib import suppress
from typing import Protocol

from tailrace.producers.answers import RECORD_FIELDS, Status, status_of, status_of_stored
from tailrace.producers.tail.fanout.fanout import Fanout
from tailrace.producers.tail.log_tail import open_log
from tailrace.producers.tail.snapshot import Snapshot, snapshot, snapshot_of
from tailrace.producers.tail.tail import Tail
from tailrace.schemas import codec
from tailrace.schemas.errors import UnknownRequest
from tailrace.schemas.ids import BEGINNING, check_known_form
from tailrace.schemas.outcome import Outcome
from tailrace.schemas.results import Stored

_EXISTS_PAUSE_S = 0.02
_EXISTS_PAUSE_MAX_S = 0.25


class StoredOutcomes(Protocol):
    """The part of the database of outcomes that a lookup needs."""

    async def find(self, request_id: str) -> Stored | None:
        """The row of a request; None if there is none."""
        ...


class RequestLookup:
    """Status, outcome and snapshot of requests. Errors as in the methods of `Client`.

    Args:
        fanout: reads records and logs.
        results: the database of outcomes; None if there is none.
        tail: makes a tail of a request after a cursor.
    """

    def __init__(self, fanout: Fanout, results: StoredOutcomes | None, tail: Callable[[str, str], Tail]) -> None:
        self._fanout = fanout
        self._results = results
        self._tail = tail

    async def status(self, request_id: str) -> Status:
        """The state of a request."""
        try:
            return status_of(request_id, await self._record(request_id, *RECORD_FIELDS))
        except UnknownRequest:
            return status_of_stored(await self.stored(request_id))

    async def result(self, request_id: str, wait_s: float | None) -> Outcome | None:
        """The outcome; None if the request has not ended within `wait_s`."""
        check_known_form(request_id)
        try:
            outcome = await self._outcome(request_id)
        except UnknownRequest:
            if not wait_s:
                raise
            outcome = None  # it may be about to be enqueued
        if outcome is not None or wait_s == 0:
            return outcome
        with suppress(TimeoutError, UnknownRequest):
            async with asyncio.timeout(wait_s):
                await self._until_exists(request_id)
                await self._until_ended(request_id)
        return await self._outcome(request_id)

    async def stored(self, request_id: str) -> Stored:
        """The row of a request in the database of outcomes."""
        check_known_form(request_id)
        found = await self._results.find(request_id) if self._results is not None else None
        if found is None:
            raise UnknownRequest.of(request_id)
        return found

    async def snapshot(self, request_id: str, *, merged: bool) -> Snapshot:
        """The state of a request's current attempt, or its outcome."""
        check_known_form(request_id)
        try:
            return await snapshot(self._fanout, request_id, merged=merged)
        except UnknownRequest:
            outcome = None if merged else await self.result(request_id, 0.0)
            if outcome is None:
                raise
            return snapshot_of(outcome)

    async def _until_exists(self, request_id: str) -> None:
        """Waits for the record. It is polled, since nothing announces that a request is created."""
        pause_s = _EXISTS_PAUSE_S
        while await self._fanout.record(request_id) is None:
            await asyncio.sleep(pause_s)
            pause_s = min(2 * pause_s, _EXISTS_PAUSE_MAX_S)

    async def _until_ended(self, request_id: str) -> None:
        """Follows the log from its current end. The terminal and the outcome are written in one step."""
        opening = await open_log(self._fanout, request_id, BEGINNING)
        async with self._tail(request_id, str(opening.seen.last.id)) as items:
            async for _ in items:
                pass

    async def _outcome(self, request_id: str) -> Outcome | None:
        try:
            record = await self._record(request_id, "outcome")
        except UnknownRequest:
            return (await self.stored(request_id)).outcome
        return codec.decode_outcome(record["outcome"]) if "outcome" in record else None

    async def _record(self, request_id: str, *fields: str) -> dict[str, bytes]:
        check_known_form(request_id)
        record = await self._fanout.record(request_id, *fields)
        if record is None:
            raise UnknownRequest.of(request_id)
        return record
