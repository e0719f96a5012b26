"""`Tail` and `Stream` without an event loop: what `SyncClient.tail` and `SyncClient.stream` return."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Self, TypeVar

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Callable, Generator
    from types import TracebackType

    from tailrace.producers.answers import Submission
    from tailrace.producers.sync.loop_thread import LoopThread
    from tailrace.producers.tail.collapsed_state import Collapsed
    from tailrace.producers.tail.letta import LettaItem
    from tailrace.producers.tail.log_tail import Tailed
    from tailrace.producers.tail.snapshot import Snapshot
    from tailrace.producers.tail.tail import Stream, Tail

_Item = TypeVar("_Item")


class SyncTail:
    """`Tail`, blocking: iterable and a context manager. Use it in one thread at a time. It does not survive a fork.

    Args:
        loop: the loop that runs the tail.
        tail: the tail.
    """

    def __init__(self, loop: LoopThread, tail: Tail) -> None:
        self._loop = loop
        self._tail = tail
        self._entries: Generator[Tailed, None, None] | None = None
        self._begun: Generator[Any, None, None] | None = None

    @property
    def request_id(self) -> str:
        """The request."""
        return self._tail.request_id

    @property
    def is_finished(self) -> bool:
        """As `Tail.is_finished`."""
        return self._tail.is_finished

    def __enter__(self) -> Self:
        self._loop.call(self._tail.__aenter__())
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """As `Tail.aclose`."""
        if self._begun is not None:
            self._begun.close()
        if self._loop.is_of_this_process():
            self._loop.call(self._tail.aclose())

    def __iter__(self) -> Generator[Tailed, None, None]:
        if self._entries is None:
            self._entries = self._iterate(self._tail.__aiter__)
        return self._entries

    def __next__(self) -> Tailed:
        return next(iter(self))

    def text(self) -> Generator[str, None, None]:
        """As `Tail.text`."""
        return self._iterate(self._tail.text)

    def collapsed(self) -> Generator[Collapsed, None, None]:
        """As `Tail.collapsed`."""
        return self._iterate(self._tail.collapsed)

    def letta(self) -> Generator[LettaItem, None, None]:
        """As `Tail.letta`."""
        return self._iterate(self._tail.letta)

    def with_snapshot(self) -> Generator[Snapshot | Tailed, None, None]:
        """As `Tail.with_snapshot`."""
        return self._iterate(self._tail.with_snapshot)

    def _iterate(self, form: Callable[[], AsyncGenerator[_Item, None]]) -> Generator[_Item, None, None]:
        async def begin() -> AsyncGenerator[_Item, None]:
            return form()

        items = self._loop.iterate(self._loop.call(begin()))
        self._begun = items
        return items


class SyncStream(SyncTail):
    """`Stream`, blocking."""

    def __init__(self, loop: LoopThread, stream: Stream) -> None:
        super().__init__(loop, stream)
        self._stream = stream

    @property
    def submission(self) -> Submission | None:
        """As `Stream.submission`."""
        return self._stream.submission
