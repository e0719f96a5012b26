"""An HTTP server whose responses a test controls byte by byte. Knows nothing of the API."""

import asyncio
import re
import ssl
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

Respond = Callable[["Caller"], Awaitable[None]]


@dataclass
class Caller:
    """One connection, from the server's side.

    Attributes:
        sent: how many bytes were sent.
        gone: whether the client has closed the connection.
    """

    reader: asyncio.StreamReader
    writer: asyncio.StreamWriter
    sent: int = 0
    gone: bool = False

    async def request(self) -> bytes:
        """The next request: its head, and its body if the head has its length."""
        head = await self.reader.readuntil(b"\r\n\r\n")
        length = re.search(rb"content-length: (\d+)", head.lower())
        return head + (await self.reader.readexactly(int(length[1])) if length else b"")

    async def send(self, *parts: bytes) -> None:
        for part in parts:
            self.writer.write(part)
            await self.writer.drain()
            self.sent += len(part)

    async def wait_until_closed(self) -> None:
        """Waits until the client has closed the connection."""
        try:
            while await self.reader.read(1 << 16):
                pass
        except ConnectionError:
            pass
        self.gone = True


@dataclass
class Server:
    """A server that is running; `callers` are its connections in order."""

    url: str
    callers: list[Caller] = field(default_factory=list[Caller])


@asynccontextmanager
async def serving(respond: Respond, context: ssl.SSLContext | None = None) -> AsyncGenerator[Server]:
    """Runs a server that calls `respond` once per connection and then closes it."""
    tasks: set[asyncio.Task[None]] = set()

    async def serve(caller: Caller) -> None:
        try:
            await respond(caller)
        except (ConnectionError, asyncio.IncompleteReadError):
            caller.gone = True
        finally:
            caller.writer.close()

    def connected(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        caller = Caller(reader, writer)
        server.callers.append(caller)
        task = asyncio.create_task(serve(caller))
        tasks.add(task)
        task.add_done_callback(tasks.discard)

    listening = await asyncio.start_server(connected, "127.0.0.1", 0, ssl=context)
    port: int = listening.sockets[0].getsockname()[1]
    server = Server(f"{'https' if context else 'http'}://127.0.0.1:{port}")
    try:
        yield server
    finally:
        listening.close()
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


def responding_with(*parts: bytes) -> Respond:
    """Responds to the first request with these bytes."""

    async def respond(caller: Caller) -> None:
        await caller.request()
        await caller.send(*parts)

    return respond
