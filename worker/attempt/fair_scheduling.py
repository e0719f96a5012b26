"""Fair scheduling: the attempts that read answers share the event loop, with each other and with lease renewal.

Buffered bytes are read without a pause. If a server sends few bytes at a time, or back-pressure has paused it for a
while, such reading can last seconds, so each reader gets a time slice. Knows nothing of answers.
"""

import asyncio
from collections.abc import Callable
from time import monotonic

SLICE_S = 0.001
"""How long one reader may read before the others get the event loop."""


class FairScheduler:
    """Lets readers continue one at a time, one in each round of the event loop, so that a round stays short.

    Args:
        clock: monotonic seconds.
    """

    def __init__(self, clock: Callable[[], float] = monotonic) -> None:
        self.clock = clock
        self._gate = asyncio.Lock()  # fair: first come, first served

    async def next_round(self) -> None:
        """Waits for a round of the event loop in which no other reader continues."""
        async with self._gate:
            await asyncio.sleep(0)


class TimeSlice:
    """The time slice of one reader, which begins at once."""

    def __init__(self, scheduler: FairScheduler) -> None:
        self._scheduler = scheduler
        self._served = scheduler.clock()
        self._ends = self._served + SLICE_S

    def piece_arrived(self) -> float:
        """Call this with each piece. A reader that had to wait for it gets a new slice: the others had the loop.

        Returns:
            The time by the scheduler's clock.
        """
        now = self._scheduler.clock()
        if now - self._served > SLICE_S:
            self._ends = now + SLICE_S
        return now

    def piece_read(self) -> bool:
        """Call this after a piece was read.

        Returns:
            Whether the slice is not over, so that the next piece may be read at once.
        """
        self._served = self._scheduler.clock()
        return self._served < self._ends

    def end_early(self) -> None:
        """Ends the slice before its time."""
        self._ends = 0.0

    async def wait_if_over(self) -> None:
        """Call this before waiting for more: returns at once while the slice lasts, else when a new one begins."""
        is_over = self._served >= self._ends
        if is_over:
            await self._scheduler.next_round()
        self._served = self._scheduler.clock()  # waiting for other readers is not waiting for the server
        if is_over:
            self._ends = self._served + SLICE_S
