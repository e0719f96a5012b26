"""Serves the gateway with uvicorn: sockets, limits below HTTP, signals, and a graceful stop.

Knows nothing of routes or of what streams send.
"""

import asyncio
import signal
import socket
from collections.abc import Generator
from contextlib import contextmanager, suppress
from functools import partial
from weakref import proxy

import uvicorn
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol, RequestResponseCycle

from tailrace.producers.gateway.app import Gateway
from tailrace.producers.gateway.metrics import metrics_app
from tailrace.producers.gateway.parameters import MAX_BODY_BYTES, MAX_HEAD_BYTES
from tailrace.producers.gateway.streams.event_stream import ABORT, WRITE
from tailrace.schemas.errors import SettingsError

HEAD_TIMEOUT_S = 15.0
"""The limit from the first byte of a request to the end of its headers."""

IDLE_TIMEOUT_S = 75
"""How long an idle connection stays open between two requests."""

MAX_UNREAD_BYTES = 4 * MAX_BODY_BYTES
"""The rest of a rejected body is read and dropped, so that its sender reads the response; up to this limit."""

SEND_BUFFER_BYTES = 128 * 1024
"""The kernel's send buffer for one reader. The default grows to megabytes for a reader that reads nothing."""

STOP_S = 10.0
"""How long after the signal readers have to take the rest of their streams."""

_TOO_LARGE = b"HTTP/1.1 431 Request Header Fields Too Large\r\nconnection: close\r\ncontent-length: 0\r\n\r\n"
_TOO_SLOW = b"HTTP/1.1 408 Request Timeout\r\nconnection: close\r\ncontent-length: 0\r\n\r\n"


class GatewayProtocol(HttpToolsProtocol):
    """Adds limits that uvicorn's protocol lacks: size and time of headers, and time for a response to be taken."""

    _bytes = 0
    _in_head = True
    _head_timer: asyncio.TimerHandle | None = None
    _stuck_timer: asyncio.TimerHandle | None = None
    _extensions: dict[str, dict[object, object]]

    def data_received(self, data: bytes) -> None:
        """Counts the bytes of a request."""
        if self._in_head and self._head_timer is None:
            self._head_timer = self.loop.call_later(HEAD_TIMEOUT_S, self._reject, _TOO_SLOW)
        self._bytes += len(data)
        super().data_received(data)
        if self._in_head and self._bytes > MAX_HEAD_BYTES:
            self._reject(_TOO_LARGE)
        elif self._bytes > MAX_UNREAD_BYTES:
            self.transport.abort()

    def on_message_begin(self) -> None:
        """Offers the extension that aborts the connection."""
        super().on_message_begin()
        self._extensions = {ABORT: {"abort": self.transport.abort}}
        self.scope["extensions"] = self._extensions

    def on_headers_complete(self) -> None:
        """Begins the body, and offers the extension that writes without waiting."""
        self._in_head = False
        self._cancel_head_timer()
        super().on_headers_complete()
        self._extensions[WRITE] = {"write": partial(_write_now, proxy(self.cycle))}  # it holds the scope

    def on_message_complete(self) -> None:
        """Prepares for the next request."""
        self._in_head, self._bytes = True, 0
        super().on_message_complete()

    def pause_writing(self) -> None:
        """Called when the write buffer is full: starts to watch whether the reader reads anything."""
        super().pause_writing()
        self._watch_buffer(self.transport.get_write_buffer_size())

    def resume_writing(self) -> None:
        """Called when the write buffer has drained."""
        self._cancel_stuck_timer()
        super().resume_writing()

    def connection_lost(self, exc: Exception | None) -> None:
        """Cancels the timers."""
        self._cancel_head_timer()
        self._cancel_stuck_timer()
        super().connection_lost(exc)

    def _watch_buffer(self, buffered_bytes: int) -> None:
        """Drops the connection if its reader reads nothing. Event streams do so themselves, in half the time."""
        gateway = self.config.app
        assert isinstance(gateway, Gateway)  # noqa: S101 - `GatewayServer` serves nothing else
        self._stuck_timer = self.loop.call_later(2 * gateway.limits.write_timeout_s, self._check_buffer, buffered_bytes)

    def _check_buffer(self, before_bytes: int) -> None:
        buffered_bytes = self.transport.get_write_buffer_size()
        if buffered_bytes < before_bytes:
            self._watch_buffer(buffered_bytes)
        else:
            self.transport.abort()

    def _cancel_stuck_timer(self) -> None:
        if self._stuck_timer is not None:
            self._stuck_timer.cancel()
            self._stuck_timer = None

    def _reject(self, answer: bytes) -> None:
        self._cancel_head_timer()
        if not self.transport.is_closing():
            self.transport.write(answer)
            self.transport.close()

    def _cancel_head_timer(self) -> None:
        if self._head_timer is not None:
            self._head_timer.cancel()
            self._head_timer = None


