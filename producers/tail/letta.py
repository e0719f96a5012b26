"""A tail in the Letta form: each delta with a Letta server's full message, the same wherever the tail was resumed."""

from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import aclosing
from typing import Any, NamedTuple

import msgspec

from tailrace.producers.tail.attempt_pages import PageReader, attempt_until
from tailrace.producers.tail.log_tail import Opening, Tailed
from tailrace.schemas.deltas import DELTAS, AttemptStarted, LogEntry, ReaderEvent
from tailrace.schemas.ids import EntryId
from tailrace.schemas.letta import LettaView


class LettaItem(NamedTuple):
    """One item of a tail in the Letta form.

    Attributes:
        cursor: as in `Tailed`.
        entry: as in `Tailed`.
        message: the Letta message of a delta; for any other entry (a new attempt, the terminal, a gap) the entry as it
            is in the log. An `attempt_started` with a number above 1 discards every message before it.
    """

    cursor: str | None
    entry: LogEntry | ReaderEvent
    message: dict[str, Any]


async def letta_items(
    reader: PageReader,
    request_id: str,
    opening: Callable[[], Awaitable[Opening]],
    items: AsyncGenerator[Tailed, None],
) -> AsyncGenerator[LettaItem, None]:
    """The items of a tail with their Letta messages.

    Args:
        reader: the store.
        request_id: the request whose log is read.
        opening: returns where `items` begin; called before the first item.
        items: the tail; closed with this generator.
    """
    async with aclosing(items):
        view = await _view_at(reader, request_id, (await opening()).after)
        async for cursor, entry, raw in items:
            if isinstance(entry, AttemptStarted):
                view = LettaView(entry)
            if isinstance(entry, DELTAS) and view is not None:
                yield LettaItem(cursor, entry, view.message(entry))
            else:
                yield LettaItem(cursor, entry, msgspec.json.decode(raw))


async def _view_at(reader: PageReader, request_id: str, cursor: EntryId) -> LettaView | None:
    """The view at a cursor. It reads the attempt from its start, since only the first delta of a run has `source`."""
    view: LettaView | None = None
    async with aclosing(attempt_until(reader, request_id, cursor)) as entries:
        async for _, entry in entries:
            if isinstance(entry, AttemptStarted):
                view = LettaView(entry)
            elif isinstance(entry, DELTAS) and view is not None:
                view.message(entry)
    return view
