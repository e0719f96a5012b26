"""How the queue waits for a change in this event loop. Knows nothing of jobs or Redis."""

import asyncio
from collections.abc import Callable
from contextlib import suppress


class Change:
    """Wakes tasks that wait for a condition when it may have become true."""

    def __init__(self) -> None:
        self._event = asyncio.Event()

    def tell(self) -> None:
        """Makes every waiting task check its condition again, because something has changed."""
        self._event.set()

    async def until(self, met: Callable[[], bool], limit_s: float | None = None) -> None:
        """Returns when `met` is true, or after `limit_s` seconds."""
        with suppress(TimeoutError):
            async with asyncio.timeout(limit_s):
                while not met():
                    self._event.clear()
                    await self._event.wait()
