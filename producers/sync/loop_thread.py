"""The event loop in which all `SyncClient`s of a process run: one background thread per process.

After a fork the child makes its own, so that a client made before the fork (gunicorn's preload, Celery) works on both
sides. It does not work under gevent, which replaces threads. Knows nothing of what runs in the loop.
"""

import asyncio
import atexit
import os
import threading
from collections.abc import AsyncGenerator, Coroutine, Generator
from typing import Any, TypeVar

_Answer = TypeVar("_Answer")
_Item = TypeVar("_Item")

_STOP_S = 2.0  # how long the end of the process waits for the thread


class LoopThread:
    """An event loop in a thread of its own.

    Attributes:
        owned: objects that live in this loop, by their owner; used only in the loop.
    """

    def __init__(self) -> None:
        self.owned: dict[Any, Any] = {}
        self._pid = os.getpid()
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="tailrace", daemon=True)
        self._thread.start()

    def is_of_this_process(self) -> bool:
        """Whether this process made it: threads do not survive a fork."""
        return self._pid == os.getpid()

    def call(self, coroutine: Coroutine[Any, Any, _Answer]) -> _Answer:
        """Runs a coroutine in the loop and waits for it. An interrupt of the waiting thread cancels it."""
        if not self.is_of_this_process():
            coroutine.close()
            raise RuntimeError("a tail does not survive a fork: begin it again in the child, after its last cursor")
        future = asyncio.run_coroutine_threadsafe(coroutine, self._loop)
        try:
            return future.result()
        except BaseException:  # including KeyboardInterrupt: nothing may run on in the loop without a caller
            future.cancel()
            raise

    def iterate(self, items: AsyncGenerator[_Item, None]) -> Generator[_Item, None, None]:
        """The items of an async generator that lives in the loop. Closing this generator closes that one."""
        stepping: asyncio.Task[Any] | None = None

        async def step() -> _Item | None:
            nonlocal stepping
            stepping = asyncio.current_task()
            return await anext(items, None)

        async def leave() -> None:
            if stepping is not None and not stepping.done():  # the waiting thread was interrupted
                stepping.cancel()
                await asyncio.wait([stepping])
            await items.aclose()

        try:
            while (item := self.call(step())) is not None:
                yield item
        finally:
            if self.is_of_this_process():
                self.call(leave())

    def stop(self) -> None:
        """Ends the thread and what still runs in it."""
        asyncio.run_coroutine_threadsafe(_cancel_all_tasks(), self._loop)
        self._thread.join(_STOP_S)


async def _cancel_all_tasks() -> None:
    """Cancels every other task of the loop, then stops it: Python warns about tasks that are left at the very end."""
    tasks = asyncio.all_tasks() - {asyncio.current_task()}
    for task in tasks:
        task.cancel()
    if tasks:
        await asyncio.wait(tasks, timeout=_STOP_S / 2)
    asyncio.get_running_loop().stop()


_lock = threading.Lock()
_current: LoopThread | None = None
_left_to_parents: list[LoopThread] = []


def loop_of_this_process() -> LoopThread:
    """The loop thread of this process; started by the first call."""
    global _current
    with _lock:
        if _current is None:
            _current = LoopThread()
            atexit.register(_current.stop)
        return _current


def _after_fork_in_child() -> None:
    """Forgets the parent's loop but keeps it from being collected: the parent still uses its sockets and its epoll."""
    global _current, _lock
    _lock = threading.Lock()  # another thread of the parent may have held it
    if _current is not None:
        atexit.unregister(_current.stop)
        _left_to_parents.append(_current)
        _current = None


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork_in_child)
