"""The client for web tiers without an event loop (Django, Flask): the same verbs, blocking, from any thread.

One background thread a process runs the event loop of all `SyncClient`s. After a fork the child makes its own, so that
a client made before (gunicorn's preload, Celery) can be used on both sides. Not for gevent, whose threads are none.
"""

import asyncio
import atexit
import os
import threading
from collections.abc import AsyncGenerator, Awaitable, Callable, Coroutine, Generator, Mapping
from types import TracebackType
from typing import Any, Literal, Self, TypeVar, overload

from tailrace.producers.answers import CancelVerdict, Status, Submitted
from tailrace.producers.client import DEFAULT_AWAY_LIMIT_S, DEFAULT_TIMEOUT_S, Client
from tailrace.producers.queue.dead_letters import LISTED_MAX, DeadLetter, DeadLetterContent
from tailrace.producers.tail.assembled import Assembled
from tailrace.producers.tail.letta import LettaItem
from tailrace.producers.tail.log_tail import Tailed
from tailrace.producers.tail.snapshot import Snapshot
from tailrace.schemas.outcome import Outcome
from tailrace.schemas.request import GenerationRequest
from tailrace.schemas.settings import DEFAULT_RETENTION_S, DEFAULT_RUN_LIMIT_S, Settings

_Answer = TypeVar("_Answer")
_Item = TypeVar("_Item")

_STOP_S = 2.0  # how long the end of the process waits for the thread


class SyncClient:
    """`Client`, blocking. Connects when first used; `connect` does so at once. Safe to share between threads.

    Args:
        url: `redis://`, `rediss://` or `unix://`.
        timeout_s: for connecting and for each answer of Redis.
        run_limit_s: the longest a request may take from submit to its end, where it says nothing itself.
        retention_s: how long log and record stay after the end.
        away_limit_s: how long Redis may be away in one piece before a running tail gives up.
        results_url: of the database of outcomes, asked for what Redis has forgotten; empty for none.
    """

    def __init__(
        self,
        url: str,
        *,
        queue_url: str | None = None,
        timeout_s: float = DEFAULT_TIMEOUT_S,
        run_limit_s: float = DEFAULT_RUN_LIMIT_S,
        retention_s: float = DEFAULT_RETENTION_S,
        away_limit_s: float = DEFAULT_AWAY_LIMIT_S,
        results_url: str = "",
    ) -> None:
        self._url = url
        self._queue_url = queue_url
        self._timeout_s = timeout_s
        self._run_limit_s = run_limit_s
        self._retention_s = retention_s
        self._away_limit_s = away_limit_s
        self._results_url = results_url

    @classmethod
    def connect(
        cls,
        url: str,
        *,
        queue_url: str | None = None,
        timeout_s: float = DEFAULT_TIMEOUT_S,
        run_limit_s: float = DEFAULT_RUN_LIMIT_S,
        retention_s: float = DEFAULT_RETENTION_S,
        away_limit_s: float = DEFAULT_AWAY_LIMIT_S,
        results_url: str = "",
    ) -> Self:
        """A client whose Redis answered just now. Arguments as of the class, errors as of `Client.connect`."""
        client = cls(
            url,
            queue_url=queue_url,
            timeout_s=timeout_s,
            run_limit_s=run_limit_s,
            retention_s=retention_s,
            away_limit_s=away_limit_s,
            results_url=results_url,
        )
        here = _loop_of_this_process()
        here.call(client._client(here))
        return client

    @classmethod
    def from_settings(cls, settings: Settings) -> Self:
        """As `connect`, with what the environment's `TAILRACE_*` say."""
        return cls.connect(
            settings.log_url,
            queue_url=settings.queue_url,
            run_limit_s=settings.run_limit_s,
            retention_s=settings.retention_s,
            results_url=settings.results_url.get_secret_value(),
        )

    def close(self) -> None:
        """Closes this process's connections; a later call connects again."""
        here = _loop_of_this_process()
        here.call(self._close(here))

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def submit(self, request: GenerationRequest | Mapping[str, Any] | None = None, /, **parameters: Any) -> Submitted:
        """As `Client.submit`."""
        return self._ask(lambda client: client.submit(request, **parameters))

    @overload
    def tail(
        self, request_id: str, after: str | None = None, *, snapshot: Literal[False] = False
    ) -> Generator[Tailed, None, None]: ...

    @overload
    def tail(
        self, request_id: str, after: str | None = None, *, snapshot: bool
    ) -> Generator[Snapshot | Tailed, None, None]: ...

    def tail(self, request_id: str, after: str | None = None, *, snapshot: bool = False) -> Generator[Any, None, None]:
        """As `Client.tail`; what is wrong with id or cursor is raised here, not at the first item.

        `close` the generator (or let it go) to leave before the end.
        """
        if snapshot and after is None:
            return self._from_snapshot(request_id)
        return self._each(lambda client: client.open_tail(request_id, after))

    def _from_snapshot(self, request_id: str) -> Generator[Snapshot | Tailed, None, None]:
        state = self._ask(lambda client: client.snapshot(request_id))
        items = self._each(lambda client: client.open_tail(request_id, state.cursor))

        def begin() -> Generator[Snapshot | Tailed, None, None]:
            yield state
            yield from items

        return begin()

    def collapsed(self, request_id: str, after: str | None = None) -> Generator[Assembled, None, None]:
        """As `Client.collapsed`, and as `tail` here."""
        return self._each(lambda client: client.open_collapsed(request_id, after))

    def letta(self, request_id: str, after: str | None = None) -> Generator[LettaItem, None, None]:
        """As `Client.letta`, and as `tail` here."""
        return self._each(lambda client: client.open_letta(request_id, after))

    def result(self, request_id: str, wait_s: float | None = 0.0) -> Outcome | None:
        """As `Client.result`."""
        return self._ask(lambda client: client.result(request_id, wait_s=wait_s))

    def cancel(self, request_id: str) -> CancelVerdict:
        """As `Client.cancel`."""
        return self._ask(lambda client: client.cancel(request_id))

    def status(self, request_id: str) -> Status:
        """As `Client.status`."""
        return self._ask(lambda client: client.status(request_id))

    @property
    def dead(self) -> "SyncDeadLetters":
        """The dead-letter list, as `Client.dead`."""
        return SyncDeadLetters(self._ask)

    def _ask(self, verb: Callable[[Client], Awaitable[_Answer]]) -> _Answer:
        here = _loop_of_this_process()

        async def ask() -> _Answer:
            return await verb(await self._client(here))

        return here.call(ask())

    def _each(self, verb: Callable[[Client], Awaitable[AsyncGenerator[_Item, None]]]) -> Generator[_Item, None, None]:
        return _iterate(_loop_of_this_process(), self._ask(verb))

    async def _client(self, here: "_LoopThread") -> Client:
        """This process's client, in its loop."""
        if self not in here.clients:
            client = await Client.connect(
                self._url,
                queue_url=self._queue_url,
                timeout_s=self._timeout_s,
                run_limit_s=self._run_limit_s,
                retention_s=self._retention_s,
                away_limit_s=self._away_limit_s,
                results_url=self._results_url,
            )
            if here.clients.setdefault(self, client) is not client:
                await client.close()  # another thread was faster
        return here.clients[self]

    async def _close(self, here: "_LoopThread") -> None:
        client = here.clients.pop(self, None)
        if client is not None:
            await client.close()


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

    def retry(self, job_id: str) -> Submitted:
        """As `DeadLetters.retry`."""
        return self._ask(lambda client: client.dead.retry(job_id))

    def drop(self, job_id: str) -> None:
        """As `DeadLetters.drop`."""
        self._ask(lambda client: client.dead.drop(job_id))


