"""Connections to Redis whose bytes are read here: opened by redis-py (TLS, users, handshake), then taken over from it.

redis-py reads and packs reply by reply, which costs more than all the rest of a commit or of a push. Here replies are
parsed as they arrive, and a caller that waits for several is woken once. Knows no commands and no time limits.
"""

import asyncio
from collections.abc import Callable
from typing import Any, Self

import hiredis
from redis import exceptions as redis_errors
from redis.asyncio.connection import AbstractConnection

from tailrace.broker.errors import reply_error

_NO_REPLY = object()


class Wire(asyncio.Protocol):
    """An open connection. A subclass defines what happens with replies (`take`) and when it is lost (`lose`).

    Args:
        error_of: turns an error reply into an exception, which takes the reply's place.

    Attributes:
        replies: those that have arrived and were not taken yet.
    """

    def __init__(self, error_of: Callable[[str], Exception] = reply_error) -> None:
        self.replies: list[Any] = []
        self._parser = hiredis.Reader(replyError=error_of, notEnoughData=_NO_REPLY)
        self._transport: asyncio.WriteTransport | None = None

    async def attach(self, connection: AbstractConnection) -> Self:
        """Opens a connection and takes it over. The caller closes it.

        Args:
            connection: not open yet.

        Raises:
            RedisError, OSError: it could not be opened.
        """
        await connection.connect()
        assert connection._writer is not None  # noqa: S101 -- it is connected
        transport = self._transport = connection._writer.transport  # redis-py has no public way to it
        transport.set_protocol(self)
        if transport.is_closing():  # it was lost before it was taken over, so `connection_lost` is never called
            raise redis_errors.ConnectionError("the connection was lost as soon as it was open")
        return self

    def write(self, commands: bytes) -> bool:
        """Sends commands. False if the connection is closing: uvloop would raise."""
        if self._transport is None or self._transport.is_closing():
            return False
        self._transport.write(commands)
        return True

    def take(self, size: int) -> None:
        """Called when bytes have arrived; the replies that they complete are in `replies`.

        Args:
            size: how many bytes.
        """
        raise NotImplementedError

    def lose(self, why: redis_errors.RedisError) -> None:
        """Called when the connection can no longer be used, possibly more than once."""
        raise NotImplementedError

    def data_received(self, data: bytes) -> None:
        """Called by the event loop."""
        self._parser.feed(data)
        parsed, replies = self._parser.gets, self.replies
        try:
            while (reply := parsed()) is not _NO_REPLY:
                replies.append(reply)
        except hiredis.ProtocolError:
            self.lose(redis_errors.InvalidResponse("its reply is not in Redis' protocol"))
            if self._transport is not None:
                self._transport.abort()
        self.take(len(data))

    def connection_lost(self, exc: Exception | None) -> None:
        """Called by the event loop."""
        self.lose(redis_errors.ConnectionError(f"the connection was lost ({exc or 'closed by the server'})"))


class CommandConnection:
    """Sends commands and returns their replies, several in one round trip. One caller may wait at a time.

    It is opened when it is first used, and again after it was closed.

    Args:
        connection: not open yet, and without redis-py's `socket_timeout`; it is used and closed here.
    """

    def __init__(self, connection: AbstractConnection) -> None:
        self._connection = connection
        self._wire: _ReplyWire | None = None

    async def ask(self, commands: bytes, count: int) -> list[Any]:
        """Sends commands and returns their `count` replies. An error reply is among them as an exception.

        A caller that does not wait for the end must close the connection, and so must one that gets an exception.

        Raises:
            RedisError, OSError: the connection could not be opened, or was lost, possibly since the last call.
        """
        if self._wire is None:
            self._wire = await _ReplyWire().attach(self._connection)
        return await self._wire.ask(commands, count)

    def send(self, commands: bytes, count: int) -> None:
        """Sends commands whose `count` replies are discarded. Without an open connection nothing is sent."""
        if self._wire is not None:
            self._wire.send(commands, count)

    async def close(self) -> None:
        """Closes the connection."""
        self._wire = None
        await self._connection.disconnect(nowait=True)


class _ReplyWire(Wire):
    """Replies arrive in the order of the commands."""

    def __init__(self) -> None:
        super().__init__()
        self._discarded = 0
        self._awaited = 0
        self._complete: asyncio.Future[None] | None = None
        self._lost: redis_errors.RedisError | None = None

    async def ask(self, commands: bytes, count: int) -> list[Any]:
        if self._lost is None and not self.write(commands):
            self.lose(redis_errors.ConnectionError("the connection is closing"))
        if self._lost is not None:
            raise self._lost
        discarded, self._discarded = self._discarded, 0
        self._awaited = discarded + count
        if len(self.replies) < self._awaited:
            self._complete = asyncio.get_running_loop().create_future()
            try:
                await self._complete
            finally:
                self._complete = None
        replies, self.replies = self.replies, []
        return replies[discarded:]

    def send(self, commands: bytes, count: int) -> None:
        if self._lost is None and self.write(commands):
            self._discarded += count

    def take(self, size: int) -> None:
        if self._complete is not None and len(self.replies) >= self._awaited and not self._complete.done():
            self._complete.set_result(None)

    def lose(self, why: redis_errors.RedisError) -> None:
        self._lost = self._lost or why
        if self._complete is not None and not self._complete.done():
            self._complete.set_exception(why)


def encoded(part: str | bytes | int) -> bytes:
    """A part of a command as bytes."""
    return part if isinstance(part, bytes) else str(part).encode()


def packed(*parts: bytes) -> bytes:
    """A command as it is sent (RESP2, Redis serialization protocol). redis-py's own packing costs ten times as much."""
    return b"*%d\r\n%b" % (len(parts), b"".join([b"$%d\r\n%b\r\n" % (len(part), part) for part in parts]))
