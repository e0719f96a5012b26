"""The outbox: requests that have ended and are not in the database yet. All sinks read this Redis stream as one group.

An entry that a sink has taken and not settled is delivered again after a while. This module retries nothing; every
method raises StoreError if Redis fails.
"""

import asyncio
from collections.abc import Awaitable, Callable, Mapping, Sequence
from time import time
from typing import Any, NamedTuple, TypeVar

import msgspec
from redis.asyncio import Redis
from redis.exceptions import ResponseError

from tailrace.broker import keys
from tailrace.broker.clients import client_error
from tailrace.broker.errors import FAILURES
from tailrace.schemas.codec import decode_outcome
from tailrace.schemas.errors import TailError
from tailrace.schemas.outcome import Outcome
from tailrace.schemas.priority import DEFAULT_PRIORITY
from tailrace.schemas.results import Stored
from tailrace.schemas.times import iso_of_ms, ms_of_record
from tailrace.worker.attempt.request_store import Store
from tailrace.worker.results.database import Refused

_T = TypeVar("_T")

BATCH = 200
BLOCK_S = 2.0
PART_BYTES = 8 * 1024 * 1024
"""Outcomes are read and written in parts of about this size. A part is a transaction."""

_CONSUMER = "sink"
"""The consumer name of all sinks. One name for all leaves no consumers of dead sinks behind."""

_FIELDS = ("status", "outcome", "tenant", "priority", "submitted_ms", "deadline_ms")
_ENDED = frozenset({b"completed", b"incomplete", b"failed", b"cancelled"})
_SETTLED_AT_ONCE = 16


class Taken(NamedTuple):
    """An entry that was taken."""

    entry_id: bytes
    request_id: str


class Found(NamedTuple):
    """The records of taken entries.

    Attributes:
        outcomes: those that can be written.
        refused: those whose record cannot be read.
        gone: requests without a record, and jobs that never were requests.
    """

    outcomes: list[Stored]
    refused: list[Refused]
    gone: list[str]


class Waiting(NamedTuple):
    """The entries that wait, the age of the oldest in seconds, and the outcomes that the database could not accept."""

    entries: int
    oldest_s: float
    refused: int


