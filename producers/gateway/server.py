"""Serves the gateway by uvicorn: the socket, the limits below HTTP, signals, and a stop that resumes elsewhere.

Knows nothing of routes and of what streams say.
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
from tailrace.producers.gateway.metrics import page
from tailrace.producers.gateway.routes import MAX_BODY_BYTES, MAX_HEAD_BYTES
from tailrace.producers.gateway.streams.event_stream import ABORT, WRITE
from tailrace.schemas.errors import SettingsError

HEAD_TIMEOUT_S = 15.0
"""From a connection's first byte of a request to the last one of its headers."""

IDLE_TIMEOUT_S = 75
"""How long a connection stays open between two requests."""

MAX_UNREAD_BYTES = 4 * MAX_BODY_BYTES
"""What follows a body that was refused is thrown away, for its sender to read the answer; but not for ever."""

SEND_BUFFER_BYTES = 128 * 1024
"""What the kernel holds for one reader. Left to itself it grows to megabytes for one that takes nothing."""

STOP_S = 10.0
"""From the signal until whoever has not taken the last of their stream is cut off."""

_TOO_LARGE = b"HTTP/1.1 431 Request Header Fields Too Large\r\nconnection: close\r\ncontent-length: 0\r\n\r\n"
_TOO_LATE = b"HTTP/1.1 408 Request Timeout\r\nconnection: close\r\ncontent-length: 0\r\n\r\n"


class GatewayProtocol(HttpToolsProtocol):
    """uvicorn's protocol bounds neither headers, in size and time, nor how long an answer may lie there untaken."""

    _bytes = 0
    _in_head = True
    _head_timer: asyncio.TimerHandle | None = None
    _untaken_timer: asyncio.TimerHandle | None = None
    _extensions: dict[str, dict[object, object]]

    def data_received(self, data: bytes) -> None:
        """Counts what comes of a request."""
        if self._in_head and self._head_timer is None:
            self._head_timer = self.loop.call_later(HEAD_TIMEOUT_S, self._refuse, _TOO_LATE)
        self._bytes += len(data)
        super().data_received(data)
        if self._in_head and self._bytes > MAX_HEAD_BYTES:
            self._refuse(_TOO_LARGE)
        elif self._bytes > MAX_UNREAD_BYTES:
            self.transport.abort()

    def on_message_begin(self) -> None:
        """A request begins."""
        super().on_message_begin()
        self._extensions = {ABORT: {"abort": self.transport.abort}}
        self.scope["extensions"] = self._extensions

    def on_headers_complete(self) -> None:
        """What comes now is its body."""
        self._in_head = False
        self._drop_timer()
        super().on_headers_complete()
        self._extensions[WRITE] = {"write": partial(_write_now, proxy(self.cycle))}  # it holds the scope

    def on_message_complete(self) -> None:
        """What comes now is the next request."""
        self._in_head, self._bytes = True, 0
        super().on_message_complete()

    def pause_writing(self) -> None:
        """More waits to be written than should."""
        super().pause_writing()
        self._watch(self.transport.get_write_buffer_size())

    def resume_writing(self) -> None:
        """Enough of it was taken."""
        self._drop_untaken_timer()
        super().resume_writing()

    def connection_lost(self, exc: Exception | None) -> None:
        """Nothing is waited for any more."""
        self._drop_timer()
        self._drop_untaken_timer()
        super().connection_lost(exc)

    def _watch(self, waits_bytes: int) -> None:
        """Drops a connection of which nothing is taken. An event stream does so itself, in half the time."""
        gateway = self.config.app
        assert isinstance(gateway, Gateway)  # noqa: S101 - `GatewayServer` serves nothing else
        self._untaken_timer = self.loop.call_later(2 * gateway.limits.write_timeout_s, self._judge, waits_bytes)

    def _judge(self, waited_bytes: int) -> None:
        waits_bytes = self.transport.get_write_buffer_size()
        if waits_bytes < waited_bytes:
            self._watch(waits_bytes)
        else:
            self.transport.abort()

    def _drop_untaken_timer(self) -> None:
        if self._untaken_timer is not None:
            self._untaken_timer.cancel()
            self._untaken_timer = None

    def _refuse(self, answer: bytes) -> None:
        self._drop_timer()
        if not self.transport.is_closing():
            self.transport.write(answer)
            self.transport.close()

    def _drop_timer(self) -> None:
        if self._head_timer is not None:
            self._head_timer.cancel()
            self._head_timer = None


def _write_now(cycle: RequestResponseCycle, piece: bytes) -> bool:
    """Writes a chunk of a response that has begun, as uvicorn's `send` would, if that would not have to wait."""
    if cycle.flow.write_paused or cycle.disconnected or cycle.response_complete or not cycle.chunked_encoding:
        return False
    cycle.transport.write(b"%x\r\n%b\r\n" % (len(piece), piece))
    return True


class GatewayServer(uvicorn.Server):
    """Ends the streams when it stops, before it waits for connections to close.

    Args:
        gateway: what it serves.
    """

    def __init__(self, gateway: Gateway) -> None:
        super().__init__(
            uvicorn.Config(
                gateway,
                http=GatewayProtocol,
                ws="none",
                lifespan="on",
                log_config=None,
                access_log=False,  # its lines have the query, and that may have a token; ours have not
                server_header=False,
                proxy_headers=False,
                timeout_keep_alive=IDLE_TIMEOUT_S,
                timeout_graceful_shutdown=int(STOP_S),
            )
        )
        self._gateway = gateway

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Lets readers go, then stops as uvicorn does."""
        for server in self.servers:
            server.close()  # first: who is sent away must not come back here
        self._gateway.stop()
        await super().shutdown(sockets)

    @contextmanager
    def capture_signals(self) -> Generator[None]:
        """The first signal stops, the second does not wait. uvicorn's own would end the process by the signal."""
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
    """A socket that takes connections; port 0 takes a free one.

    Raises:
        SettingsError: the address cannot be had.
    """
    try:
        family, *_, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)[0]
        listener = socket.create_server(address[:2], family=family, backlog=2048)
    except OSError as error:
        raise SettingsError(f"cannot listen on {host} port {port}: {error.strerror or error}") from error
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, SEND_BUFFER_BYTES)
    return listener


class _MetricsServer(uvicorn.Server):
    """Serves the page of metrics beside the gateway, and stops when it is told to."""

    def __init__(self, gateway: Gateway) -> None:
        super().__init__(
            uvicorn.Config(
                page(gateway.figures),
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
        """Signals are the gateway's."""
        yield


async def serve(gateway: Gateway, listener: socket.socket, metrics: socket.socket | None = None) -> None:
    """Serves until a signal comes.

    Args:
        gateway: what to serve.
        listener: where.
        metrics: where to serve its metrics, if anywhere.
    """
    beside = _MetricsServer(gateway)
    telling = asyncio.create_task(beside.serve([metrics])) if metrics is not None else None
    try:
        await GatewayServer(gateway).serve([listener])
    finally:
        beside.should_exit = True
        if telling is not None:
            await telling
