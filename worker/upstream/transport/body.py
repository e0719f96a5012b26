"""The body of a response. It can be read through httpx2, or directly and with other time limits."""

import asyncio
from collections.abc import AsyncIterator, Callable

import httpx2

from tailrace.worker.upstream.transport.connection import Connection


class ConnectionBody(httpx2.AsyncByteStream):
    """A body on its connection, which is given back at the end of the body, or closed if the body is left earlier.

    Args:
        connection: it carries the body.
        give_back: takes the connection back.
        read_timeout_s: the longest wait for a piece when httpx2 reads; None for no limit.
    """

    def __init__(
        self, connection: Connection, give_back: Callable[[Connection], None], read_timeout_s: float | None
    ) -> None:
        self._connection: Connection | None = connection
        self._give_back = give_back
        self._read_timeout_s = read_timeout_s

    async def read(self, until: float | None = None) -> bytes:
        """Returns the next piece as received, with the server's content encoding; empty at the end.

        Args:
            until: how long to wait, as a time of the event loop.

        Raises:
            TimeoutError: no piece arrived in time.
            httpx2.RemoteProtocolError, httpx2.ReadError: no piece will arrive.
        """
        if self._connection is None:
            return b""
        piece = await self._connection.read(until)
        if not piece:
            await self.aclose()
        return piece

    async def deliver_to(self, receive: Callable[[bytes], bool], idle_timeout_s: float) -> bool:
        """Passes pieces to `receive` as they arrive, until it returns False or the body ends.

        Arguments, result and errors as those of `Connection.deliver_to`.
        """
        if self._connection is None:
            return False
        more = await self._connection.deliver_to(receive, idle_timeout_s)
        if not more:
            await self.aclose()
        return more

    @property
    def ended(self) -> bool:
        """Whether the whole body has arrived."""
        return self._connection is None or self._connection.ended

    async def __aiter__(self) -> AsyncIterator[bytes]:
        loop = asyncio.get_running_loop()
        try:
            while piece := await self.read(
                None if self._read_timeout_s is None else loop.time() + self._read_timeout_s
            ):
                yield piece
        except TimeoutError as error:
            raise httpx2.ReadTimeout("the server stopped sending") from error

    async def aclose(self) -> None:
        connection, self._connection = self._connection, None
        if connection is not None:
            self._give_back(connection)