class OutcomeOutbox:
    """The outbox of one queue.

    Args:
        queue: a client of the Redis with the queue; its time limit must be longer than `BLOCK_S`.
        records: a client of the Redis with the records.
        claim_s: how long an entry may be taken and not settled before it is delivered again.
    """

    def __init__(self, queue: Redis, records: Redis, *, claim_s: float) -> None:
        self._queue = queue
        self._records = records
        self._store = Store(records, patience_s=0)
        self._claim_ms = round(claim_s * 1000)

    async def open(self) -> None:
        """Creates the outbox if there is none. From then on, requests that end are added to it."""
        try:
            await self._queue.xgroup_create(keys.OUTBOX, keys.OUTBOX_GROUP, "0", mkstream=True)
        except ResponseError as error:
            if not str(error).startswith("BUSYGROUP"):
                raise client_error(error, self._queue) from error
        except FAILURES as error:
            raise client_error(error, self._queue) from error
        await self._extend_lifetime()

    async def take(self, *, again: bool) -> list[Taken]:
        """Takes up to `BATCH` entries. If there are none, it waits up to `BLOCK_S` for the first.

        Args:
            again: whether to take entries first that a sink has not settled in time.
        """
        try:
            if again and (unsettled := await self._ask(self._take_unsettled)):
                return unsettled
            answer = await self._ask(
                lambda: self._queue.xreadgroup(
                    keys.OUTBOX_GROUP, _CONSUMER, {keys.OUTBOX: ">"}, count=BATCH, block=round(BLOCK_S * 1000)
                )
            )
        except ResponseError:  # there is no such group: Redis has lost it, or it has expired
            await self.open()
            return []
        return _taken(answer[0][1]) if answer else []

    async def _take_unsettled(self) -> list[Taken]:
        await self._extend_lifetime()
        _, entries, *_ = await self._queue.xautoclaim(
            keys.OUTBOX, keys.OUTBOX_GROUP, _CONSUMER, min_idle_time=self._claim_ms, count=BATCH
        )
        return _taken(entries)

    async def parts(self, taken: Sequence[Taken]) -> list[list[Taken]]:
        """Splits entries into parts whose outcomes fit into memory together."""

        async def sizes() -> list[int]:
            async with self._records.pipeline(transaction=False) as together:
                for one in taken:
                    together.hstrlen(keys.rec_key(one.request_id), "outcome")
                return await together.execute()

        parts: list[list[Taken]] = [[]]
        size = 0
        for one, more in zip(taken, await self._ask(sizes, self._records), strict=True):
            if parts[-1] and size + more > PART_BYTES:
                parts.append([])
                size = 0
            parts[-1].append(one)
            size += more
        return parts

    async def read(self, taken: Sequence[Taken]) -> Found:
        """Reads the records of these entries, each request once."""

        async def records() -> list[list[bytes | None]]:
            async with self._records.pipeline(transaction=False) as together:
                for request_id in wanted:
                    together.hmget(keys.rec_key(request_id), _FIELDS)
                return await together.execute()

        await self._extend_lifetime()  # a sink calls this again and again while the database is unavailable
        wanted = list(dict.fromkeys(one.request_id for one in taken))
        found = Found([], [], [])
        for request_id, values in zip(wanted, await self._ask(records, self._records), strict=True):
            record: dict[str, bytes | None] = dict(zip(_FIELDS, values, strict=True))
            if record["status"] is None:
                found.gone.append(request_id)
                continue
            if record["status"] not in _ENDED:
                continue  # a failover has lost its end; the worker that ends it again adds it again
            try:
                found.outcomes.append(_stored(request_id, record))
            except (TailError, ValueError, TypeError) as error:
                found.refused.append(Refused(request_id, f"its record cannot be read ({type(error).__name__})"))
        return found

    async def settle(self, taken: Sequence[Taken], written: Sequence[Outcome], refused: Sequence[Refused]) -> None:
        """Removes entries from the outbox that are in the database or never will be, and lets their records expire.

        The entries are removed last, so a call that was interrupted can be repeated.
        """
        for first in range(0, len(written), _SETTLED_AT_ONCE):
            outcomes = written[first : first + _SETTLED_AT_ONCE]
            await asyncio.gather(*(self._store.stored(one.request_id or "", one.attempt or 0) for one in outcomes))
        if refused:
            notes = {one.request_id: _note(one.why) for one in refused}
            await self._ask(lambda: self._queue.hset(keys.OUTBOX_REFUSED, mapping=notes))
            await self._ask(lambda: self._queue.expire(keys.OUTBOX_REFUSED, keys.OUTBOX_LIFETIME_S))
        ids = [one.entry_id for one in taken]

        async def remove() -> None:
            async with self._queue.pipeline(transaction=True) as together:
                together.xack(keys.OUTBOX, keys.OUTBOX_GROUP, *ids)
                together.xdel(keys.OUTBOX, *ids)
                await together.execute()

        await self._ask(remove)

    async def waiting(self) -> Waiting:
        """The number and the age of the entries that wait."""

        async def count() -> list[Any]:
            async with self._queue.pipeline(transaction=False) as together:
                together.xlen(keys.OUTBOX)
                together.xrange(keys.OUTBOX, count=1)
                together.hlen(keys.OUTBOX_REFUSED)
                together.time()
                return await together.execute()

        entries, oldest, refused, (seconds, _) = await self._ask(count)
        since_s = int(oldest[0][0].partition(b"-")[0]) / 1000 if oldest else seconds
        return Waiting(entries, max(seconds - since_s, 0.0), refused)

    async def refused(self) -> dict[str, str]:
        """The ids of the outcomes that the database could not accept, each with the reason."""
        notes: Mapping[bytes, bytes] = await self._ask(lambda: self._queue.hgetall(keys.OUTBOX_REFUSED))
        return {request_id.decode(): msgspec.json.decode(note)["why"] for request_id, note in notes.items()}

    async def put_back(self, request_ids: Sequence[str]) -> None:
        """Puts requests back into the outbox, to be written again."""

        async def move() -> None:
            async with self._queue.pipeline(transaction=True) as together:
                for request_id in request_ids:
                    together.xadd(keys.OUTBOX, {"id": request_id}, nomkstream=True)
                    together.hdel(keys.OUTBOX_REFUSED, request_id)
                await together.execute()

        await self.open()
        await self._ask(move)

    async def _extend_lifetime(self) -> None:
        await self._ask(lambda: self._queue.expire(keys.OUTBOX, keys.OUTBOX_LIFETIME_S))

    async def _ask(self, call: Callable[[], Awaitable[_T]], redis: Redis | None = None) -> _T:
        try:
            return await call()
        except FAILURES as error:
            if isinstance(error, ResponseError) and str(error).startswith(("NOGROUP", "UNBLOCKED")):
                raise
            raise client_error(error, redis or self._queue) from error


def _taken(entries: Sequence[tuple[bytes, dict[bytes, bytes]]]) -> list[Taken]:
    return [Taken(entry_id, fields.get(b"id", b"").decode(errors="replace")) for entry_id, fields in entries if fields]


def _stored(request_id: str, record: Mapping[str, bytes | None]) -> Stored:
    outcome = decode_outcome(record["outcome"] or b"")
    submitted_at = outcome.submitted_at or iso_of_ms(ms_of_record(record["submitted_ms"]))
    priority: Any = (record["priority"] or DEFAULT_PRIORITY.encode()).decode()
    return Stored(
        outcome=msgspec.structs.replace(outcome, request_id=request_id, submitted_at=submitted_at),
        tenant=record["tenant"].decode() if record["tenant"] is not None else None,
        priority=priority,
        deadline_ms=ms_of_record(record["deadline_ms"]),
    )


def _note(why: str) -> bytes:
    return msgspec.json.encode({"why": why, "at_ms": round(time() * 1000)})
