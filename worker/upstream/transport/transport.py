"""The transport of httpx2's client: persistent connections, with one request at a time on each."""

import asyncio
import ssl
from functools import cached_property
from weakref import WeakSet

import httpx2

from tailrace.worker.upstream.transport.body import ConnectionBody
from tailrace.worker.upstream.transport.connect import Origin, connect
from tailrace.worker.upstream.transport.connection import Connection

IDLE_CONNECTION_S = 4.0
"""How long a connection is kept idle: shorter than servers keep it, many of which close after 5 s."""

BODY_EXTENSION = "tailrace.body"
"""The extension of a response that holds its `ConnectionBody`, for reading it without httpx2."""

_PORTS = {"http": 80, "https": 443}


class Transport(httpx2.AsyncBaseTransport):
    """Opens as many connections as there are concurrent requests. It connects directly, without a proxy."""

    def __init__(self) -> None:
        self._open: WeakSet[Connection] = WeakSet()  # the event loop references them while they are open
        self._idle: dict[Origin, dict[Connection, asyncio.TimerHandle]] = {}

    async def handle_async_request(self, request: httpx2.Request) -> httpx2.Response:
        """Sends a request and returns the response once its headers have arrived.

        Raises:
            httpx2.TransportError: the same errors as httpx2's own transport.
        """
        origin = _origin(request.url)
        timeouts: dict[str, float | None] = request.extensions.get("timeout", {})
        connection = self._idle_connection(origin) or await self._new_connection(origin, timeouts.get("connect"))
        try:
            head = await connection.send_request(request, timeouts.get("write"), timeouts.get("read"))
        except BaseException:
            connection.close()
            raise
        body = ConnectionBody(connection, lambda given: self._keep_or_close(origin, given), timeouts.get("read"))
        return httpx2.Response(
            head.status,
            headers=head.headers,
            stream=body,
            extensions={"http_version": b"HTTP/1.1", "reason_phrase": head.reason, BODY_EXTENSION: body},
        )

    async def aclose(self) -> None:
        """Closes every connection, including those in use."""
        for connection in list(self._open):
            connection.close()
        for idle in self._idle.values():
            for timer in idle.values():
                timer.cancel()
            idle.clear()

    @cached_property
    def _context(self) -> ssl.SSLContext:
        """One context for all connections: its trusted certificates take some hundred KiB."""
        context = httpx2.create_ssl_context()
        context.set_alpn_protocols(["http/1.1"])
        return context

    async def _new_connection(self, origin: Origin, timeout_s: float | None) -> Connection:
        connection = await connect(origin, self._context if origin.secure else None, timeout_s)
        self._open.add(connection)
        return connection

    def _idle_connection(self, origin: Origin) -> Connection | None:
        idle = self._idle.get(origin, {})
        while idle:
            connection, timer = idle.popitem()  # the one used last, so that the others can time out
            timer.cancel()
            if connection.usable:
                return connection
            connection.close()
        return None

    def _keep_or_close(self, origin: Origin, connection: Connection) -> None:
        if connection.end_exchange():
            timer = asyncio.get_running_loop().call_later(IDLE_CONNECTION_S, self._close_idle, origin, connection)
            self._idle.setdefault(origin, {})[connection] = timer
        else:
            connection.close()

    def _close_idle(self, origin: Origin, connection: Connection) -> None:
        del self._idle[origin][connection]
        connection.close()


def _origin(url: httpx2.URL) -> Origin:
    if url.scheme not in _PORTS or not url.raw_host:
        raise httpx2.UnsupportedProtocol(f"not an http:// or https:// URL: {url.scheme!r}")
    return Origin(url.scheme == "https", url.raw_host.decode("ascii"), url.port or _PORTS[url.scheme])
