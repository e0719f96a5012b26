"""Commands to a Redis and their replies, on one connection that redis-py opens: TLS, users and greetings are its own.

Once the connection is open its transport is taken over, since to read reply by reply through redis-py costs more than
all the rest of a commit. Here replies are parsed as they arrive, and whoever asked is woken once, by the last of them.
Knows no command and no time limit.
"""

import asyncio
from typing import Any

import hiredis
from redis import exceptions as redis_errors
from redis.asyncio.connection import AbstractConnection

from tailrace.broker.errors import reply_error

_NO_REPLY = object()


class Wire:
    """One connection, opened when something is asked, and again when it was lost. One may ask at a time.

    Args:
        connection: not open yet, and without redis-py's `socket_timeout`; from now on it is used and closed here.
    """

    def __init__(self, connection: AbstractConnection) -> None:
        self._connection = connection
        self._link: _Link | None = None

    async def ask(self, commands: bytes, count: int) -> list[Any]:
        """Sends commands and returns their `count` replies; a refusal is among them as an exception.

        Whoever gives up on the answer must close the connection; so must who is told that it was lost.

        Raises:
            RedisError, OSError: the connection could not be opened, or was lost, be it since the last question.
        """
        return await (self._link or await self._open()).ask(commands, count)

    def tell(self, commands: bytes, count: int) -> None:
        """Sends commands whose `count` replies nobody wants to know. Where there is no connection, nothing is told."""
        if self._link is not None:
            self._link.tell(commands, count)

    async def close(self) -> None:
        """Closes the connection; the next question opens it again."""
        self._link = None
        await self._connection.disconnect(nowait=True)

    async def _open(self) -> "_Link":
        await self._connection.connect()
        assert self._connection._writer is not None  # noqa: S101 -- it is connected
        transport = self._connection._writer.transport  # redis-py has no public way to it
        self._link = _Link(transport)
        transport.set_protocol(self._link)
        return self._link


class _Link(asyncio.Protocol):
    """An open connection. Replies come in the order of what was sent."""

    def __init__(self, transport: asyncio.WriteTransport) -> None:
        self._transport = transport
        self._parser = hiredis.Reader(replyError=reply_error, notEnoughData=_NO_REPLY)
        self._replies: list[Any] = []
        self._told = 0
        self._awaited = 0
        self._all: asyncio.Future[None] | None = None
        self._lost: redis_errors.RedisError | None = None

    async def ask(self, commands: bytes, count: int) -> list[Any]:
        if self._lost is not None:
            raise self._lost
        told, self._told = self._told, 0
        self._awaited = told + count
        self._transport.write(commands)
        if len(self._replies) < self._awaited:
            self._all = asyncio.get_running_loop().create_future()
            try:
                await self._all
            finally:
                self._all = None
        replies, self._replies = self._replies, []
        return replies[told:]

    def tell(self, commands: bytes, count: int) -> None:
        if self._lost is None:
            self._told += count
            self._transport.write(commands)

    def data_received(self, data: bytes) -> None:
        self._parser.feed(data)
        replies, parsed = self._replies, self._parser.gets
        try:
            while (reply := parsed()) is not _NO_REPLY:
                replies.append(reply)
        except hiredis.ProtocolError:
            self._lose(redis_errors.InvalidResponse("what it answers is not Redis' protocol"))
            self._transport.abort()
        if self._all is not None and len(replies) >= self._awaited and not self._all.done():
            self._all.set_result(None)

    def connection_lost(self, exc: Exception | None) -> None:
        self._lose(redis_errors.ConnectionError(f"the connection was lost ({exc or 'closed by the server'})"))

    def _lose(self, why: redis_errors.RedisError) -> None:
        self._lost = self._lost or why
        if self._all is not None and not self._all.done():
            self._all.set_exception(why)


def encoded(part: str | bytes | int) -> bytes:
    """A part of a command as bytes."""
    return part if isinstance(part, bytes) else str(part).encode()


def packed(*parts: bytes) -> bytes:
    """A command as it travels (RESP2, Redis serialization protocol). redis-py's own packing costs ten times as much."""
    return b"*%d\r\n%b" % (len(parts), b"".join([b"$%d\r\n%b\r\n" % (len(part), part) for part in parts]))
