"""The body of an answer while it is received, with its time limits. Knows nothing of what the bytes say."""

import asyncio
from collections.abc import AsyncIterator, Callable, Generator
from contextlib import contextmanager
from typing import NamedTuple, Protocol

import httpx2

from tailrace.schemas.errors import UpstreamProtocol, UpstreamUnavailable
from tailrace.worker.upstream.transport import BODY


class TimeLimits(NamedTuple):
    """Time limits of one answer, in seconds.

    Attributes:
        connect_s: for the connection.
        first_byte_s: from the request sent to the first byte of the answer's body.
        idle_s: the longest pause between two pieces of the body.
    """

    connect_s: float
    first_byte_s: float
    idle_s: float


class Answer:
    """A body that is being received; `Upstream.open` makes it.

    Args:
        response: whose headers have come.
        limits: time limits.
        first_by: the loop's time by which the body has to begin.
    """

    def __init__(self, response: httpx2.Response, limits: TimeLimits, first_by: float) -> None:
        self._body = _body_of(response)
        self._loop = asyncio.get_running_loop()
        self._limits = limits
        self._first_by = first_by
        self._begun = False

    async def read(self) -> bytes:
        """The next piece of the body; empty at its end. Time spent between two calls does not count.

        Raises:
            UpstreamUnavailable: `upstream_timeout`, `upstream_first_byte_timeout`, or `upstream_truncated` when the
                connection was lost.
            UpstreamProtocol: `upstream_malformed`, the body's encoding cannot be read.
        """
        with self._told():
            piece = await self._body.read(self._loop.time() + self._limits.idle_s if self._begun else self._first_by)
        self._begun = True
        return piece

    async def hand_on(self, take: Callable[[bytes], bool]) -> bool:
        """Gives the pieces of the body to `take`, most of them in the call that brings them: no task wakes for them.

        Returns when `take` has had enough, at the end, and now and then; whether there may be more.

        Args:
            take: given a piece, says whether it takes the next one at once.

        Raises:
            UpstreamUnavailable, UpstreamProtocol: as `read`.
            Exception: what `take` raises.
        """
        if not self._begun:
            piece = await self.read()
            if piece:
                take(piece)
            return bool(piece)
        with self._told():
            return await self._body.hand_on(take, self._limits.idle_s)

    @contextmanager
    def _told(self) -> Generator[None]:
        """Makes every failure of a body one of ours."""
        try:
            yield
        except TimeoutError as error:
            raise (idle if self._begun else silent)(self._limits) from error
        except httpx2.DecodingError as error:
            raise UpstreamProtocol(f"the answer cannot be decoded: {error}", code="upstream_malformed") from error
        except (httpx2.HTTPError, httpx2.StreamError, OSError) as error:
            raise UpstreamUnavailable(
                f"the connection was lost before the end of the answer ({kind(error)})", code="upstream_truncated"
            ) from error

    @property
    def ended(self) -> bool:
        """Whether the body has come whole."""
        return self._body.ended


class _Body(Protocol):
    """What an answer is read from: pieces, and `TimeoutError` where none comes until the loop's time given."""

    async def read(self, until: float) -> bytes: ...

    async def hand_on(self, take: Callable[[bytes], bool], idle_s: float) -> bool: ...

    @property
    def ended(self) -> bool: ...


class _Decoded:
    """A body by way of httpx2: what another transport has received, or what the server has compressed."""

    def __init__(self, pieces: AsyncIterator[bytes]) -> None:
        self._pieces = pieces
        self.ended = False

    async def read(self, until: float) -> bytes:
        async with asyncio.timeout_at(until):
            piece = await anext(self._pieces, b"")
        self.ended = not piece
        return piece

    async def hand_on(self, take: Callable[[bytes], bool], idle_s: float) -> bool:
        piece = await self.read(asyncio.get_running_loop().time() + idle_s)
        if piece:
            take(piece)
        return bool(piece)


def _body_of(response: httpx2.Response) -> _Body:
    """The shortest way to a response's body."""
    plain = response.headers.get("content-encoding", "identity") == "identity"
    return response.extensions[BODY] if plain and BODY in response.extensions else _Decoded(response.aiter_bytes())


def idle(limits: TimeLimits) -> UpstreamUnavailable:
    """The error of a server that has begun and says no more."""
    return UpstreamUnavailable(f"the model's server fell silent for {limits.idle_s:g} s", code="upstream_timeout")


def silent(limits: TimeLimits) -> UpstreamUnavailable:
    """The error of a server that does not begin."""
    return UpstreamUnavailable(
        f"the model's server did not begin to answer within {limits.first_byte_s:g} s",
        code="upstream_first_byte_timeout",
    )


def kind(error: BaseException) -> str:
    """What an error of the client says, or what it is where it says nothing."""
    return str(error) or type(error).__name__
