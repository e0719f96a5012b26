"""One event stream as an ASGI response: followers fill an outbox, one writer empties it into the connection.

Owns heartbeats, the end of a connection that does not drain, and the ends of a stream. Knows nothing of HTTP routes, of
who may read, and of what frames say.
"""

import asyncio
import random
from collections.abc import AsyncGenerator, Callable, Mapping, Sequence
from contextlib import aclosing
from functools import partial
from typing import Literal, NamedTuple

from starlette.types import Message, Receive, Scope, Send

from tailrace.producers.gateway.streams import sse
from tailrace.producers.gateway.streams.frame_buffer import Outbox
from tailrace.schemas.errors import TailraceError

ABORT = "tailrace.abort"
"""Name of the ASGI extension of our server that drops a connection with all that waits in it."""

WRITE = "tailrace.write"
"""Name of the one that writes a piece of a stream at once: `write(piece)` says whether the connection took it."""

RETRY_MS = 1000
RETRY_SPREAD_MS = 2000
"""Readers come back after `RETRY_MS` to `RETRY_MS + RETRY_SPREAD_MS`, so that a restart is not met by all at once."""

PIECE_BYTES = 32 * 1024
"""What is written at once, and has to drain in the time of a write: a frame may be megabytes, and its reader slow."""

End = Literal["ended", "left", "slow", "stopped", "broken"]


class Limits(NamedTuple):
    """What one stream may take."""

    heartbeat_s: float
    write_timeout_s: float
    buffer_bytes: int


Frames = AsyncGenerator[bytes, None]


class EventStream:
    """Writes the frames of its followers, each to its end, as one response.

    Args:
        followers: sources of frames; closed with the stream.
        limits: of this stream.
        ended: told how the stream ended, and of one that broke, why.
    """

    def __init__(
        self, followers: Sequence[Frames], limits: Limits, ended: Callable[[End, TailraceError | None], None]
    ) -> None:
        self._followers = followers
        self._limits = limits
        self._ended = ended
        self._outbox = Outbox(limits.buffer_bytes)
        self._end: End = "ended"
        self._why: TailraceError | None = None
        self._silent = False

    def stop(self) -> None:
        """Ends the stream: what waits is still written, then a hint when to come back, here or elsewhere."""
        self._close("stopped")

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """The response."""
        self._beat()
        try:
            await send(start(200, sse.HEADERS))
            if extension := scope.get("extensions", {}).get(WRITE):
                self._outbox.write_now = partial(self._write_now, extension["write"])
            self._outbox.add(sse.retry(spread_ms()))
            async with asyncio.TaskGroup() as tasks:
                beside = [tasks.create_task(self._follow()), tasks.create_task(self._notice_leaving(receive))]
                await self._write(send)
                for task in beside:
                    task.cancel()
        finally:
            self._outbox.write_now = None
            self._beats.cancel()
            self._ended(self._end, self._why)
        if self._end == "slow" and (extension := scope.get("extensions", {}).get(ABORT)):
            extension["abort"]()
            await asyncio.sleep(0)  # the server sees the connection gone before it sees us return

    async def _follow(self) -> None:
        try:
            async with asyncio.TaskGroup() as tasks:
                for frames in self._followers:
                    tasks.create_task(self._pass_on(frames))
        except* TailraceError as errors:
            self._why = next(error for error in errors.exceptions if isinstance(error, TailraceError))
            self._close("broken")
        else:
            self._outbox.close()

    async def _pass_on(self, frames: Frames) -> None:
        async with aclosing(frames):
            async for frame in frames:
                await self._outbox.put(frame)

    async def _notice_leaving(self, receive: Receive) -> None:
        while (await receive())["type"] != "http.disconnect":
            pass
        self._end = "left"
        self._outbox.close()

    def _write_now(self, write: Callable[[bytes], bool], piece: bytes) -> bool:
        if len(piece) > PIECE_BYTES or not write(piece):
            return False
        self._silent = False
        return True

    async def _write(self, send: Send) -> None:
        """Writes all that is not written at once, for as long as the reader takes it."""
        try:
            while (taken := await self._outbox.take()) is not None and self._end != "left":
                for begin in range(0, len(taken), PIECE_BYTES):
                    self._silent = False
                    await self._send(send, taken[begin : begin + PIECE_BYTES])
            if self._end != "left":
                await self._send(send, b"", more=False)
        except TimeoutError:
            self._end = "slow"

    async def _send(self, send: Send, body: bytes, *, more: bool = True) -> None:
        async with asyncio.timeout(self._limits.write_timeout_s):
            await send({"type": "http.response.body", "body": body, "more_body": more})

    def _close(self, end: End) -> None:
        """Ends before the requests did; the reader is to come back."""
        self._end = end
        self._outbox.close(sse.retry(spread_ms()))

    def _beat(self) -> None:
        """Twice a heartbeat's time: what was silent since the last one gets a comment."""
        if self._silent:
            self._outbox.add(sse.HEARTBEAT)
        self._silent = True
        self._beats = asyncio.get_running_loop().call_later(self._limits.heartbeat_s / 2, self._beat)


async def come_back(send: Send, retry_ms: int) -> None:
    """An event stream that is over at once, with a hint when to come back.

    For an `EventSource` any status but 200 is final, so this is how it is told that we cannot serve it just now.
    """
    await send(start(200, sse.HEADERS))
    await send({"type": "http.response.body", "body": sse.retry(retry_ms), "more_body": False})


def start(status: int, headers: Mapping[str, str]) -> Message:
    """The ASGI message that begins a response."""
    return {
        "type": "http.response.start",
        "status": status,
        "headers": [(name.encode(), value.encode()) for name, value in headers.items()],
    }


def spread_ms() -> int:
    """When to come back, different for each reader."""
    return RETRY_MS + random.randrange(RETRY_SPREAD_MS)  # noqa: S311 - no secret hangs on it
