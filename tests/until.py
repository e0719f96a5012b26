"""Waits for a condition with a deadline, instead of sleeping for a guessed time."""

import asyncio
from collections.abc import Awaitable, Callable

WITHIN_S = 10.0


async def until(condition: Callable[[], bool | Awaitable[bool]], within_s: float = WITHIN_S) -> None:
    """Returns as soon as the condition is true.

    Raises:
        TimeoutError: the condition was false for `within_s` seconds.
    """
    async with asyncio.timeout(within_s):
        while True:
            answer = condition()
            if answer if isinstance(answer, bool) else await answer:
                return
            await asyncio.sleep(0.002)
