"""Turns: nobody who reads an answer keeps the event loop from the others, nor from renewing the leases.

What is buffered already is read without a pause, and a server that sends few bytes a piece, or one that back-pressure
has held for a while, fills seconds so. Knows nothing of answers.
"""

import asyncio
from collections.abc import Callable
from time import monotonic

TURN_S = 0.001
"""How long one reads before it is another's turn."""


class Turns:
    """Of all readers of a process. Those who have not had to wait during a turn go on one a round of the loop, so that
    a round is short however many they are.

    Args:
        clock: monotonic seconds.
    """

    def __init__(self, clock: Callable[[], float] = monotonic) -> None:
        self.clock = clock
        self._gate = asyncio.Lock()  # fair: who came first goes first

    async def next(self) -> None:
        """Waits for one's place in a round."""
        async with self._gate:
            await asyncio.sleep(0)


class Turn:
    """Of one reader."""

    def __init__(self, turns: Turns) -> None:
        self._turns = turns
        self._served = turns.clock()
        self._ends = self._served + TURN_S

    def has(self) -> float:
        """To be called with each piece: who had to wait for it has a whole turn again, as the others had theirs.

        Returns:
            The time.
        """
        now = self._turns.clock()
        if now - self._served > TURN_S:
            self._ends = now + TURN_S
        return now

    def lasts(self) -> bool:
        """To be called when a piece has been read: whether another one may be."""
        self._served = self._turns.clock()
        return self._served < self._ends

    def ends(self) -> None:
        """Ends it before its time: others need theirs."""
        self._ends = 0.0

    async def may_go_on(self) -> None:
        """To be called before one waits for more: returns at once within a turn, else at the beginning of the next."""
        over = self._served >= self._ends
        if over:
            await self._turns.next()
        self._served = self._turns.clock()  # to wait for others is not to wait for the server
        if over:
            self._ends = self._served + TURN_S
