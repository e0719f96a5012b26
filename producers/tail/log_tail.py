"""One reader of one log: replay, live, new attempt, end. Also says what it could not read: gaps.

Sees Redis only through `LogReader`: the live part may come another way than by a blocking read of each tail's own.
"""

from collections.abc import AsyncGenerator, Callable, Sequence
from functools import partial
from typing import NamedTuple, Protocol, TypeVar

from tailrace.broker.backoff import Retries, retry_until_answered
from tailrace.producers.store import Glimpse, RawEntry
from tailrace.producers.tail.stalled import StallWatch
from tailrace.schemas.codec import decode_entry, encode_entry
from tailrace.schemas.deltas import TERMINALS, Gap, LogEntry, ReaderEvent
from tailrace.schemas.errors import CursorInvalid, StoreUnavailable, UnknownRequest
from tailrace.schemas.ids import BEGINNING, EntryId

_LAST_SEQ = 2**64 - 1

_TERMINALS = frozenset(TERMINALS)

_Item = TypeVar("_Item", bound="Item")


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

    @property
    def is_terminal(self) -> bool:
        """Whether nothing comes behind it."""
        return type(self.entry) in _TERMINALS


class Item(Protocol):
    """What a tail has to know of its items, whatever form they have."""

    @property
    def is_terminal(self) -> bool:
        """Whether nothing comes behind it."""
        ...


class LogReader(Protocol):
    """What a tail needs of the store."""

    async def glimpse(self, request_id: str, cursor: EntryId) -> Glimpse | None:
        """One consistent look at a log; None when there is none."""
        ...

    async def read(self, request_id: str, after: EntryId, wait_s: float | None) -> Sequence[RawEntry] | None:
        """The next entries behind `after`, waiting for them.

        None when none has come within about `wait_s`. Empty when it is time to look at the log: it may be gone, or
        another than before.
        """
        ...

    def leave(self) -> None:
        """Whoever read is done; nothing need be kept for it."""
        ...


async def look(reader: LogReader, request_id: str, after: EntryId) -> Glimpse:
    """Looks whether a tail can begin behind `after`.

    Raises:
        UnknownRequest: there is no such log.
        CursorInvalid: the log has no such entry; after a failover it may have lost it: then it is to be followed anew,
            from its beginning.
        StoreError: Redis cannot be asked.
    """
    seen = await _glimpse(reader, request_id, after)
    if after == BEGINNING or seen.at_cursor is not None or after < seen.first.id:
        return seen
    if seen.following is None:
        raise CursorInvalid(f"{after} is not a cursor of this log: it ends at {seen.last.id}")
    if seen.following.id.attempt != after.attempt:
        raise CursorInvalid(f"{after} is not a cursor of this log: attempt {after.attempt} has no such entry")
    return seen


async def _glimpse(reader: LogReader, request_id: str, cursor: EntryId) -> Glimpse:
    seen = await reader.glimpse(request_id, cursor)
    if seen is None:
        raise UnknownRequest.of(request_id)
    return seen


def tailed(cursor: str | None, raw: bytes, said: ReaderEvent | None) -> Tailed:
    """The form of an item in which its entry is decoded."""
    return Tailed(cursor, decode_entry(raw) if said is None else said, raw)


async def tail(
    reader: LogReader,
    request_id: str,
    after: EntryId,
    seen: Glimpse | None,
    form: Callable[[str | None, bytes, ReaderEvent | None], _Item],
    *,
    away_limit_s: float,
    watch: StallWatch | None = None,
) -> AsyncGenerator[_Item, None]:
    """Every entry behind `after`, in order and once, up to the terminal.

    Args:
        reader: the store.
        request_id: whose log.
        after: the cursor.
        seen: what `look` answered for it; None: it looks by itself before its first item, and raises as `look` does.
        form: makes an item of a cursor and an entry's bytes; where the reader itself says something, of None, the bytes
            of that, and what it says.
        away_limit_s: how long Redis may be away in one piece before the tail gives up.
        watch: says when nobody works on the request.

    Raises:
        UnknownRequest: the log is gone.
        StoreUnavailable: Redis was away for longer than `away_limit_s`.
        StoreRefused: Redis does not let us read any more.
    """
    position = furthest = after
    if seen is None:
        seen = await look(reader, request_id, after)
    began = seen.beginning
    outage = Retries("read", logged=False, patience_s=away_limit_s, retried=(StoreUnavailable,))
    wait_s = watch.look_s if watch is not None else None
    try:
        while not _ends_at(seen, position):
            try:
                entries = await reader.read(request_id, position, wait_s)
            except StoreUnavailable as error:
                await outage.log_and_back_off(error)
                entries = ()  # what comes back has to be looked at first
            for entry in entries or ():
                entry_id, raw = entry
                attempt, seq = entry_id
                if position != (attempt, seq - 1) and not follows(position, entry_id) and entry_id != furthest.next():
                    gap = Gap(after=str(position), before=str(entry_id))
                    yield form(None, encode_entry(gap), gap)
                position = furthest = entry_id
                if not seq:
                    began = entry
                item = form("%d-%d" % entry_id, raw, None)  # noqa: UP031 - half of what an f-string takes here
                yield item
                if item.is_terminal:
                    return
            if entries is not None and not entries:
                seen = await retry_until_answered(partial(_glimpse, reader, request_id, position), outage)
                position = resumed(position, began, seen)
            if watch is not None and not entries and (stalled := await watch.judge(position)):
                yield form(None, encode_entry(stalled), stalled)
    finally:
        reader.leave()


def resumed(position: EntryId, began: RawEntry | None, seen: Glimpse) -> EntryId:
    """From where a tail reads on in a log that may have lost its last entries, in a failover, and gone on since.

    Args:
        position: what it has read last.
        began: how the attempt of that began, as the tail has read it.
        seen: the log now, looked at with `position`.
    """
    if began is not None and seen.beginning is not None and began.raw != seen.beginning.raw:
        return EntryId(position.attempt - 1, _LAST_SEQ)  # its number was given out anew: the whole of it is new
    return min(position, seen.last.id)


def _ends_at(seen: Glimpse, position: EntryId) -> bool:
    return seen.last.id == position and isinstance(decode_entry(seen.last.raw), TERMINALS)


def follows(position: EntryId, entry_id: EntryId) -> bool:
    """Whether no entry is missing between the two: ids are gapless within an attempt, and each attempt begins at 0."""
    if entry_id.attempt == position.attempt:
        return entry_id.seq == position.seq + 1
    return entry_id.attempt > position.attempt and entry_id.seq == 0
