"""How the queue waits for a change in this event loop. Knows nothing of jobs and of Redis."""

import asyncio
from collections.abc import Callable
from contextlib import suppress


class Change:
    """Wakes tasks that wait for a condition when it may have become true."""

    def __init__(self) -> None:
        self._event = asyncio.Event()

    def tell(self) -> None:
        """Something has changed: every waiting task checks its condition again."""
        self._event.set()

    async def until(self, met: Callable[[], bool], limit_s: float | None = None) -> None:
        """Returns when `met` is true, or after `limit_s` seconds."""
        with suppress(TimeoutError):
            async with asyncio.timeout(limit_s):
                while not met():
                    self._event.clear()
                    await self._event.wait()
