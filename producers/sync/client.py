"""`SyncClient`: the methods of `Client`, blocking, from any thread."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any, Self, TypeVar

from tailrace.producers.client import Client
from tailrace.producers.options import LISTED_MAX, RUNS_MAX, ClientOptions
from tailrace.producers.sync.loop_thread import LoopThread, loop_of_this_process

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Mapping
    from types import TracebackType

    from tailrace.producers.answers import CancelResult, Status, Submission
    from tailrace.producers.queue.dead_letters import DeadLetter, DeadLetterContent
    from tailrace.producers.queue.overview import Overview
    from tailrace.producers.sync.tail import SyncStream, SyncTail
    from tailrace.producers.tail.fanout.fanout import Following
    from tailrace.producers.tail.snapshot import Snapshot
    from tailrace.schemas.outcome import Outcome
    from tailrace.schemas.request import GenerationRequest
    from tailrace.schemas.results import Stored
    from tailrace.schemas.settings import Settings

_Answer = TypeVar("_Answer")


class SyncClient:
    """`Client`, blocking. Threads may share it, and it may be made before a fork.

    `with SyncClient(url) as client` connects at once. A client that is not entered connects when it is first used; end
    it with `close`.

    Args:
        url: as for `Client`.
        options: as for `Client`.
    """

    def __init__(self, url: str, options: ClientOptions | None = None) -> None:
        self._url = url
        self._options = options or ClientOptions()

    @classmethod
    def from_settings(cls, settings: Settings) -> Self:
        """As `Client.from_settings`."""
        return cls(settings.log_url, ClientOptions.from_settings(settings))

    def __enter__(self) -> Self:
        try:
            self.ping()
        except BaseException:
            self.close()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Closes this process's connections; running tails fail. A later call connects again."""
        loop = loop_of_this_process()

        async def close() -> None:
            client: Client | None = loop.owned.pop(self, None)
            if client is not None:
                await client.aclose()

        loop.call(close())

    def submit(self, request: GenerationRequest | Mapping[str, Any] | None = None, /, **parameters: Any) -> Submission:
        """As `Client.submit`."""
        return self._ask(lambda client: client.submit(request, **parameters))

    def stream(self, request: GenerationRequest | Mapping[str, Any] | None = None, /, **parameters: Any) -> SyncStream:
        """As `Client.stream`."""
        from tailrace.producers.sync.tail import SyncStream

        return SyncStream(*self._make(lambda client: client.stream(request, **parameters)))

    def tail(self, request_id: str, after: str | None = None) -> SyncTail:
        """As `Client.tail`."""
        from tailrace.producers.sync.tail import SyncTail

        return SyncTail(*self._make(lambda client: client.tail(request_id, after)))

    def result(self, request_id: str, wait_s: float | None = 0.0) -> Outcome | None:
        """As `Client.result`."""
        return self._ask(lambda client: client.result(request_id, wait_s))

    def stored(self, request_id: str) -> Stored:
        """As `Client.stored`."""
        return self._ask(lambda client: client.stored(request_id))

    def snapshot(self, request_id: str, *, merged: bool = False) -> Snapshot:
        """As `Client.snapshot`."""
        return self._ask(lambda client: client.snapshot(request_id, merged=merged))

    def cancel(self, request_id: str) -> CancelResult:
        """As `Client.cancel`."""
        return self._ask(lambda client: client.cancel(request_id))

    def status(self, request_id: str) -> Status:
        """As `Client.status`."""
        return self._ask(lambda client: client.status(request_id))

    def tail_token(self, request_id: str, *, may_cancel: bool = False, lifetime_s: float = 3600.0) -> str:
        """As `Client.tail_token`."""
        return self._ask(lambda client: client.tail_token(request_id, may_cancel=may_cancel, lifetime_s=lifetime_s))

    @property
    def dead(self) -> SyncDeadLetters:
        """As `Client.dead`."""
        return SyncDeadLetters(self._ask)

    def overview(self, *, runs_max: int = RUNS_MAX) -> Overview:
        """As `Client.overview`."""
        return self._ask(lambda client: client.overview(runs_max=runs_max))

    @property
    def following(self) -> Following:
        """As `Client.following`, in this process."""
        return self._make(lambda client: client.following)[1]

    def ping(self) -> None:
        """As `Client.ping`."""
        self._ask(lambda client: client.ping())

    def _ask(self, ask: Callable[[Client], Awaitable[_Answer]]) -> _Answer:
        """What a coroutine method of the client returns."""
        loop = _loop()

        async def run() -> _Answer:
            return await ask(self._client(loop))

        return loop.call(run())

    def _make(self, make: Callable[[Client], _Answer]) -> tuple[LoopThread, _Answer]:
        """What a plain method of the client returns, called in the loop, and the loop."""
        loop = _loop()

        async def run() -> _Answer:
            return make(self._client(loop))

        return loop, loop.call(run())

    def _client(self, loop: LoopThread) -> Client:
        """This process's client; called in its loop."""
        client = loop.owned.get(self)
        if client is None:
            client = loop.owned[self] = Client(self._url, self._options)
        return client


def _loop() -> LoopThread:
    """The loop of this process. Imports what a client needs first: in the loop, imports would delay other clients."""
    import_module("tailrace.producers.parts")
    return loop_of_this_process()


class SyncDeadLetters:
    """`DeadLetters`, blocking: `SyncClient.dead`."""

    def __init__(self, ask: Callable[[Callable[[Client], Awaitable[Any]]], Any]) -> None:
        self._ask = ask

    def list(self, limit: int = LISTED_MAX) -> list[DeadLetter]:
        """As `DeadLetters.list`."""
        return self._ask(lambda client: client.dead.list(limit))

    def show(self, job_id: str) -> tuple[DeadLetter, DeadLetterContent]:
        """As `DeadLetters.show`."""
        return self._ask(lambda client: client.dead.show(job_id))

    def retry(self, job_id: str) -> Submission:
        """As `DeadLetters.retry`."""
        return self._ask(lambda client: client.dead.retry(job_id))

    def drop(self, job_id: str) -> None:
        """As `DeadLetters.drop`."""
        self._ask(lambda client: client.dead.drop(job_id))
