"""One connection: it sends a request, passes on the response, and pauses a server that sends too fast.

Knows nothing of other connections. Its errors are httpx2's, except that reading too long raises `TimeoutError`.
"""

import asyncio
import select
from collections.abc import Callable
from typing import cast

import httpx2

from tailrace.worker.upstream.transport.request import encode_chunk, encode_head
from tailrace.worker.upstream.transport.response import ResponseHead, ResponseParser

MAX_UNREAD_BYTES = 64 * 1024
"""Beyond this many received and unread bytes, reading the socket pauses."""

PIECE_BYTES = 16 * 1024
"""The largest piece that is passed on at once, so that decoding one does not delay other streams."""


class Connection(asyncio.Protocol):
    """Made by the event loop. Each exchange is `send_request`, `read` or `deliver_to` to the end, `end_exchange`."""

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._transport: asyncio.Transport
        self._response: ResponseParser | None = None
        self._sent = False  # whether the whole request was sent
        self._unread = b""  # taken from the parser but not read
        self._unread_bytes = 0  # received since the reader last read everything
        self._reading_paused = self._writing_paused = False
        self._error: httpx2.TransportError | None = None
        self._receive_now: Callable[[bytes], bool] | None = None  # set while a task waits in `deliver_to`
        self._idle_timeout_s = 0.0
        self._waiter: asyncio.Future[bool] | None = None  # its result: whether `receive` returned False
        self._deadline = 0.0  # when the wait times out, as a time of the event loop
        self._timer: asyncio.TimerHandle | None = None

    async def send_request(
        self, request: httpx2.Request, write_timeout_s: float | None, read_timeout_s: float | None
    ) -> ResponseHead:
        """Sends a request and waits for the head of the response, which may arrive before the request is sent.

        Raises:
            httpx2.WriteTimeout, httpx2.ReadTimeout: a wait was longer than the timeout.
            httpx2.LocalProtocolError: the request is not valid.
            httpx2.RemoteProtocolError, httpx2.ReadError: there is no response, or it is not valid.
        """
        self._response, self._sent = ResponseParser(request.method), False
        try:
            await self._send(request, self._response, write_timeout_s)
        except TimeoutError as error:
            raise httpx2.WriteTimeout("the server does not read the request") from error
        until = self._after(read_timeout_s)
        try:
            while self._response.head is None:
                self._check()
                await self._wait(until)
        except TimeoutError as error:
            raise httpx2.ReadTimeout("the server does not respond") from error
        return self._response.head

    async def read(self, until: float | None = None) -> bytes:
        """Returns the next piece of the body, at once if it has arrived; empty at the end.

        Args:
            until: how long to wait, as a time of the event loop; None for no limit.

        Raises:
            TimeoutError: no piece arrived in time.
            httpx2.RemoteProtocolError, httpx2.ReadError: no piece will arrive.
        """
        response = self._response
        assert response is not None  # noqa: S101 -- a request was sent
        while not (self._unread or response.pieces):
            if response.ended:
                return b""
            self._check()
            await self._wait(until)
        return self._take_piece(response.pieces)

    async def deliver_to(self, receive: Callable[[bytes], bool], idle_timeout_s: float) -> bool:
        """Passes pieces of the body to `receive` as they arrive, inside the callback that receives them.

        Args:
            receive: gets a piece; returns whether it accepts the next one at once.
            idle_timeout_s: the longest pause before a piece.

        Returns:
            True once `receive` has returned False, False at the end of the body.

        Raises:
            TimeoutError: a pause was too long.
            httpx2.RemoteProtocolError, httpx2.ReadError: no more pieces will arrive.
            Exception: any exception of `receive`.
        """
        response = self._response
        assert response is not None  # noqa: S101 -- a request was sent
        while True:
            while self._unread or response.pieces:
                if not receive(self._take_piece(response.pieces)):
                    return True
            if response.ended:
                return False
            self._check()
            self._receive_now, self._idle_timeout_s = receive, idle_timeout_s
            try:
                if await self._wait(self._after(idle_timeout_s)):
                    return True
            finally:
                self._receive_now = None

    @property
    def ended(self) -> bool:
        """Whether the whole response has arrived, read or not."""
        return self._response is not None and self._response.ended

    def end_exchange(self) -> bool:
        """Ends the exchange; returns whether the connection can serve another."""
        response, self._response, self._unread, self._unread_bytes = self._response, None, b"", 0
        if self._reading_paused:
            self._resume()
        return response is not None and response.reusable and self._sent and not self._transport.is_closing()

    @property
    def usable(self) -> bool:
        """Whether an idle connection is still open, as far as this machine knows."""
        if self._transport.is_closing():
            return False
        if not hasattr(select, "poll"):
            return True
        poll = select.poll()  # finds an end, or unexpected bytes, that the event loop has not read yet
        poll.register(self._transport.get_extra_info("socket").fileno(), select.POLLIN)
        return not poll.poll(0)

    def close(self) -> None:
        """Closes at once; a task that waits gets an error."""
        self._transport.abort()

    # Callbacks of the event loop

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)

    def data_received(self, data: bytes) -> None:
        response = self._response
        if response is None or self._error is not None:
            self._transport.abort()  # no response is expected
            return
        try:
            response.feed(data)
        except httpx2.RemoteProtocolError as error:
            self._error = error
            self._transport.abort()
        self._unread_bytes += len(data)
        if self._receive_now is None or self._error is not None:
            self._wake()
        elif self._waiter is not None and not self._waiter.done():
            self._deliver_now(self._receive_now, self._waiter, response)
        if self._unread_bytes > MAX_UNREAD_BYTES and not self._reading_paused and not response.ended:
            self._reading_paused = True
            self._transport.pause_reading()

    def eof_received(self) -> None:
        self._handle_loss(None)  # the event loop then closes the transport

    def connection_lost(self, exc: Exception | None) -> None:
        self._handle_loss(exc)
        if self._timer is not None:
            self._timer.cancel()

    def pause_writing(self) -> None:
        self._writing_paused = True

    def resume_writing(self) -> None:
        self._writing_paused = False
        self._wake()

    # Inside an exchange

    async def _send(self, request: httpx2.Request, response: ResponseParser, timeout_s: float | None) -> None:
        assert isinstance(request.stream, httpx2.AsyncByteStream)  # noqa: S101 -- the client has checked
        framed = request.headers.get("transfer-encoding", "").lower() == "chunked"
        unsent = [encode_head(request)]
        async for part in request.stream:
            if part:
                unsent.append(encode_chunk(part) if framed else part)
                self._check()
                self._transport.writelines(unsent)
                unsent = []
                until = self._after(timeout_s)
                while self._writing_paused and response.head is None:
                    self._check()
                    await self._wait(until)
                if response.head is not None:  # the server has responded already, probably with a refusal
                    return
        if framed:
            unsent.append(encode_chunk(b""))
        if unsent:
            self._check()
            self._transport.writelines(unsent)
        self._sent = True

    def _deliver_now(
        self, receive: Callable[[bytes], bool], waiter: asyncio.Future[bool], response: ResponseParser
    ) -> None:
        """Delivers at most one piece. The waiting task delivers the rest, so that other tasks can run in between."""
        if response.pieces:
            try:
                if not receive(self._take_piece(response.pieces)):
                    waiter.set_result(True)
                    return
            except Exception as error:
                waiter.set_exception(error)
                return
            self._deadline = self._loop.time() + self._idle_timeout_s
        if response.ended or self._unread:
            waiter.set_result(False)

    def _take_piece(self, pieces: list[bytes]) -> bytes:
        if len(pieces) == 1 and not self._unread:
            piece = pieces.pop()
        else:
            piece = b"".join((self._unread, *pieces))
            pieces.clear()
        if len(piece) > PIECE_BYTES:
            piece, self._unread = piece[:PIECE_BYTES], piece[PIECE_BYTES:]
        else:
            self._unread, self._unread_bytes = b"", 0
            if self._reading_paused:
                self._resume()
        return piece

    def _resume(self) -> None:
        self._reading_paused = False
        if not self._transport.is_closing():
            self._transport.resume_reading()

    def _handle_loss(self, error: Exception | None) -> None:
        response = self._response
        if response is not None and self._error is None and not response.ended:
            try:
                if error is not None:
                    raise httpx2.ReadError(str(error) or type(error).__name__) from error
                response.feed_eof()
            except httpx2.TransportError as failure:
                self._error = failure
        self._wake()

    def _check(self) -> None:
        if self._error is not None:
            raise self._error
        if self._transport.is_closing():
            raise httpx2.ReadError("the connection was closed")

    def _after(self, wait_s: float | None) -> float | None:
        return None if wait_s is None else self._loop.time() + wait_s

    def _wake(self) -> None:
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(False)

    async def _wait(self, until: float | None) -> bool:
        """Waits until something happens. One timer serves many waits: when it fires, it checks the current deadline."""
        self._waiter = self._loop.create_future()
        if until is not None:
            self._deadline = until
            if self._timer is None or self._timer.when() > until:
                self._set_timer()
        try:
            return await self._waiter
        finally:
            self._waiter = None
            if until is not None:
                self._deadline = float("inf")

    def _set_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._timer = self._loop.call_at(self._deadline, self._check_deadline)

    def _check_deadline(self) -> None:
        self._timer = None
        if self._waiter is None or self._waiter.done() or self._deadline == float("inf"):
            return
        if self._loop.time() < self._deadline:
            self._set_timer()
        else:
            self._waiter.set_exception(TimeoutError())