def _write_now(cycle: RequestResponseCycle, piece: bytes) -> bool:
    """Writes a chunk of a response as uvicorn's `send` does, if it need not wait; returns whether it did."""
    if cycle.flow.write_paused or cycle.disconnected or cycle.response_complete or not cycle.chunked_encoding:
        return False
    cycle.transport.write(b"%x\r\n%b\r\n" % (len(piece), piece))
    return True


class GatewayServer(uvicorn.Server):
    """Ends the event streams when it stops, before it waits for connections to close.

    Args:
        gateway: the application.
    """

    def __init__(self, gateway: Gateway) -> None:
        super().__init__(
            uvicorn.Config(
                gateway,
                http=GatewayProtocol,
                ws="none",
                lifespan="on",
                log_config=None,
                access_log=False,  # its lines contain the query, which may contain a token
                server_header=False,
                proxy_headers=False,
                timeout_keep_alive=IDLE_TIMEOUT_S,
                timeout_graceful_shutdown=int(STOP_S),
            )
        )
        self._gateway = gateway

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Ends event streams, then stops as uvicorn does."""
        for server in self.servers:
            server.close()  # first, so that readers do not reconnect here
        self._gateway.stop()
        await super().shutdown(sockets)

    @contextmanager
    def capture_signals(self) -> Generator[None]:
        """The first signal stops gracefully, the second at once. uvicorn's version ends the process by the signal."""
        loop = asyncio.get_running_loop()
        for number in (signal.SIGINT, signal.SIGTERM):
            with suppress(NotImplementedError):  # Windows
                loop.add_signal_handler(number, self._stop)
        try:
            yield
        finally:
            for number in (signal.SIGINT, signal.SIGTERM):
                with suppress(NotImplementedError):
                    loop.remove_signal_handler(number)

    def _stop(self) -> None:
        self.force_exit = self.should_exit
        self.should_exit = True


def listen(host: str, port: int) -> socket.socket:
    """A listening socket; port 0 chooses a free port.

    Raises:
        SettingsError: the address cannot be used.
    """
    try:
        family, *_, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)[0]
        listener = socket.create_server(address[:2], family=family, backlog=2048)
    except OSError as error:
        raise SettingsError(f"cannot listen on {host} port {port}: {error.strerror or error}") from error
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, SEND_BUFFER_BYTES)
    return listener


class _MetricsServer(uvicorn.Server):
    """Serves the metrics on a second port until `should_exit` is set."""

    def __init__(self, gateway: Gateway) -> None:
        super().__init__(
            uvicorn.Config(
                metrics_app(gateway.metric_samples),
                ws="none",
                lifespan="off",
                log_config=None,
                access_log=False,
                server_header=False,
                proxy_headers=False,
                timeout_graceful_shutdown=1,
            )
        )

    @contextmanager
    def capture_signals(self) -> Generator[None]:
        """Leaves signals to the gateway's server."""
        yield


async def serve(gateway: Gateway, listener: socket.socket, metrics: socket.socket | None = None) -> None:
    """Serves until a signal arrives.

    Args:
        gateway: the application.
        listener: the socket for it.
        metrics: the socket for its metrics, if they are served.
    """
    metrics_server = _MetricsServer(gateway)
    serving = asyncio.create_task(metrics_server.serve([metrics])) if metrics is not None else None
    try:
        await GatewayServer(gateway).serve([listener])
    finally:
        metrics_server.should_exit = True
        if serving is not None:
            await serving
