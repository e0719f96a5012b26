"""The body of a response, for whoever reads it: httpx2, or at once and with limits of its own."""

import asyncio
from collections.abc import AsyncIterator, Callable

import httpx2

from tailrace.worker.upstream.transport.connection import Connection


class Body(httpx2.AsyncByteStream):
    """A body on its connection, which it gives back with the end and closes where it is left before.

    Args:
        connection: whose answer it is.
        give_back: takes the connection once it is not needed here.
        read_s: the longest wait for a piece where httpx2 reads; None has no limit.
    """

    def __init__(self, connection: Connection, give_back: Callable[[Connection], None], read_s: float | None) -> None:
        self._connection: Connection | None = connection
        self._give_back = give_back
        self._read_s = read_s

    async def read(self, until: float | None = None) -> bytes:
        """The next piece as it came, encoded where the server has encoded it; empty at the end.

        Args:
            until: the loop's time to wait for it.

        Raises:
            TimeoutError: it did not come.
            httpx2.RemoteProtocolError, httpx2.ReadError: it will not come.
        """
        if self._connection is None:
            return b""
        piece = await self._connection.read(until)
        if not piece:
            await self.aclose()
        return piece

    async def hand_on(self, take: Callable[[bytes], bool], idle_s: float) -> bool:
        """Gives the pieces to `take` as they come, until it has had enough or to the end; whether there may be more.

        Arguments and errors as those of `Connection.hand_on`.
        """
        if self._connection is None:
            return False
        more = await self._connection.hand_on(take, idle_s)
        if not more:
            await self.aclose()
        return more

    @property
    def ended(self) -> bool:
        """Whether nothing more is to be received."""
        return self._connection is None or self._connection.ended

    async def __aiter__(self) -> AsyncIterator[bytes]:
        loop = asyncio.get_running_loop()
        try:
            while piece := await self.read(None if self._read_s is None else loop.time() + self._read_s):
                yield piece
        except TimeoutError as error:
            raise httpx2.ReadTimeout("the server fell silent") from error

    async def aclose(self) -> None:
        connection, self._connection = self._connection, None
        if connection is not None:
            self._give_back(connection)
