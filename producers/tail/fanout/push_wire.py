"""The connection on which pushes arrive: all messages of one read are passed on together.

Knows nothing of channels or of what a message contains.
"""

import asyncio
from collections.abc import Callable, Sequence
from typing import Any, Self

from redis import exceptions as redis_errors
from redis.asyncio.connection import AbstractConnection

from tailrace.broker.errors import reply_error
from tailrace.broker.wire import Wire

LARGE_READ_BYTES = 64 * 1024
"""A reader that gets this much in one read is behind: some 10 ms at 100,000 small deltas a second."""

HOLD_BYTES = 4 * 1024 * 1024
HOLD_S = 0.02
"""How much is held, and how long, for a reader that is behind: more per wake-up, so that it catches up."""


class PushWire(Wire):
    """An open connection; `open` makes one.

    Args:
        received: called with the messages of Redis, in order.

    Attributes:
        lost: done with the reason as soon as the connection can no longer be used: lost, or Redis refused something.
    """

    def __init__(self, received: Callable[[Sequence[Any]], None]) -> None:
        super().__init__(self._refused)
        self._received = received
        self._loop = asyncio.get_running_loop()
        self._held_bytes = 0
        self._holding: asyncio.TimerHandle | None = None
        self.lost: asyncio.Future[Exception] = self._loop.create_future()

    @classmethod
    async def open(cls, connection: AbstractConnection, received: Callable[[Sequence[Any]], None]) -> Self:
        """Opens a connection, and reads from it from now on. The caller closes it.

        Args:
            connection: not open yet.
            received: called with the messages of Redis, in order.

        Raises:
            RedisError, OSError: it could not be opened.
        """
        return await cls(received).attach(connection)

    def send(self, commands: bytes) -> None:
        """Sends commands, whose replies go to `received`. On a lost connection nothing is sent."""
        if not self.lost.done():
            self.write(commands)

    def take(self, size: int) -> None:
        """Passes on what has arrived, or holds it for a while."""
        self._held_bytes += size
        if size < LARGE_READ_BYTES or self._held_bytes >= HOLD_BYTES:
            self._pass_on()
        elif self._holding is None:
            self._holding = self._loop.call_later(HOLD_S, self._pass_on)

    def lose(self, why: redis_errors.RedisError) -> None:
        """Sets `lost`. After a lost connection nothing that was held is passed on."""
        if isinstance(why, redis_errors.ConnectionError):
            self._drop()
        if not self.lost.done():
            self.lost.set_result(why)

    def _pass_on(self) -> None:
        replies = self.replies
        self._drop()
        if replies:
            self._received(replies)

    def _drop(self) -> None:
        self.replies, self._held_bytes = [], 0
        if self._holding is not None:
            self._holding.cancel()
            self._holding = None

    def _refused(self, said: str) -> Exception:
        error = reply_error(said)
        if not self.lost.done():
            self.lost.set_result(error)
        return error
