"""One connection to the simulator: reads requests, plays replies, notices at once when the client disconnects.

One protocol object and one timer per running reply; no task per request. h11 reads the requests and writes the heads of
replies; chunks are framed here, because no HTTP library allows what a fault does to a body.
"""

from __future__ import annotations

import asyncio
import http.client
import math
import socket
import struct
import time
from collections.abc import Callable, Iterator
from typing import cast
from urllib.parse import unquote

import h11

from tailrace.demo.simulator.app import App
from tailrace.demo.simulator.call import Request
from tailrace.demo.simulator.errors import ApiError
from tailrace.demo.simulator.ledger import Entry, How
from tailrace.demo.simulator.playback import Beat, Then
from tailrace.demo.simulator.reply import Reply, error_reply

MAX_BODY = 32 << 20  # bytes of one request; beyond it 413
_MAX_HEAD = 64 << 10
_MAX_AHEAD = 64 << 10  # bytes a client may send before its answer has ended
_FLUSH = 64 << 10
_TICK_S = 0.001  # uvloop's timers count milliseconds and may fire early by one: without this they would spin
_LINGER_S = 2.0  # how long a client may continue to send a refused request before it is cut off
_NO_LINGER = struct.pack("ii", 1, 0)  # SO_LINGER on, 0 s: close sends a reset

OnEnd = Callable[[Entry], None]


