"""Reading one log from a cursor: existing entries, then new ones, over attempts and lost connections, to the end.

Knows Redis only through `LogReader`. Knows nothing of how new entries arrive.
"""

from collections.abc import AsyncGenerator, Awaitable, Callable, Sequence
from functools import partial
from typing import NamedTuple, Protocol, TypeVar

from tailrace.broker.backoff import Retries, retry_until_answered
from tailrace.producers.store import LogBounds, RawEntry
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
        cursor: pass it as `after` to continue after this item; None for an event of the reader itself (`Gap`,
            `Stalled`), which is not in the log.
        entry: the decoded entry.
        raw: the entry's JSON as it is in the log.
    """

    cursor: str | None
    entry: LogEntry | ReaderEvent
    raw: bytes

    @property
    def name(self) -> str:
        """The entry's `message_type`, such as `assistant_message` or `completed`."""
        tag = self.entry.__struct_config__.tag
        return str(tag)

    @property
    def is_terminal(self) -> bool:
        """Whether this is the last item."""
        return type(self.entry) in _TERMINALS


class Item(Protocol):
    """An item of a tail, in any form."""

    @property
    def is_terminal(self) -> bool:
        """Whether this is the last item."""
        ...


class BoundsReader(Protocol):
    """The part of the store that opening a log needs."""

    async def log_bounds(self, request_id: str, cursor: EntryId) -> LogBounds | None:
        """One consistent read of a log's bounds; None if there is no log."""
        ...


class LogReader(BoundsReader, Protocol):
    """The part of the store that a tail needs."""

    async def read(self, request_id: str, after: EntryId, wait_s: float | None) -> Sequence[RawEntry] | None:
        """The next entries after `after`; waits for them.

        None if none arrived within about `wait_s`. Empty if the log's bounds must be read again: it may be gone or have
        been replaced.
        """
        ...

    def leave(self) -> None:
        """Ends the reading; nothing needs to be kept for this reader any more."""
        ...


class Opening(NamedTuple):
    """Where a tail begins.

    Attributes:
        after: its cursor.
        seen: the log at that time.
    """

    after: EntryId
    seen: LogBounds

    @property
    def is_finished(self) -> bool:
        """Whether the request has ended and nothing comes after the cursor."""
        return _ends_at(self.seen, self.after)


async def open_log(reader: BoundsReader, request_id: str, after: EntryId) -> Opening:
    """Checks that a tail can begin after `after`.

    Raises:
        UnknownRequest: there is no such log.
        CursorInvalid: the log has no such entry. A failover may have lost it; then the log has to be read again from
            its beginning.
        StoreError: Redis did not answer, or refused.
    """
    seen = await _log_bounds(reader, request_id, after)
    if after == BEGINNING or seen.at_cursor is not None or after < seen.first.id:
        return Opening(after, seen)
    if seen.following is None:
        raise CursorInvalid(f"{after} is not a cursor of this log: it ends at {seen.last.id}")
    if seen.following.id.attempt != after.attempt:
        raise CursorInvalid(f"{after} is not a cursor of this log: attempt {after.attempt} has no such entry")
    return Opening(after, seen)


async def _log_bounds(reader: BoundsReader, request_id: str, cursor: EntryId) -> LogBounds:
    seen = await reader.log_bounds(request_id, cursor)
    if seen is None:
        raise UnknownRequest.of(request_id)
    return seen


def tailed(cursor: str | None, raw: bytes, event: ReaderEvent | None) -> Tailed:
    """An item with its decoded entry."""
    return Tailed(cursor, decode_entry(raw) if event is None else event, raw)


async def tail(
    reader: LogReader,
    request_id: str,
    opening: Callable[[], Awaitable[Opening]],
    form: Callable[[str | None, bytes, ReaderEvent | None], _Item],
    *,
    away_limit_s: float,
    watch: StallWatch | None = None,
) -> AsyncGenerator[_Item, None]:
    """Every entry after a cursor, in order and once, up to the terminal.

    Args:
        reader: the store.
        request_id: the request whose log is read.
        opening: returns the result of `open_log`; called before the first item.
        form: makes an item from a cursor and an entry's bytes; for an event of the reader itself, from None, the bytes
            of that event, and the event.
        away_limit_s: how long Redis may be unreachable at a stretch before the tail fails.
        watch: reports when no worker works on the request.

    Raises:
        UnknownRequest: the log is gone.
        StoreUnavailable: Redis was unreachable for longer than `away_limit_s`.
        StoreRefused: Redis no longer allows reading the log.
    """
    position, seen = await opening()
    furthest = position
    del opening
    began = seen.beginning
    outage = Retries("read", logged=False, patience_s=away_limit_s, retried=(StoreUnavailable,))
    wait_s = watch.look_s if watch is not None else None
    try:
        while not _ends_at(seen, position):
            try:
                entries = await reader.read(request_id, position, wait_s)
            except StoreUnavailable as error:
                await outage.log_and_back_off(error)
                entries = ()  # the server that answers next may have lost entries: check first
            for entry in entries or ():
                entry_id, raw = entry
                attempt, seq = entry_id
                if position != (attempt, seq - 1) and not follows(position, entry_id) and entry_id != furthest.next():
                    gap = Gap(after=str(position), before=str(entry_id))
                    yield form(None, encode_entry(gap), gap)
                position = furthest = entry_id
                if not seq:
                    began = entry
                item = form("%d-%d" % entry_id, raw, None)  # noqa: UP031 - half the time that an f-string takes here
                yield item
                if item.is_terminal:
                    return
            if entries is not None and not entries:
                seen = await retry_until_answered(partial(_log_bounds, reader, request_id, position), outage)
                position = resumed(position, began, seen)
            if watch is not None and not entries and (stalled := await watch.judge(position)):
                yield form(None, encode_entry(stalled), stalled)
    finally:
        reader.leave()


def resumed(position: EntryId, began: RawEntry | None, seen: LogBounds) -> EntryId:
    """Where a tail continues in a log that may have lost its last entries in a failover and grown again since.

    Args:
        position: the last entry that the tail has read.
        began: the first entry of that attempt, as the tail has read it.
        seen: the current bounds of the log, read with `position`.
    """
    if began is not None and seen.beginning is not None and began.raw != seen.beginning.raw:
        return EntryId(position.attempt - 1, _LAST_SEQ)  # another attempt got the same number: read all of it
    return min(position, seen.last.id)


def _ends_at(seen: LogBounds, position: EntryId) -> bool:
    return seen.last.id == position and isinstance(decode_entry(seen.last.raw), TERMINALS)


def follows(position: EntryId, entry_id: EntryId) -> bool:
    """Whether no entry is missing between the two: ids are gapless within an attempt, and each attempt begins at 0."""
    if entry_id.attempt == position.attempt:
        return entry_id.seq == position.seq + 1
    return entry_id.attempt > position.attempt and entry_id.seq == 0
