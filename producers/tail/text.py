"""A tail reduced to the assistant's text."""

from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import aclosing

from tailrace.producers.tail.log_tail import Opening, Tailed
from tailrace.schemas.deltas import AssistantDelta, AttemptStarted, Failed, Gap
from tailrace.schemas.errors import RequestFailed, TextDiscarded
from tailrace.schemas.ids import EntryId


async def text_items(
    opening: Callable[[], Awaitable[Opening]], items: AsyncGenerator[Tailed, None]
) -> AsyncGenerator[str, None]:
    """The pieces of text, refusals included.

    Args:
        opening: returns where `items` begin; called before the first item. Text of that attempt before that cursor
            counts as given.
        items: the tail; closed with this generator.

    Raises:
        TextDiscarded: the text given so far is not part of the answer.
        RequestFailed: the request failed.
    """
    async with aclosing(items):
        last = (await opening()).after
        was_given = last.attempt > 0 and last.seq > 0
        async for cursor, entry, _ in items:
            match entry:
                case AssistantDelta() if cursor is not None:
                    at = EntryId.parse(cursor)
                    piece = entry.content or entry.refusal
                    if piece and at > last:  # after a failover a tail may repeat entries
                        was_given, last = True, at
                        yield piece
                case AttemptStarted() if cursor is not None:
                    if was_given:
                        raise TextDiscarded(
                            f"attempt {entry.attempt} has begun, and the text of the attempt before it is discarded: "
                            f"read on after the cursor {cursor}",
                            cursor,
                        )
                    last = EntryId.parse(cursor)
                case Gap():
                    raise TextDiscarded(
                        f"entries between {entry.after} and {entry.before} are lost, so the text is not complete: "
                        "read the outcome",
                        None,
                    )
                case Failed():
                    raise RequestFailed(entry.error.message, code=entry.error.code, whose=entry.error.whose)
                case _:
                    pass
