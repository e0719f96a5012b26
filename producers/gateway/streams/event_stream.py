"""One event stream as an ASGI response: followers fill a buffer, one writer empties it into the connection.

Owns heartbeats, the write timeout and the ways a stream can end. Knows nothing of routes, of access or of what frames
contain.
"""

import asyncio
import random
from collections.abc import AsyncGenerator, Callable, Mapping, Sequence
from contextlib import aclosing
from functools import partial
from typing import Literal, NamedTuple

from starlette.types import Message, Receive, Scope, Send

from tailrace.producers.gateway.streams import sse
from tailrace.producers.gateway.streams.frame_buffer import FrameBuffer
from tailrace.schemas.errors import TailraceError

ABORT = "tailrace.abort"
"""The ASGI extension of our server that drops a connection together with its unsent data."""

WRITE = "tailrace.write"
"""The ASGI extension of our server that writes a piece without waiting: `write(piece)` returns whether it was taken."""

RETRY_MS = 1000
RETRY_SPREAD_MS = 2000
"""Readers reconnect after `RETRY_MS` to `RETRY_MS + RETRY_SPREAD_MS`, so that they do not all return at once."""

PIECE_BYTES = 32 * 1024
"""The largest piece written at once. The write timeout applies to each piece: a frame may be megabytes long."""

StreamEnd = Literal["ended", "left", "slow", "stopped", "broken"]
"""Why a stream ended: its requests ended, its reader left, its reader read nothing for too long, the gateway stopped,
or a request could no longer be followed."""


class StreamLimits(NamedTuple):
    """The limits of one stream."""

    heartbeat_s: float
    write_timeout_s: float
    buffer_bytes: int


Frames = AsyncGenerator[bytes, None]


class EventStream:
    """Writes the frames of its followers, each to its end, as one response.

    Args:
        followers: sources of frames; closed with the stream.
        limits: the limits of this stream.
        on_end: called with the reason when the stream has ended, and with the error if it is `broken`.
    """

    def __init__(
        self,
        followers: Sequence[Frames],
        limits: StreamLimits,
        on_end: Callable[[StreamEnd, TailraceError | None], None],
    ) -> None:
        self._followers = followers
        self._limits = limits
        self._on_end = on_end
        self._buffer = FrameBuffer(limits.buffer_bytes)
        self._end: StreamEnd = "ended"
        self._error: TailraceError | None = None
        self._idle = False

    def stop(self) -> None:
        """Ends the stream: writes the buffered frames, then a hint when to reconnect, here or at another gateway."""
        self._end_early("stopped")

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Sends the response."""
        self._beat()
        try:
            await send(response_start(200, sse.HEADERS))
            if extension := scope.get("extensions", {}).get(WRITE):
                self._buffer.write_now = partial(self._write_now, extension["write"])
            self._buffer.add_frame(sse.retry(spread_retry_ms()))
            async with asyncio.TaskGroup() as tasks:
                others = [tasks.create_task(self._follow()), tasks.create_task(self._watch_disconnect(receive))]
                await self._write(send)
                for task in others:
                    task.cancel()
        finally:
            self._buffer.write_now = None
            self._heartbeat.cancel()
            self._on_end(self._end, self._error)
        if self._end == "slow" and (extension := scope.get("extensions", {}).get(ABORT)):
            extension["abort"]()
            await asyncio.sleep(0)  # the server notices the lost connection before this returns

    async def _follow(self) -> None:
        try:
            async with asyncio.TaskGroup() as tasks:
                for frames in self._followers:
                    tasks.create_task(self._pass_on(frames))
        except* TailraceError as errors:
            self._error = next(error for error in errors.exceptions if isinstance(error, TailraceError))
            self._end_early("broken")
        else:
            self._buffer.close()

    async def _pass_on(self, frames: Frames) -> None:
        async with aclosing(frames):
            async for frame in frames:
                await self._buffer.put_frame(frame)

    async def _watch_disconnect(self, receive: Receive) -> None:
        while (await receive())["type"] != "http.disconnect":
            pass
        self._end = "left"
        self._buffer.close()

    def _write_now(self, write: Callable[[bytes], bool], piece: bytes) -> bool:
        if len(piece) > PIECE_BYTES or not write(piece):
            return False
        self._idle = False
        return True

    async def _write(self, send: Send) -> None:
        """Writes what `_write_now` could not, until the stream ends or the reader is too slow."""
        try:
            while (taken := await self._buffer.take_frames()) is not None and self._end != "left":
                for begin in range(0, len(taken), PIECE_BYTES):
                    self._idle = False
                    await self._send(send, taken[begin : begin + PIECE_BYTES])
            if self._end != "left":
                await self._send(send, b"", more=False)
        except TimeoutError:
            self._end = "slow"

    async def _send(self, send: Send, body: bytes, *, more: bool = True) -> None:
        async with asyncio.timeout(self._limits.write_timeout_s):
            await send({"type": "http.response.body", "body": body, "more_body": more})

    def _end_early(self, end: StreamEnd) -> None:
        """Ends the stream before its requests have ended; the reader is expected to reconnect."""
        self._end = end
        self._buffer.close(sse.retry(spread_retry_ms()))

    def _beat(self) -> None:
        """Runs twice per heartbeat interval and writes a comment if nothing was written since the last run."""
        if self._idle:
            self._buffer.add_frame(sse.HEARTBEAT)
        self._idle = True
        self._heartbeat = asyncio.get_running_loop().call_later(self._limits.heartbeat_s / 2, self._beat)


async def send_retry(send: Send, retry_ms: int) -> None:
    """Sends an event stream that contains only a hint when to reconnect.

    An `EventSource` gives up permanently on any status except 200, so this makes it try again later.
    """
    await send(response_start(200, sse.HEADERS))
    await send({"type": "http.response.body", "body": sse.retry(retry_ms), "more_body": False})


def response_start(status: int, headers: Mapping[str, str]) -> Message:
    """The ASGI message that begins a response."""
    return {
        "type": "http.response.start",
        "status": status,
        "headers": [(name.encode(), value.encode()) for name, value in headers.items()],
    }


def spread_retry_ms() -> int:
    """When to reconnect, random for each reader."""
    return RETRY_MS + random.randrange(RETRY_SPREAD_MS)  # noqa: S311 - not a secret
