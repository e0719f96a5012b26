"""A TCP proxy that misbehaves on command: cuts, lost replies, halved requests, stalls. Knows no protocol."""

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
        self.delay_s = 0.0  # held back before each piece, in each direction
        self.connections = 0

    @property
    def url(self) -> str:
        """The server's URL, by way of the proxy."""
        assert self._server is not None, "the proxy does not run"
        port: int = self._server.sockets[0].getsockname()[1]
        return f"{self._scheme}://{HOST}:{port}{self._path}"

    def lead_to(self, url: str) -> None:
        """From now on new connections go to this server."""
        parts = urlsplit(url)
        self._scheme, self._path = parts.scheme, parts.path
        self._target = (parts.hostname or HOST, parts.port or 0)

    def cut(self) -> None:
        """Closes every connection at once."""
        for link in self._links:
            link.cancel()

    def lose_reply(self, to: bytes) -> None:
        """The next request with these bytes reaches the server whole; its reply is dropped, the connection cut."""
        self._lose_reply_to = to

    def halve_request(self, having: bytes) -> None:
        """Of the next request with these bytes only the first half reaches the server; the connection is cut."""
        self._halve = having

    def stall(self) -> None:
        """Nothing passes until `resume`; connections stay."""
        self._flowing.clear()

    def resume(self) -> None:
        """Ends a stall."""
        self._flowing.set()

    def mend(self) -> None:
        """No more delay, stall or refusal, and no fault to come."""
        self.delay_s, self.refusing = 0.0, False
        self._lose_reply_to = self._halve = None
        self.resume()

    @property
    def fault_pending(self) -> bool:
        """Whether a fault that was asked for has not happened yet."""
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
        link.add_done_callback(lambda _: writer.transport.abort())  # also when it is cut before it has begun

    async def _link(self, client: asyncio.StreamReader, to_client: asyncio.StreamWriter) -> None:
        try:
            server, to_server = await asyncio.open_connection(*self._target)
        except OSError:  # the server is away: so are we
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
            to_server.close()  # before anything is waited for: a second cut may end the waiting
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
                to_server.write_eof()  # the server answers all it was sent, then closes: only then the link ends
                await asyncio.Event().wait()
            to_server.write(piece)
            await to_server.drain()

    async def _replies(self, source: asyncio.StreamReader, to_client: asyncio.StreamWriter) -> None:
        while piece := await source.read(1 << 20):
            await self._pass()
            to_client.write(piece)
