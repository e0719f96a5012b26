"""`Tail`, which `client.tail` returns: one pass over the log of a request, in the form that the caller needs."""

from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import aclosing
from functools import partial
from types import TracebackType
from typing import Any, NamedTuple, Self, TypeVar

from tailrace.producers.answers import Submission
from tailrace.producers.tail import log_tail
from tailrace.producers.tail.collapsed import collapsed_items
from tailrace.producers.tail.collapsed_state import Collapsed
from tailrace.producers.tail.fanout.fanout import Fanout
from tailrace.producers.tail.letta import LettaItem, letta_items
from tailrace.producers.tail.log_tail import Item, Opening, Tailed, open_log, tailed
from tailrace.producers.tail.snapshot import Snapshot, snapshot
from tailrace.producers.tail.stalled import StallWatch
from tailrace.producers.tail.text import text_items
from tailrace.schemas.deltas import ReaderEvent
from tailrace.schemas.ids import BEGINNING, EntryId, check_known_form

_Item = TypeVar("_Item", bound=Item)


class TailSource(NamedTuple):
    """The parts that all tails of a client share.

    Attributes:
        fanout: reads the logs.
        requeue: enqueues a request again whose job was lost.
        away_limit_s: how long Redis may be unreachable at a stretch before a tail fails.
        stalled_after_s: how long a request may have no worker before its tail reports it.
    """

    fanout: Fanout
    requeue: Callable[[str], Awaitable[None]]
    away_limit_s: float
    stalled_after_s: float


class Tail:
    """One pass over the log of a request: the entries after a cursor, then new ones, up to the terminal.

    Iterate over it (`async for tailed in client.tail(id)`), or over one of its forms: `text()`, `collapsed()`,
    `letta()`, `with_snapshot()`. It is read once, in one form. Lost connections are restored; nothing is lost or
    duplicated.

    As an async context manager it checks id and cursor when entered, and frees its resources when left. Use it so
    wherever the iteration may end early: `async with client.tail(id) as tail`.

    Attributes:
        request_id: the request.

    Raises, when entered or else with the first item:
        UnknownRequest: no request has this id, or its lifetime is over.
        CursorInvalid: the cursor is malformed or not one of this log.
        StoreUnavailable: Redis was unreachable at the start, or for longer than `away_limit_s` later.
    """

    def __init__(self, source: TailSource, request_id: str, after: str | None = None) -> None:
        self.request_id = request_id
        self._source = source
        self._after = after
        self._opening: Opening | None = None
        self._items: AsyncGenerator[Any, None] | None = None
        self._entries: AsyncGenerator[Tailed, None] | None = None

    @property
    def is_finished(self) -> bool:
        """Whether the request has ended and there is nothing after the cursor. Known once the tail is entered."""
        if self._opening is None:
            raise RuntimeError("enter the tail first: async with client.tail(...) as tail")
        return self._opening.is_finished

    async def __aenter__(self) -> Self:
        await self._open()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await self.aclose()

    async def aclose(self) -> None:
        """Ends the tail and frees its resources."""
        if self._items is not None:
            await self._items.aclose()

    def __aiter__(self) -> AsyncGenerator[Tailed, None]:
        """The generator itself, so that a `Tail` costs nothing per entry."""
        if self._entries is None:
            self._entries = self._begin(tailed)
        return self._entries

    async def __anext__(self) -> Tailed:
        return await anext(aiter(self))

    def text(self) -> AsyncGenerator[str, None]:
        """Only the assistant's text, piece by piece; a refusal counts as text.

        Ends without an error when the request is completed, incomplete or cancelled; the outcome tells which.

        Raises:
            TextDiscarded: the text given so far is not part of the answer, because another attempt has begun or
                entries are lost. The text restarts after its `cursor`. An attempt that gave no text yet is replaced
                without an error.
            RequestFailed: the request failed.
        """
        return text_items(self._open, self._begin(tailed))

    def collapsed(self) -> AsyncGenerator[Collapsed, None]:
        """After each item, the state of the current attempt so far, for user interfaces.

        Yields one object that changes. A resumed tail begins with the state at its cursor.
        """
        return collapsed_items(self._source.fanout, self.request_id, self._open, self._begin(tailed))

    def letta(self) -> AsyncGenerator[LettaItem, None]:
        """The items, each delta with its Letta message, the same wherever the tail was resumed."""
        return letta_items(self._source.fanout, self.request_id, self._open, self._begin(tailed))

    async def with_snapshot(self) -> AsyncGenerator[Snapshot | Tailed, None]:
        """First one `Snapshot` of everything so far, then the entries after it. With a cursor, only the entries."""
        if self._after is None:
            await self._prepare()
            state = await snapshot(self._source.fanout, self.request_id)
            self._after, self._opening = state.cursor, None
            yield state
        async with aclosing(self._begin(tailed)) as items:
            async for item in items:
                yield item

    def in_form(self, form: Callable[[str | None, bytes, ReaderEvent | None], _Item]) -> AsyncGenerator[_Item, None]:
        """The items in a form of the caller's own: for the gateway, which passes entries on without decoding them.

        Args:
            form: as in `log_tail.tail`.
        """
        return self._begin(form)

    async def _prepare(self) -> None:
        """Does what is needed before the log is read."""
        check_known_form(self.request_id)

    async def _open(self) -> Opening:
        if self._opening is None:
            await self._prepare()
            after = BEGINNING if self._after is None else EntryId.parse(self._after)
            self._opening = await open_log(self._source.fanout, self.request_id, after)
        return self._opening

    def _begin(self, form: Callable[[str | None, bytes, ReaderEvent | None], _Item]) -> AsyncGenerator[_Item, None]:
        if self._items is not None:
            raise RuntimeError("a tail is read once, in one form: call client.tail again")
        fanout = self._source.fanout
        watch = StallWatch(
            partial(fanout.signs, self.request_id),
            partial(self._source.requeue, self.request_id),
            after_s=self._source.stalled_after_s,
        )
        place, limit_s = fanout.place(self.request_id), self._source.away_limit_s
        items = log_tail.tail(place, self.request_id, self._open, form, away_limit_s=limit_s, watch=watch)
        self._items = items
        return items


class Stream(Tail):
    """The tail of a request that is submitted when it is entered, or else before its first item.

    Attributes:
        request_id: the id that the request has or gets.
        submission: what the submit returned; None before.

    Raises, when entered or else with the first item: as `Client.submit` and `Tail`.
    """

    def __init__(self, source: TailSource, request_id: str, submit: Callable[[], Awaitable[Submission]]) -> None:
        super().__init__(source, request_id)
        self._submit = submit
        self.submission: Submission | None = None

    async def _prepare(self) -> None:
        if self.submission is None:
            self.submission = await self._submit()
