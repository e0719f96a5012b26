"""A port for those who watch: `GET` of a few paths, each answered by a text. Knows nothing of what the texts say.

One request a connection, each within limits of size and time. Not for the public: whoever reaches it is answered.
"""

import asyncio
import socket
from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager, suppress
from http import HTTPStatus
from typing import NamedTuple

import h11

from tailrace.schemas.errors import SettingsError

ANSWER_S = 10.0
MAX_HEAD_BYTES = 8 * 1024
_PIECE_BYTES = 4096


class Page(NamedTuple):
    """What stands at a path."""

    body: bytes
    status: int = 200
    content_type: str = "text/plain; charset=utf-8"


Pages = Mapping[str, Callable[[], Awaitable[Page]]]


@asynccontextmanager
async def port(host: str, number: int, pages: Pages) -> AsyncGenerator[int]:
    """Serves the pages as long as the context lasts; gives the port's number, where 0 took a free one.

    Raises:
        SettingsError: the address cannot be had.
    """
    listener = _listen(host, number)

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            with suppress(TimeoutError, OSError, h11.ProtocolError):
                async with asyncio.timeout(ANSWER_S):
                    await _answer(reader, writer, pages)
        finally:
            writer.close()

    server = await asyncio.start_server(answer, sock=listener)
    try:
        yield listener.getsockname()[1]
    finally:
        server.close()


async def _answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, pages: Pages) -> None:
    connection = h11.Connection(h11.SERVER, max_incomplete_event_size=MAX_HEAD_BYTES)
    try:
        page, is_head = await _page(await _request(connection, reader), pages)
    except h11.RemoteProtocolError as error:
        page, is_head = _plain(error.error_status_hint), False
    head = h11.Response(
        status_code=page.status,
        headers=[
            ("content-type", page.content_type),
            ("content-length", str(len(page.body))),
            ("cache-control", "no-store"),
            ("connection", "close"),
        ],
    )
    body = b"" if is_head else page.body
    for event in (head, h11.Data(data=body), h11.EndOfMessage()):
        writer.write(connection.send(event) or b"")
    await writer.drain()


async def _request(connection: h11.Connection, reader: asyncio.StreamReader) -> h11.Request:
    """The head of the request; whoever sends a body is not listened to."""
    while (event := connection.next_event()) is h11.NEED_DATA:
        connection.receive_data(await reader.read(_PIECE_BYTES))
    if not isinstance(event, h11.Request):
        raise ConnectionError("the connection was closed before it asked for anything")
    return event


async def _page(request: h11.Request, pages: Pages) -> tuple[Page, bool]:
    is_head = request.method == b"HEAD"
    found = pages.get(request.target.partition(b"?")[0].decode("latin-1"))
    if found is None:
        return _plain(404), is_head
    return (await found() if request.method in (b"GET", b"HEAD") else _plain(405)), is_head


def _plain(status: int) -> Page:
    return Page(f"{HTTPStatus(status).phrase}\n".encode(), status)


def _listen(host: str, number: int) -> socket.socket:
    try:
        family, *_, address = socket.getaddrinfo(host, number, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)[0]
        return socket.create_server(address[:2], family=family)
    except OSError as error:
        raise SettingsError(
            f"TAILRACE_METRICS_PORT: cannot listen on {host} port {number}: {error.strerror or error}"
        ) from error
