"""The transport that httpx2's client is given: connections that serve again, one request at a time on each."""

import asyncio
import ssl
from functools import cached_property
from weakref import WeakSet

import httpx2

from tailrace.worker.upstream.transport.body import Body
from tailrace.worker.upstream.transport.connection import Connection
from tailrace.worker.upstream.transport.dial import Origin, dial

KEPT_S = 4.0
"""How long a connection waits for its next request: shorter than servers wait, of whom many close after 5 s."""

BODY = "tailrace.body"
"""Among a response's extensions: its `Body`, for those who read it without httpx2."""

_PORTS = {"http": 80, "https": 443}


class Transport(httpx2.AsyncBaseTransport):
    """Opens as many connections as there are requests at a time. Leads to servers directly, by no proxy."""

    def __init__(self) -> None:
        self._open: WeakSet[Connection] = WeakSet()  # the event loop holds them as long as they are open
        self._idle: dict[Origin, dict[Connection, asyncio.TimerHandle]] = {}

    async def handle_async_request(self, request: httpx2.Request) -> httpx2.Response:
        """Sends a request and gives the response once its headers are there.

        Raises:
            httpx2.TransportError: as httpx2's own transport would.
        """
        origin = _origin(request.url)
        limits: dict[str, float | None] = request.extensions.get("timeout", {})
        connection = self._kept(origin) or await self._new(origin, limits.get("connect"))
        try:
            head = await connection.ask(request, limits.get("write"), limits.get("read"))
        except BaseException:
            connection.close()
            raise
        body = Body(connection, lambda given: self._take_back(origin, given), limits.get("read"))
        return httpx2.Response(
            head.status,
            headers=head.headers,
            stream=body,
            extensions={"http_version": b"HTTP/1.1", "reason_phrase": head.reason, BODY: body},
        )

    async def aclose(self) -> None:
        """Closes every connection, whatever it does."""
        for connection in list(self._open):
            connection.close()
        for idle in self._idle.values():
            for timer in idle.values():
                timer.cancel()
            idle.clear()

    @cached_property
    def _context(self) -> ssl.SSLContext:
        """One for all connections: it holds the certificates that are trusted, and each has some hundred KiB."""
        context = httpx2.create_ssl_context()
        context.set_alpn_protocols(["http/1.1"])
        return context

    async def _new(self, origin: Origin, limit_s: float | None) -> Connection:
        connection = await dial(origin, self._context if origin.secure else None, limit_s)
        self._open.add(connection)
        return connection

    def _kept(self, origin: Origin) -> Connection | None:
        idle = self._idle.get(origin, {})
        while idle:
            connection, timer = idle.popitem()  # the last used: the others may so come to their end
            timer.cancel()
            if connection.usable:
                return connection
            connection.close()
        return None

    def _take_back(self, origin: Origin, connection: Connection) -> None:
        if connection.rest():
            timer = asyncio.get_running_loop().call_later(KEPT_S, self._let_go, origin, connection)
            self._idle.setdefault(origin, {})[connection] = timer
        else:
            connection.close()

    def _let_go(self, origin: Origin, connection: Connection) -> None:
        del self._idle[origin][connection]
        connection.close()


def _origin(url: httpx2.URL) -> Origin:
    if url.scheme not in _PORTS or not url.raw_host:
        raise httpx2.UnsupportedProtocol(f"no http:// or https:// URL: {url.scheme!r}")
    return Origin(url.scheme == "https", url.raw_host.decode("ascii"), url.port or _PORTS[url.scheme])
