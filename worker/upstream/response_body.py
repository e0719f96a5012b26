"""The body of a response while it is received, with its timeouts. Knows nothing of what the bytes mean."""

import asyncio
from collections.abc import AsyncIterator, Callable, Generator
from contextlib import contextmanager
from typing import NamedTuple, Protocol

import httpx2

from tailrace.schemas.errors import UpstreamProtocol, UpstreamUnavailable
from tailrace.worker.upstream.transport import BODY_EXTENSION


class UpstreamTimeouts(NamedTuple):
    """Timeouts of one response, in seconds.

    Attributes:
        connect_s: for opening the connection.
        first_byte_s: from sending the request to the first byte of the body.
        idle_s: the longest pause between two pieces of the body.
    """

    connect_s: float
    first_byte_s: float
    idle_s: float


class ResponseBody:
    """A body that is being received; `UpstreamClient.open_response` makes it.

    Args:
        response: a response whose headers have arrived.
        timeouts: those of the response.
        first_by: when the body must have started, as a time of the event loop.
    """

    def __init__(self, response: httpx2.Response, timeouts: UpstreamTimeouts, first_by: float) -> None:
        self._source = _source_of(response)
        self._loop = asyncio.get_running_loop()
        self._timeouts = timeouts
        self._first_by = first_by
        self._started = False

    async def read(self) -> bytes:
        """Returns the next piece of the body; empty at its end. Time between two calls does not count.

        Raises:
            UpstreamUnavailable: `upstream_timeout`, `upstream_first_byte_timeout`, or `upstream_truncated` if the
                connection was lost.
            UpstreamProtocol: `upstream_malformed`, the body's content encoding is broken.
        """
        until = self._loop.time() + self._timeouts.idle_s if self._started else self._first_by
        with self._translated_errors():
            piece = await self._source.read(until)
        self._started = True
        return piece

    async def deliver_to(self, receive: Callable[[bytes], bool]) -> bool:
        """Passes pieces of the body to `receive`, most of them inside the callback that receives them.

        No task wakes up for such a piece. The call returns when `receive` returns False, at the end of the body, and
        from time to time in between.

        Args:
            receive: gets a piece; returns whether it accepts the next one at once.

        Returns:
            Whether there may be more.

        Raises:
            UpstreamUnavailable, UpstreamProtocol: as `read`.
            Exception: any exception of `receive`.
        """
        if not self._started:
            piece = await self.read()
            if piece:
                receive(piece)
            return bool(piece)
        with self._translated_errors():
            return await self._source.deliver_to(receive, self._timeouts.idle_s)

    @property
    def ended(self) -> bool:
        """Whether the whole body has arrived."""
        return self._source.ended

    @contextmanager
    def _translated_errors(self) -> Generator[None]:
        """Turns every failure of a body into one of our errors."""
        try:
            yield
        except TimeoutError as error:
            raise (idle_error if self._started else first_byte_error)(self._timeouts) from error
        except httpx2.DecodingError as error:
            raise UpstreamProtocol(f"the answer cannot be decoded: {error}", code="upstream_malformed") from error
        except (httpx2.HTTPError, httpx2.StreamError, OSError) as error:
            raise UpstreamUnavailable(
                f"the connection was lost before the end of the answer ({describe(error)})", code="upstream_truncated"
            ) from error


class _BodySource(Protocol):
    """A source of a body. `read` raises `TimeoutError` if no piece arrives before the given loop time."""

    async def read(self, until: float) -> bytes: ...

    async def deliver_to(self, receive: Callable[[bytes], bool], idle_timeout_s: float) -> bool: ...

    @property
    def ended(self) -> bool: ...


class _HttpxSource:
    """A body read through httpx2: received by another transport, or compressed by the server."""

    def __init__(self, pieces: AsyncIterator[bytes]) -> None:
        self._pieces = pieces
        self.ended = False

    async def read(self, until: float) -> bytes:
        async with asyncio.timeout_at(until):
            piece = await anext(self._pieces, b"")
        self.ended = not piece
        return piece

    async def deliver_to(self, receive: Callable[[bytes], bool], idle_timeout_s: float) -> bool:
        piece = await self.read(asyncio.get_running_loop().time() + idle_timeout_s)
        if piece:
            receive(piece)
        return bool(piece)


def _source_of(response: httpx2.Response) -> _BodySource:
    """The fastest source of the body of a response."""
    plain = response.headers.get("content-encoding", "identity") == "identity"
    if plain and BODY_EXTENSION in response.extensions:
        return response.extensions[BODY_EXTENSION]
    return _HttpxSource(response.aiter_bytes())


def idle_error(timeouts: UpstreamTimeouts) -> UpstreamUnavailable:
    """The error for a server that stopped sending."""
    return UpstreamUnavailable(f"the model's server sent nothing for {timeouts.idle_s:g} s", code="upstream_timeout")


def first_byte_error(timeouts: UpstreamTimeouts) -> UpstreamUnavailable:
    """The error for a server that did not start sending."""
    return UpstreamUnavailable(
        f"the model's server did not start to answer within {timeouts.first_byte_s:g} s",
        code="upstream_first_byte_timeout",
    )


def describe(error: BaseException) -> str:
    """The message of an error, or its type if it has no message."""
    return str(error) or type(error).__name__
