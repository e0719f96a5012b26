"""A port that answers `GET` and `HEAD` of a few paths. Knows nothing of the contents of the pages.

It serves one request per connection, with limits of size and time, and without a thread: a page is made in the event
loop, where the counts are. There is no authentication, so the port must not be public.
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
_READ_BYTES = 4096


class PortPage(NamedTuple):
    """The answer for a path."""

    body: bytes
    status: int = 200
    content_type: str = "text/plain; charset=utf-8"


Pages = Mapping[str, Callable[[str], Awaitable[PortPage]]]
"""The function for each path that makes its page from the `Accept` header of a request."""


@asynccontextmanager
async def serve_pages(host: str, number: int, pages: Pages) -> AsyncGenerator[int]:
    """Serves the pages inside the context. Yields the number of the port; for 0 a free port is used.

    Raises:
        SettingsError: the address cannot be used.
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
        page, is_head = _status_page(error.error_status_hint), False
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
    """The head of the request. A body is not read."""
    while (event := connection.next_event()) is h11.NEED_DATA:
        connection.receive_data(await reader.read(_READ_BYTES))
    if not isinstance(event, h11.Request):
        raise ConnectionError("the connection was closed before the request")
    return event


async def _page(request: h11.Request, pages: Pages) -> tuple[PortPage, bool]:
    is_head = request.method == b"HEAD"
    make_page = pages.get(request.target.partition(b"?")[0].decode("latin-1"))
    if make_page is None:
        return _status_page(404), is_head
    if request.method not in (b"GET", b"HEAD"):
        return _status_page(405), is_head
    accept = b",".join(value for name, value in request.headers if name == b"accept")
    return await make_page(accept.decode("latin-1")), is_head


def _status_page(status: int) -> PortPage:
    return PortPage(f"{HTTPStatus(status).phrase}\n".encode(), status)


def _listen(host: str, number: int) -> socket.socket:
    try:
        family, *_, address = socket.getaddrinfo(host, number, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)[0]
        return socket.create_server(address[:2], family=family)
    except OSError as error:
        raise SettingsError(
            f"TAILRACE_METRICS_PORT: cannot listen on {host} port {number}: {error.strerror or error}"
        ) from error
