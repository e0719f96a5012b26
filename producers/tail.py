"""One reader of one log: replay, live, new attempt, end. Also says what it could not read: gaps.

Sees Redis only through `LogReader`: the live part may come another way than by a blocking read of each tail's own.
"""

import asyncio
import random
import time
from collections.abc import AsyncGenerator, Awaitable, Callable, Sequence
from functools import partial
from typing import NamedTuple, Protocol, TypeVar

from producers.store import Glimpse, RawEntry
from schemas.codec import decode_entry, encode_entry
from schemas.deltas import TERMINALS, Gap, LogEntry, ReaderEvent
from schemas.errors import CursorInvalid, StoreUnavailable, UnknownRequest
from schemas.ids import BEGINNING, EntryId

_BACKOFF_BASE_S = 0.05
_BACKOFF_CAP_S = 1.0


class Tailed(NamedTuple):
    """One item of a tail.

    Attributes:
        cursor: give it as `after` to go on behind this item; None for what the reader itself says (`Gap`).
        entry: what it says.
        raw: the entry's JSON as it stands in the log.
    """

    cursor: str | None
    entry: LogEntry | ReaderEvent
    raw: bytes


class LogReader(Protocol):
    """What a tail needs of the store."""

    async def glimpse(self, request_id: str, cursor: EntryId) -> Glimpse | None:
        """One consistent look at a log; None when there is none."""
        ...

    async def read(self, request_id: str, after: EntryId) -> Sequence[RawEntry]:
        """The next entries behind `after`; with none there, waits a few seconds for the next."""
        ...


async def look(reader: LogReader, request_id: str, after: EntryId) -> Glimpse:
    """Looks whether a tail can begin behind `after`.

    Raises:
        UnknownRequest: there is no such log.
        CursorInvalid: the log has never had such an entry.
        StoreError: Redis cannot be asked.
    """
    seen = await reader.glimpse(request_id, after)
    if seen is None:
        raise unknown(request_id)
    if after == BEGINNING or seen.at_cursor is not None or after < seen.first.id:
        return seen
    if seen.following is None:
        raise CursorInvalid(f"{after} is not a cursor of this log: it ends at {seen.last.id}")
    if seen.following.id.attempt != after.attempt:
        raise CursorInvalid(f"{after} is not a cursor of this log: attempt {after.attempt} has no such entry")
    return seen


async def tail(
    reader: LogReader, request_id: str, after: EntryId, seen: Glimpse, *, away_limit_s: float
) -> AsyncGenerator[Tailed, None]:
    """Every entry behind `after`, in order and once, up to the terminal.

    Args:
        reader: the store.
        request_id: whose log.
        after: the cursor.
        seen: what `look` answered for it.
        away_limit_s: how long Redis may be away in one piece before the tail gives up.

    Raises:
        UnknownRequest: the log is gone.
        StoreUnavailable: Redis was away for longer than `away_limit_s`.
        StoreRefused: Redis does not let us read any more.
    """
    position = after
    outage = _Outage(away_limit_s)
    while not _ends_at(seen, position):
        entries = await outage.survive(partial(reader.read, request_id, position))
        for entry_id, raw in entries:
            if not follows(position, entry_id):
                gap = Gap(after=str(position), before=str(entry_id))
                yield Tailed(None, gap, encode_entry(gap))
            position = entry_id
            entry = decode_entry(raw)
            yield Tailed(str(entry_id), entry, raw)
            if isinstance(entry, TERMINALS):
                return
        if not entries:
            seen = await outage.survive(partial(look, reader, request_id, BEGINNING))


def _ends_at(seen: Glimpse, position: EntryId) -> bool:
    return seen.last.id == position and isinstance(decode_entry(seen.last.raw), TERMINALS)


def follows(position: EntryId, entry_id: EntryId) -> bool:
    """Whether no entry is missing between the two: ids are gapless within an attempt, and each attempt begins at 0."""
    return entry_id == position.next() or (entry_id.attempt > position.attempt and entry_id.seq == 0)


def unknown(request_id: str) -> UnknownRequest:
    """The error for an id without a log."""
    return UnknownRequest(f"no request has the id {request_id[:80]!r}, or its lifetime is over")


_Answer = TypeVar("_Answer")


class _Outage:
    """Tries again while Redis is away, up to a limit for each absence."""

    def __init__(self, limit_s: float) -> None:
        self._limit_s = limit_s

    async def survive(self, ask: Callable[[], Awaitable[_Answer]]) -> _Answer:
        began_s: float | None = None
        ceiling_s = _BACKOFF_BASE_S
        while True:
            try:
                return await ask()
            except StoreUnavailable as error:
                now_s = time.monotonic()
                began_s = began_s if began_s is not None else now_s
                left_s = self._limit_s - (now_s - began_s)
                if left_s <= 0:
                    raise StoreUnavailable(f"{error} (for {self._limit_s:g} s now)") from error
                # Full jitter: the tails of a process must not all come back in the same instant.
                await asyncio.sleep(min(left_s, random.uniform(0, ceiling_s)))  # noqa: S311 - no secret hangs on it
                ceiling_s = min(2 * ceiling_s, _BACKOFF_CAP_S)