def _iterate(here: "_LoopThread", items: AsyncGenerator[_Item, None]) -> Generator[_Item, None, None]:
    stepping: asyncio.Task[Any] | None = None

    async def step() -> _Item | None:
        nonlocal stepping
        stepping = asyncio.current_task()
        return await anext(items, None)

    async def leave() -> None:
        if stepping is not None and not stepping.done():  # the thread that waited for it was interrupted
            stepping.cancel()
            await asyncio.wait([stepping])
        await items.aclose()

    try:
        while (item := here.call(step())) is not None:
            yield item
    finally:
        if here.is_ours():
            here.call(leave())


class _LoopThread:
    """An event loop in a thread of its own, and the clients that live in it."""

    def __init__(self) -> None:
        self.clients: dict[SyncClient, Client] = {}
        self._pid = os.getpid()
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="tailrace", daemon=True)
        self._thread.start()

    def is_ours(self) -> bool:
        """Whether this is the process that made it: a thread does not come along in a fork."""
        return self._pid == os.getpid()

    def call(self, coroutine: Coroutine[Any, Any, _Answer]) -> _Answer:
        """Runs a coroutine in the loop and waits for it. An interrupt of the waiting thread cancels it."""
        if not self.is_ours():
            coroutine.close()
            raise RuntimeError("a tail does not survive a fork: begin it again in the child, after its last cursor")
        future = asyncio.run_coroutine_threadsafe(coroutine, self._loop)
        try:
            return future.result()
        except BaseException:  # also KeyboardInterrupt: nothing may go on in the loop that nobody waits for
            future.cancel()
            raise

    def stop(self) -> None:
        """Ends the thread, and what still runs in it."""
        asyncio.run_coroutine_threadsafe(_end_all(), self._loop)
        self._thread.join(_STOP_S)


async def _end_all() -> None:
    """Cancels every other task of the loop, then stops it: a task that is left is complained of at the very end."""
    tasks = asyncio.all_tasks() - {asyncio.current_task()}
    for task in tasks:
        task.cancel()
    if tasks:
        await asyncio.wait(tasks, timeout=_STOP_S / 2)
    asyncio.get_running_loop().stop()


_lock = threading.Lock()
_here: _LoopThread | None = None
_left_to_parents: list[_LoopThread] = []


def _loop_of_this_process() -> _LoopThread:
    global _here
    with _lock:
        if _here is None:
            _here = _LoopThread()
            atexit.register(_here.stop)
        return _here


def _after_fork_in_child() -> None:
    """Forgets the parent's loop, but keeps it from being collected: its sockets and its epoll are the parent's too."""
    global _here, _lock
    _lock = threading.Lock()  # another thread of the parent may have held it
    if _here is not None:
        atexit.unregister(_here.stop)
        _left_to_parents.append(_here)
        _here = None


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork_in_child)