class Connection(asyncio.Protocol):
    def __init__(self, app: App, connections: set[Connection], on_end: OnEnd) -> None:
        self._app, self._connections, self._on_end = app, connections, on_end
        self._loop = asyncio.get_running_loop()
        self._http = h11.Connection(h11.SERVER, max_incomplete_event_size=_MAX_HEAD)
        self._transport: asyncio.Transport
        self._paused = False
        self._head: h11.Request | None = None
        self._body: list[bytes] = []
        self._size = 0
        self._ahead = 0
        self._refused = False
        self._reply: Reply | None = None
        self._entry: Entry | None = None
        self._beats: Iterator[Beat] = iter(())
        self._next: Beat | None = None
        self._begun_s = 0.0
        self._timer: asyncio.Handle | None = None

    # Callbacks of the event loop

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)
        self._connections.add(self)
        self._app.open_connections = len(self._connections)

    def connection_lost(self, exc: Exception | None) -> None:
        self._connections.discard(self)
        self._app.open_connections = len(self._connections)
        self._close_entry("client_closed")

    def eof_received(self) -> None:
        # A client that has closed only its half looks like one that has disconnected, and noticing that at once matters
        # more here: the transport is dropped together with what is still to be written.
        if self._reply is not None:
            self._transport.abort()

    def pause_writing(self) -> None:
        self._paused = True

    def resume_writing(self) -> None:
        self._paused = False
        if self._reply is not None and self._timer is None and self._begun_s:
            self._pump()

    def data_received(self, data: bytes) -> None:
        if self._refused:
            return
        if self._reply is not None:
            self._ahead += len(data)
            if self._ahead > _MAX_AHEAD:
                self._transport.abort()
                return
        try:
            self._http.receive_data(data)
        except h11.RemoteProtocolError:  # data after a request that announced itself as the last
            self._transport.abort()
            return
        self._read()

    # From bytes to requests

    def _read(self) -> None:
        while self._reply is None and not self._transport.is_closing():
            try:
                event = self._http.next_event()
            except h11.RemoteProtocolError as error:
                self._refuse(ApiError(error.error_status_hint, f"Not HTTP as it should be: {error}"))
                return
            if event is h11.NEED_DATA and self._http.they_are_waiting_for_100_continue:
                self._send(h11.InformationalResponse(status_code=100, headers=[]))
            if event is h11.NEED_DATA or event is h11.PAUSED or isinstance(event, h11.ConnectionClosed):
                return
            self._take(event)

    def _take(self, event: h11.Event | type[h11.NEED_DATA] | type[h11.PAUSED]) -> None:
        if isinstance(event, h11.Request):
            self._head, self._body, self._size = event, [], 0
            if event.http_version < b"1.1":
                self._refuse(ApiError(505, "The simulator speaks HTTP/1.1."))
        elif isinstance(event, h11.Data):
            self._size += len(event.data)
            self._body.append(bytes(event.data))
            if self._size > MAX_BODY:
                self._refuse(ApiError(413, f"The request is larger than {MAX_BODY} bytes."))
        elif isinstance(event, h11.EndOfMessage):
            self._answer()

    def _answer(self) -> None:
        assert self._head is not None  # noqa: S101 -- h11 gives the head before the end
        path, _, query = self._head.target.decode("ascii", "replace").partition("?")
        headers = {name.decode("ascii"): value.decode("utf-8", "replace") for name, value in self._head.headers}
        request = Request(self._head.method.decode("ascii"), unquote(path), query, headers, b"".join(self._body))
        self._body = []
        entry = self._app.ledger.open(request.method, request.path, time.monotonic())
        self._play(self._app.answer(request, entry), entry)

    def _refuse(self, error: ApiError) -> None:
        """Answers bytes that are not a request and closes the connection: what follows cannot be parsed."""
        entry = self._app.ledger.open("?", "?", time.monotonic())
        reply = error_reply(error)
        reply.headers.append(("connection", "close"))
        self._play(reply, entry)

    # From replies to bytes

    def _play(self, reply: Reply, entry: Entry) -> None:
        self._reply, self._entry, self._beats, self._next = reply, entry, reply.beats, None
        self._ahead = 0
        if reply.attached is not None:
            reply.attached.add(self._end_early)
        if not reply.delay_s:
            self._begin()
        elif not math.isinf(reply.delay_s):
            self._timer = self._loop.call_later(reply.delay_s, self._begin)

    def _begin(self) -> None:
        assert self._reply is not None and self._entry is not None  # noqa: S101, PT018 -- a reply is being played
        self._timer = None
        reply = self._reply
        framing = ("transfer-encoding", "chunked") if reply.length is None else ("content-length", str(reply.length))
        reason = http.client.responses.get(reply.status, "Overloaded")
        head = h11.Response(status_code=reply.status, headers=[*reply.headers, framing], reason=reason)
        self._send(head)
        self._entry.status, self._entry.first_byte_s = reply.status, time.monotonic()
        self._begun_s = self._loop.time()
        self._pump()

    def _pump(self) -> None:
        """Writes every beat that is due, and sets the timer for the next."""
        self._timer = None
        if self._paused or self._reply is None or self._entry is None:
            return
        pending: list[bytes] = []
        size = 0
        now_s = self._loop.time() - self._begun_s + _TICK_S
        while True:
            beat = self._next or next(self._beats)
            if beat.at_s > now_s:
                self._next = beat
                self._transport.write(b"".join(pending))
                if not math.isinf(beat.at_s):
                    self._timer = self._loop.call_at(self._begun_s + beat.at_s, self._pump)
                return
            self._next = None
            self._entry.chunks_sent += beat.events
            if beat.data:
                pending.append(self._frame(beat.data))
                size += len(beat.data)
            if beat.then != "go on":
                self._transport.write(b"".join(pending))
                self._finish(beat.then)
                return
            if beat.alone or size > _FLUSH:
                self._transport.write(b"".join(pending))
                self._timer = self._loop.call_soon(self._pump)
                return

    def _send(self, event: h11.Event) -> None:
        self._transport.write(self._http.send(event) or b"")

    def _frame(self, data: bytes) -> bytes:
        if self._reply is not None and self._reply.length is not None:
            return self._http.send(h11.Data(data=data)) or b""
        return b"%x\r\n%b\r\n" % (len(data), data)

    def _end_early(self) -> None:
        """Ends the body cleanly now, without the rest."""
        if self._timer is not None:
            self._timer.cancel()
        if self._begun_s:
            self._finish("end")
        else:
            self._transport.abort()

    def _finish(self, then: Then) -> None:
        if then == "cut":
            self._close_entry("cut")
            self._transport.close()
        elif then == "rst":
            self._close_entry("rst")
            self._reset()
        else:
            status = self._entry.status if self._entry is not None else None
            self._send(h11.EndOfMessage())
            self._close_entry("completed" if status == 200 else "error")
            if self._http.their_state is not h11.DONE:
                # Closing now would reset the connection while the client still sends, and it would lose the answer.
                self._refused = True
                self._transport.write_eof()
                self._timer = self._loop.call_later(_LINGER_S, self._transport.abort)
                return
            if self._http.our_state is h11.MUST_CLOSE:
                self._transport.close()
                return
            self._http.start_next_cycle()
            self._loop.call_soon(self._read)  # not from here: pipelined requests would nest

    def _reset(self) -> None:
        if self._transport.is_closing():
            return
        if self._transport.get_write_buffer_size():  # the data before the reset should arrive
            self._timer = self._loop.call_later(0.002, self._reset)
            return
        connection = cast(socket.socket, self._transport.get_extra_info("socket"))
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _NO_LINGER)
        self._transport.abort()

    def _close_entry(self, how: How) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if self._reply is not None and self._reply.attached is not None:
            self._reply.attached.discard(self._end_early)
        if self._entry is not None:
            self._entry.end(how, time.monotonic())
            self._on_end(self._entry)
        self._reply = self._entry = self._next = None
        self._beats, self._begun_s = iter(()), 0.0

    def stop(self) -> None:
        """Drops the connection with everything unsent."""
        self._close_entry("stopped")
        self._transport.abort()
