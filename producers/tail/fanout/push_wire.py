"""The bytes of the connection on which pushes come: all that one read brings is told at once.

redis-py opens it: TLS, users and greetings are its own. Then its transport is taken over, since redis-py reads message
by message, and each of them costs more than all that becomes of it. Knows no channel, and nothing of what is said.
"""

import asyncio
from collections.abc import Callable, Sequence
from typing import Any, Self

import hiredis
from redis import exceptions as redis_errors
from redis.asyncio.connection import AbstractConnection

from tailrace.broker.errors import reply_error

LARGE_READ_BYTES = 64 * 1024
"""Whoever reads so much at once is behind: some 10 ms at 100,000 small deltas a second."""

HOLD_BYTES = 4 * 1024 * 1024
HOLD_S = 0.02
"""How much is held, and how long, for a reader that is behind: more for each wake-up, so that it catches up."""

_NO_REPLY = object()


class PushWire(asyncio.Protocol):
    """An open connection; `open` makes one.

    Args:
        told: is given what Redis says, in its order.

    Attributes:
        lost: why the connection is of no more use, as soon as it is not: lost, or Redis has refused something.
    """

    def __init__(self, told: Callable[[Sequence[Any]], None]) -> None:
        self._told = told
        self._loop = asyncio.get_running_loop()
        self._parser = hiredis.Reader(replyError=self._refuse, notEnoughData=_NO_REPLY)
        self._said: list[Any] = []
        self._held_bytes = 0
        self._holding: asyncio.TimerHandle | None = None
        self._transport: asyncio.WriteTransport | None = None
        self.lost: asyncio.Future[Exception] = self._loop.create_future()

    @classmethod
    async def open(cls, connection: AbstractConnection, told: Callable[[Sequence[Any]], None]) -> Self:
        """Opens a connection, and reads from it from now on. Whoever asked for it closes it.

        Args:
            connection: not open yet.
            told: is given what Redis says, in its order.

        Raises:
            RedisError, OSError: it could not be opened.
        """
        wire = cls(told)
        await connection.connect()
        assert connection._writer is not None  # noqa: S101 -- it is connected
        wire._transport = connection._writer.transport  # redis-py has no public way to it
        wire._transport.set_protocol(wire)
        if wire._transport.is_closing():  # lost while it was redis-py's: then nobody would ever say so
            raise redis_errors.ConnectionError("the connection was lost as soon as it was open")
        return wire

    def send(self, commands: bytes) -> None:
        """Sends commands; what they are answered is told. To a connection that is lost nothing is sent."""
        if self._transport is not None and not self.lost.done() and not self._transport.is_closing():
            self._transport.write(commands)  # to one that is closing uvloop would raise

    def data_received(self, data: bytes) -> None:
        """Some of what Redis says."""
        self._parser.feed(data)
        parsed, said = self._parser.gets, self._said
        try:
            while (one := parsed()) is not _NO_REPLY:
                said.append(one)
        except hiredis.ProtocolError:
            self._end(redis_errors.InvalidResponse("what it says is not Redis' protocol"))
        self._held_bytes += len(data)
        if len(data) < LARGE_READ_BYTES or self._held_bytes >= HOLD_BYTES:
            self._tell()
        elif self._holding is None:
            self._holding = self._loop.call_later(HOLD_S, self._tell)

    def connection_lost(self, exc: Exception | None) -> None:
        """Nothing comes any more; what was held is dropped, as is what was still on its way."""
        self._drop()
        self._end(redis_errors.ConnectionError(f"the connection was lost ({exc or 'closed by the server'})"))

    def _tell(self) -> None:
        said = self._said
        self._drop()
        if said:
            self._told(said)

    def _drop(self) -> None:
        self._said, self._held_bytes = [], 0
        if self._holding is not None:
            self._holding.cancel()
            self._holding = None

    def _refuse(self, said: str) -> Exception:
        error = reply_error(said)
        self._end(error)
        return error

    def _end(self, why: Exception) -> None:
        if not self.lost.done():
            self.lost.set_result(why)
