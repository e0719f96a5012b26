"""A tail in the Letta form: each delta with a Letta server's full message, the same wherever the tail was resumed."""

from collections.abc import AsyncGenerator
from contextlib import aclosing
from typing import Any, NamedTuple

import msgspec

from tailrace.producers.tail.attempt_pages import PageReader, attempt_until
from tailrace.producers.tail.log_tail import Tailed
from tailrace.schemas.deltas import DELTAS, AttemptStarted, LogEntry, ReaderEvent
from tailrace.schemas.ids import BEGINNING, EntryId
from tailrace.schemas.letta import LettaView


class LettaItem(NamedTuple):
    """One item of a tail in the Letta form.

    Attributes:
        cursor: as in `Tailed`.
        entry: as in `Tailed`.
        message: for a delta the Letta message; for all else (a new attempt, the terminal, a gap) the entry as it stands
            in the log. With an `attempt_started` whose number is above 1, every message before it is void.
    """

    cursor: str | None
    entry: LogEntry | ReaderEvent
    message: dict[str, Any]


async def letta(
    reader: PageReader, request_id: str, after: str | None, items: AsyncGenerator[Tailed, None]
) -> AsyncGenerator[LettaItem, None]:
    """The items of a tail with their Letta messages.

    Args:
        reader: the store.
        request_id: whose log.
        after: the cursor behind which `items` begin.
        items: the tail; closed with this one.
    """
    async with aclosing(items):
        view = await _view_at(reader, request_id, BEGINNING if after is None else EntryId.parse(after))
        async for cursor, entry, raw in items:
            if isinstance(entry, AttemptStarted):
                view = LettaView(entry)
            if isinstance(entry, DELTAS) and view is not None:
                yield LettaItem(cursor, entry, view.message(entry))
            else:
                yield LettaItem(cursor, entry, msgspec.json.decode(raw))


async def _view_at(reader: PageReader, request_id: str, cursor: EntryId) -> LettaView | None:
    """The view as it was behind the cursor: it reads the attempt again, since `source` stands only at a run's begin."""
    view: LettaView | None = None
    async with aclosing(attempt_until(reader, request_id, cursor)) as entries:
        async for _, entry in entries:
            if isinstance(entry, AttemptStarted):
                view = LettaView(entry)
            elif isinstance(entry, DELTAS) and view is not None:
                view.message(entry)
    return view
