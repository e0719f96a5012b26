"""A TCP proxy that causes faults: cut connections, lost replies, halved requests, stalls. Knows no protocol."""

import asyncio
from types import TracebackType
from typing import Self
from urllib.parse import urlsplit

HOST = "127.0.0.1"


class Proxy:
    """Forwards connections to one server; `async with` runs it.

    Args:
        url: of the server, such as `redis://127.0.0.1:6379/0`.
    """

    def __init__(self, url: str) -> None:
        self.lead_to(url)
        self._server: asyncio.Server | None = None
        self._links: set[asyncio.Task[None]] = set()
        self._flowing = asyncio.Event()
        self._flowing.set()
        self._lose_reply_to: bytes | None = None
        self._halve: bytes | None = None
        self.refusing = False
        self.delay_s = 0.0  # before each piece, in each direction
        self.connections = 0

    @property
    def url(self) -> str:
        """The URL of the server through the proxy."""
        assert self._server is not None, "the proxy is not running"
        port: int = self._server.sockets[0].getsockname()[1]
        return f"{self._scheme}://{HOST}:{port}{self._path}"

    def lead_to(self, url: str) -> None:
        """Directs new connections to this server."""
        parts = urlsplit(url)
        self._scheme, self._path = parts.scheme, parts.path
        self._target = (parts.hostname or HOST, parts.port or 0)

    def cut(self) -> None:
        """Closes every connection at once."""
        for link in self._links:
            link.cancel()

    def lose_reply(self, to: bytes) -> None:
        """Delivers the next request with these bytes whole, drops its reply and cuts the connection."""
        self._lose_reply_to = to

    def halve_request(self, having: bytes) -> None:
        """Delivers only half of the next request with these bytes and cuts the connection."""
        self._halve = having

    def stall(self) -> None:
        """Holds all bytes back until `resume`; connections stay open."""
        self._flowing.clear()

    def resume(self) -> None:
        """Ends a stall."""
        self._flowing.set()

    def mend(self) -> None:
        """Ends delays, stalls and refusals, and cancels pending faults."""
        self.delay_s, self.refusing = 0.0, False
        self._lose_reply_to = self._halve = None
        self.resume()

    @property
    def fault_pending(self) -> bool:
        """Whether a requested fault has not happened yet."""
        return self._lose_reply_to is not None or self._halve is not None

    async def __aenter__(self) -> Self:
        self._server = await asyncio.start_server(self._serve, HOST, 0)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        assert self._server is not None
        self._server.close()
        self.cut()
        if self._links:
            await asyncio.wait(self._links)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if self.refusing:
            writer.close()
            return
        self.connections += 1
        link = asyncio.create_task(self._link(reader, writer))
        self._links.add(link)
        link.add_done_callback(self._links.discard)
        link.add_done_callback(lambda _: writer.transport.abort())  # also if it is cut before it has started

    async def _link(self, client: asyncio.StreamReader, to_client: asyncio.StreamWriter) -> None:
        try:
            server, to_server = await asyncio.open_connection(*self._target)
        except OSError:  # the server cannot be reached
            return
        directions = {
            asyncio.create_task(self._requests(client, to_server, to_client)),
            asyncio.create_task(self._replies(server, to_client)),
        }
        try:
            await asyncio.wait(directions, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for direction in directions:
                direction.cancel()
            to_client.transport.abort()
            to_server.close()  # before any await, which a second cut may cancel
            await asyncio.gather(*directions, return_exceptions=True)

    async def _pass(self) -> None:
        if self.delay_s:
            await asyncio.sleep(self.delay_s)
        await self._flowing.wait()

    async def _requests(
        self, source: asyncio.StreamReader, to_server: asyncio.StreamWriter, to_client: asyncio.StreamWriter
    ) -> None:
        while piece := await source.read(1 << 20):
            await self._pass()
            if self._halve is not None and self._halve in piece:
                self._halve = None
                to_server.write(piece[: len(piece) // 2])
                await to_server.drain()
                return
            if self._lose_reply_to is not None and self._lose_reply_to in piece:
                self._lose_reply_to = None
                to_client.transport.abort()
                to_server.write(piece)
                to_server.write_eof()  # the link ends once the server has replied and closed
                await asyncio.Event().wait()
            to_server.write(piece)
            await to_server.drain()

    async def _replies(self, source: asyncio.StreamReader, to_client: asyncio.StreamWriter) -> None:
        while piece := await source.read(1 << 20):
            await self._pass()
            to_client.write(piece)
