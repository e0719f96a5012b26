"""A tail in its collapsed form: the state after each item, the same wherever the tail was resumed."""

from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import aclosing

from tailrace.producers.tail.attempt_pages import PageReader, attempt_until
from tailrace.producers.tail.collapsed_state import Collapsed
from tailrace.producers.tail.log_tail import Opening, Tailed
from tailrace.schemas.ids import BEGINNING


async def collapsed_items(
    reader: PageReader,
    request_id: str,
    opening: Callable[[], Awaitable[Opening]],
    items: AsyncGenerator[Tailed, None],
) -> AsyncGenerator[Collapsed, None]:
    """The state after each item of a tail. A resumed tail first gives the state at its cursor.

    Args:
        reader: the store.
        request_id: the request whose log is read.
        opening: returns where `items` begin; called before the first item.
        items: the tail; closed with this generator.
    """
    state = Collapsed()
    async with aclosing(items):
        after = (await opening()).after
        if after != BEGINNING:
            async with aclosing(attempt_until(reader, request_id, after)) as entries:
                async for cursor, entry in entries:
                    state.apply_entry(cursor, entry)
            yield state
        async for item in items:
            state.apply_entry(item.cursor, item.entry)
            yield state
