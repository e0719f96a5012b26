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
        self._asked = self._ends = turns.clock()

    def asks(self) -> None:
        """To be called before what may have to be waited for."""
        self._asked = self._turns.clock()

    def has(self) -> None:
        """To be called after it: who had to wait has a whole turn again, since the others had theirs meanwhile."""
        now = self._turns.clock()
        if now - self._asked > TURN_S:
            self._ends = now + TURN_S

    async def may_go_on(self) -> None:
        """Returns at once within a turn, else at the beginning of the next."""
        if self._turns.clock() >= self._ends:
            await self._turns.next()
            self._ends = self._turns.clock() + TURN_S
