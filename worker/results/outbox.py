"""The outbox: what has ended and is not in the database yet. A Redis stream that all sinks read as one group.

What one of them has taken and not settled is given out again after a while, to whoever asks. Nothing is tried again.
Every method raises StoreError when Redis does not do what it was asked.
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
"""Outcomes are read and written in parts of about this size, however large they are: a part is a transaction."""

_CONSUMER = "sink"
"""All of them: who takes an entry does not matter, and so nobody's name outlives him."""

_FIELDS = ("status", "outcome", "tenant", "priority", "submitted_ms", "deadline_ms")
_ENDED = frozenset({b"completed", b"incomplete", b"failed", b"cancelled"})
_SETTLED_AT_ONCE = 16


class Taken(NamedTuple):
    """What the outbox gave out."""

    entry_id: bytes
    request_id: str


class Found(NamedTuple):
    """What was read: outcomes, those that cannot be read, and requests whose records are gone.

    A job that never was a request has no record either.
    """

    outcomes: list[Stored]
    refused: list[Refused]
    gone: list[str]


class Waiting(NamedTuple):
    """How much waits: entries, seconds of the oldest, and how many outcomes the database has refused."""

    entries: int
    oldest_s: float
    refused: int


class OutcomeOutbox:
    """The outbox of one queue.

    Args:
        queue: a client of the Redis with the queue; its answers may take longer than `BLOCK_S`.
        records: a client of the Redis with the records.
        claim_s: how long something may be taken and not settled.
    """

    def __init__(self, queue: Redis, records: Redis, *, claim_s: float) -> None:
        self._queue = queue
        self._records = records
        self._verbs = Store(records, patience_s=0)
        self._claim_ms = round(claim_s * 1000)

    async def open(self) -> None:
        """From here on what ends is put into it."""
        try:
            await self._queue.xgroup_create(keys.OUTBOX, keys.OUTBOX_GROUP, "0", mkstream=True)
        except ResponseError as error:
            if not str(error).startswith("BUSYGROUP"):
                raise client_error(error, self._queue) from error
        except FAILURES as error:
            raise client_error(error, self._queue) from error
        await self._live_on()

    async def take(self, *, again: bool) -> list[Taken]:
        """Up to `BATCH` entries; without any, waits a little for the first.

        Args:
            again: first what others have taken and not settled in time.
        """
        try:
            if again and (left := await self._ask(self._left)):
                return left
            answer = await self._ask(
                lambda: self._queue.xreadgroup(
                    keys.OUTBOX_GROUP, _CONSUMER, {keys.OUTBOX: ">"}, count=BATCH, block=round(BLOCK_S * 1000)
                )
            )
        except ResponseError:  # there is no such group: Redis has lost it, or it was not looked at for too long
            await self.open()
            return []
        return _taken(answer[0][1]) if answer else []

    async def _left(self) -> list[Taken]:
        await self._live_on()
        _, entries, *_ = await self._queue.xautoclaim(
            keys.OUTBOX, keys.OUTBOX_GROUP, _CONSUMER, min_idle_time=self._claim_ms, count=BATCH
        )
        return _taken(entries)

    async def parts(self, taken: Sequence[Taken]) -> list[list[Taken]]:
        """The same in parts that may be held in memory at once."""

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
        """What there is of these to be written, each request once."""

        async def records() -> list[list[bytes | None]]:
            async with self._records.pipeline(transaction=False) as together:
                for request_id in wanted:
                    together.hmget(keys.rec_key(request_id), _FIELDS)
                return await together.execute()

        await self._live_on()  # this is tried again as long as the database is away
        wanted = list(dict.fromkeys(one.request_id for one in taken))
        found = Found([], [], [])
        for request_id, values in zip(wanted, await self._ask(records, self._records), strict=True):
            record: dict[str, bytes | None] = dict(zip(_FIELDS, values, strict=True))
            if record["status"] is None:
                found.gone.append(request_id)
                continue
            if record["status"] not in _ENDED:
                continue  # a failover lost its end: who ends it once more puts it in again
            try:
                found.outcomes.append(_stored(request_id, record))
            except (TailError, ValueError, TypeError) as error:
                found.refused.append(Refused(request_id, f"its record cannot be read ({type(error).__name__})"))
        return found

    async def settle(self, taken: Sequence[Taken], written: Sequence[Outcome], refused: Sequence[Refused]) -> None:
        """They are in the database, or never will be: they leave the outbox, and their records may go.

        In this order, so that one which is broken off is only done once more.
        """
        for first in range(0, len(written), _SETTLED_AT_ONCE):
            several = written[first : first + _SETTLED_AT_ONCE]
            await asyncio.gather(*(self._verbs.stored(one.request_id or "", one.attempt or 0) for one in several))
        if refused:
            notes = {one.request_id: _note(one.why) for one in refused}
            await self._ask(lambda: self._queue.hset(keys.OUTBOX_REFUSED, mapping=notes))
            await self._ask(lambda: self._queue.expire(keys.OUTBOX_REFUSED, keys.OUTBOX_LIFETIME_S))
        ids = [one.entry_id for one in taken]

        async def leave() -> None:
            async with self._queue.pipeline(transaction=True) as together:
                together.xack(keys.OUTBOX, keys.OUTBOX_GROUP, *ids)
                together.xdel(keys.OUTBOX, *ids)
                await together.execute()

        await self._ask(leave)

    async def waiting(self) -> Waiting:
        """How much waits."""

        async def look() -> list[Any]:
            async with self._queue.pipeline(transaction=False) as together:
                together.xlen(keys.OUTBOX)
                together.xrange(keys.OUTBOX, count=1)
                together.hlen(keys.OUTBOX_REFUSED)
                together.time()
                return await together.execute()

        entries, oldest, refused, (seconds, _) = await self._ask(look)
        since_s = int(oldest[0][0].partition(b"-")[0]) / 1000 if oldest else seconds
        return Waiting(entries, max(seconds - since_s, 0.0), refused)

    async def refused(self) -> dict[str, str]:
        """Ids of the outcomes that the database could not take, and why."""
        notes: Mapping[bytes, bytes] = await self._ask(lambda: self._queue.hgetall(keys.OUTBOX_REFUSED))
        return {request_id.decode(): msgspec.json.decode(note)["why"] for request_id, note in notes.items()}

    async def put_back(self, request_ids: Sequence[str]) -> None:
        """These are to be tried again."""

        async def again() -> None:
            async with self._queue.pipeline(transaction=True) as together:
                for request_id in request_ids:
                    together.xadd(keys.OUTBOX, {"id": request_id}, nomkstream=True)
                    together.hdel(keys.OUTBOX_REFUSED, request_id)
                await together.execute()

        await self.open()
        await self._ask(again)

    async def _live_on(self) -> None:
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
