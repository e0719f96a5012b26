"""Waiting for a condition with a deadline, in place of sleeping and hoping."""

import asyncio
from collections.abc import Awaitable, Callable

WITHIN_S = 10.0


async def until(condition: Callable[[], bool | Awaitable[bool]], within_s: float = WITHIN_S) -> None:
    """Returns as soon as the condition is true.

    Raises:
        TimeoutError: it is not within so many seconds.
    """
    async with asyncio.timeout(within_s):
        while True:
            answer = condition()
            if answer if isinstance(answer, bool) else await answer:
                return
            await asyncio.sleep(0.002)
