"""One connection and the exchange on it: writes a request, hands on what comes, holds back who sends too much.

Knows nothing of other connections. Its errors are httpx2's, but that who waits too long hears `TimeoutError`.
"""

import asyncio
import select
from collections.abc import Callable
from typing import cast

import httpx2

from tailrace.worker.upstream.transport.request import chunk_of, head_of
from tailrace.worker.upstream.transport.response import Head, ResponseReader

MAX_WAITING_BYTES = 64 * 1024
"""Received and not read: beyond, reading the socket pauses."""

PIECE_BYTES = 16 * 1024
"""The most that is handed on at once, so that who takes it apart comes to an end soon and others have their turn."""


class Connection(asyncio.Protocol):
    """Made by the event loop. Serves one exchange after another: `ask`, `read` or `hand_on` to the end, `rest`."""

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._transport: asyncio.Transport
        self._response: ResponseReader | None = None
        self._sent = False  # the request, to its end
        self._waiting = b""  # taken from the response and not read
        self._waiting_bytes = 0  # since the reader last had all
        self._reading_paused = self._writing_paused = False
        self._error: httpx2.TransportError | None = None
        self._take_now: Callable[[bytes], bool] | None = None  # of who waits in `hand_on`
        self._idle_s = 0.0
        self._waiter: asyncio.Future[bool] | None = None  # whether who is handed pieces has enough
        self._until = 0.0  # the loop's time, when who waits has waited long enough
        self._timer: asyncio.TimerHandle | None = None

    async def ask(self, request: httpx2.Request, write_s: float | None, read_s: float | None) -> Head:
        """Sends a request and waits for what begins the answer, which may come before all is sent.

        Raises:
            httpx2.WriteTimeout, httpx2.ReadTimeout: a wait was longer than so many seconds.
            httpx2.LocalProtocolError: the request is none.
            httpx2.RemoteProtocolError, httpx2.ReadError: there is no answer, or none that can be read.
        """
        self._response, self._sent = ResponseReader(request.method), False
        try:
            await self._send(request, self._response, write_s)
        except TimeoutError as error:
            raise httpx2.WriteTimeout("the server does not take the request") from error
        until = self._after(read_s)
        try:
            while self._response.head is None:
                self._check()
                await self._wait(until)
        except TimeoutError as error:
            raise httpx2.ReadTimeout("the server does not answer") from error
        return self._response.head

    async def read(self, until: float | None = None) -> bytes:
        """The next piece of the body, without a pause where it is there; empty at the end.

        Args:
            until: the loop's time to wait for it; None waits for ever.

        Raises:
            TimeoutError: it did not come.
            httpx2.RemoteProtocolError, httpx2.ReadError: it will not come.
        """
        response = self._response
        assert response is not None  # noqa: S101 -- who reads has asked
        while not (self._waiting or response.pieces):
            if response.ended:
                return b""
            self._check()
            await self._wait(until)
        return self._take(response.pieces)

    async def hand_on(self, take: Callable[[bytes], bool], idle_s: float) -> bool:
        """Gives the pieces of the body to `take` as they come, in the very call that brings them.

        Returns when `take` has had enough or at the end of the body; whether there may be more.

        Args:
            take: given a piece, says whether it takes the next one at once.
            idle_s: the longest pause between two pieces, and before the first.

        Raises:
            TimeoutError: a pause was longer.
            httpx2.RemoteProtocolError, httpx2.ReadError: no more will come.
            Exception: what `take` raises.
        """
        response = self._response
        assert response is not None  # noqa: S101 -- who reads has asked
        while True:
            while self._waiting or response.pieces:
                if not take(self._take(response.pieces)):
                    return True
            if response.ended:
                return False
            self._check()
            self._take_now, self._idle_s = take, idle_s
            try:
                if await self._wait(self._after(idle_s)):
                    return True
            finally:
                self._take_now = None

    @property
    def ended(self) -> bool:
        """Whether the response has come whole, read or not."""
        return self._response is not None and self._response.ended

    def rest(self) -> bool:
        """Ends the exchange; whether the connection can serve another."""
        response, self._response, self._waiting, self._waiting_bytes = self._response, None, b"", 0
        if self._reading_paused:
            self._resume()
        return response is not None and response.reusable and self._sent and not self._transport.is_closing()

    @property
    def usable(self) -> bool:
        """Whether the server has, as far as this machine knows, not closed a connection that rests."""
        if self._transport.is_closing():
            return False
        if not hasattr(select, "poll"):
            return True
        poll = select.poll()  # what came since the loop last looked: an end, or bytes nobody asked for
        poll.register(self._transport.get_extra_info("socket").fileno(), select.POLLIN)
        return not poll.poll(0)

    def close(self) -> None:
        """Closes at once; whoever waits hears of it."""
        self._transport.abort()

    # What the event loop calls

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)

    def data_received(self, data: bytes) -> None:
        response = self._response
        if response is None or self._error is not None:
            self._transport.abort()  # nobody asked
            return
        try:
            response.feed(data)
        except httpx2.RemoteProtocolError as error:
            self._error = error
            self._transport.abort()
        self._waiting_bytes += len(data)
        if self._take_now is None or self._error is not None:
            self._wake()
        elif self._waiter is not None and not self._waiter.done():
            self._hand_on_now(self._take_now, self._waiter, response)
        if self._waiting_bytes > MAX_WAITING_BYTES and not self._reading_paused and not response.ended:
            self._reading_paused = True
            self._transport.pause_reading()

    def eof_received(self) -> None:
        self._lost(None)  # and the event loop closes the transport

    def connection_lost(self, exc: Exception | None) -> None:
        self._lost(exc)
        if self._timer is not None:
            self._timer.cancel()

    def pause_writing(self) -> None:
        self._writing_paused = True

    def resume_writing(self) -> None:
        self._writing_paused = False
        self._wake()

    # Within an exchange

    async def _send(self, request: httpx2.Request, response: ResponseReader, write_s: float | None) -> None:
        assert isinstance(request.stream, httpx2.AsyncByteStream)  # noqa: S101 -- the client has looked
        framed = request.headers.get("transfer-encoding", "").lower() == "chunked"
        unsent = [head_of(request)]
        async for part in request.stream:
            if part:
                unsent.append(chunk_of(part) if framed else part)
                self._check()
                self._transport.writelines(unsent)
                unsent = []
                until = self._after(write_s)
                while self._writing_paused and response.head is None:
                    self._check()
                    await self._wait(until)
                if response.head is not None:  # the server has its answer ready, a refusal most likely
                    return
        if framed:
            unsent.append(chunk_of(b""))
        if unsent:
            self._check()
            self._transport.writelines(unsent)
        self._sent = True

    def _hand_on_now(
        self, take: Callable[[bytes], bool], waiter: asyncio.Future[bool], response: ResponseReader
    ) -> None:
        """One piece at most: what is left is the waiting task's, which has it by turns with the others."""
        if response.pieces:
            try:
                if not take(self._take(response.pieces)):
                    waiter.set_result(True)
                    return
            except Exception as error:
                waiter.set_exception(error)
                return
            self._until = self._loop.time() + self._idle_s
        if response.ended or self._waiting:
            waiter.set_result(False)

    def _take(self, pieces: list[bytes]) -> bytes:
        if len(pieces) == 1 and not self._waiting:
            piece = pieces.pop()
        else:
            piece = b"".join((self._waiting, *pieces))
            pieces.clear()
        if len(piece) > PIECE_BYTES:
            piece, self._waiting = piece[:PIECE_BYTES], piece[PIECE_BYTES:]
        else:
            self._waiting, self._waiting_bytes = b"", 0
            if self._reading_paused:
                self._resume()
        return piece

    def _resume(self) -> None:
        self._reading_paused = False
        if not self._transport.is_closing():
            self._transport.resume_reading()

    def _lost(self, error: Exception | None) -> None:
        response = self._response
        if response is not None and self._error is None and not response.ended:
            try:
                if error is not None:
                    raise httpx2.ReadError(str(error) or type(error).__name__) from error
                response.feed_eof()
            except httpx2.TransportError as told:
                self._error = told
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
        """Waits for anything to happen. One timer serves many waits: it looks, when it is due, whether it still is."""
        self._waiter = self._loop.create_future()
        if until is not None:
            self._until = until
            if self._timer is None or self._timer.when() > until:
                self._set_timer()
        try:
            return await self._waiter
        finally:
            self._waiter = None
            if until is not None:
                self._until = float("inf")

    def _set_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._timer = self._loop.call_at(self._until, self._due)

    def _due(self) -> None:
        self._timer = None
        if self._waiter is None or self._waiter.done() or self._until == float("inf"):
            return
        if self._loop.time() < self._until:
            self._set_timer()
        else:
            self._waiter.set_exception(TimeoutError())
