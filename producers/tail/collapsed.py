"""A tail in its collapsed view: the state after each item, the same wherever the tail was resumed."""

from collections.abc import AsyncGenerator
from contextlib import aclosing

from tailrace.producers.tail.assembled import Assembled
from tailrace.producers.tail.attempt_pages import PageReader, attempt_until
from tailrace.producers.tail.log_tail import Tailed
from tailrace.schemas.ids import EntryId


async def collapsed(
    reader: PageReader, request_id: str, after: str | None, items: AsyncGenerator[Tailed, None]
) -> AsyncGenerator[Assembled, None]:
    """The state after each item of a tail; resumed, first the state behind the cursor. It is one object, that changes.

    Args:
        reader: the store.
        request_id: whose log.
        after: the cursor behind which `items` begin.
        items: the tail; closed with this one.
    """
    state = Assembled()
    async with aclosing(items):
        if after is not None:
            async with aclosing(attempt_until(reader, request_id, EntryId.parse(after))) as entries:
                async for cursor, entry in entries:
                    state.take(cursor, entry)
            yield state
        async for item in items:
            state.take(item.cursor, item.entry)
            yield state
