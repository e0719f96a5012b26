"""Reads an attempt from its start up to a cursor, for forms that cannot begin in its middle."""

from collections.abc import AsyncGenerator, Sequence
from typing import Protocol

from tailrace.producers.store import RawEntry
from tailrace.schemas.codec import decode_entry
from tailrace.schemas.deltas import LogEntry
from tailrace.schemas.ids import EntryId


class PageReader(Protocol):
    """The part of the store that this needs."""

    async def page(self, request_id: str, first: EntryId, last: EntryId) -> Sequence[RawEntry]:
        """A page of entries from `first` to `last`, both included."""
        ...


async def attempt_until(
    reader: PageReader, request_id: str, cursor: EntryId
) -> AsyncGenerator[tuple[str, LogEntry], None]:
    """The entries of the cursor's attempt from the first to the one at the cursor, each with its cursor.

    Args:
        reader: the store.
        request_id: the request whose log is read.
        cursor: the last entry to read.
    """
    at = EntryId(cursor.attempt, 0)
    while at <= cursor and (entries := await reader.page(request_id, at, cursor)):
        for entry_id, raw in entries:
            yield str(entry_id), decode_entry(raw)
        at = entries[-1].id.next()
