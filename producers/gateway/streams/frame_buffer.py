"""The frames that wait to be written to one reader, bounded in bytes. Knows nothing of requests or of HTTP.

When the buffer is full, the tails that fill it pause. A slow reader therefore costs one buffer and delays no other.
"""

import asyncio
from collections.abc import Callable


class FrameBuffer:
    """Frames for one connection, from any number of followers to one writer.

    Args:
        limit_bytes: `put_frame` waits while this much is buffered; one frame of each follower may exceed it.

    Attributes:
        write_now: writes a piece without waiting if the connection can take it, and returns whether it did; None if
            the server offers no such way. With it the writer is woken only when it has to wait for the connection.
    """

    def __init__(self, limit_bytes: int) -> None:
        self._limit_bytes = limit_bytes
        self._frames: list[bytes] = []
        self._bytes = 0
        self._filled = asyncio.Event()
        self._room = asyncio.Event()
        self._room.set()
        self._closed = False
        self._writer_waits = False
        self._flushes = False
        self._loop = asyncio.get_running_loop()
        self.write_now: Callable[[bytes], bool] | None = None

    async def put_frame(self, frame: bytes) -> None:
        """Adds a frame, then waits until there is room for more.

        The order matters. A frame's event id may contain the positions of other followers too: if one of them had made
        a frame but not added it yet, the id would skip that frame.
        """
        self.add_frame(frame)
        if self._bytes >= self._limit_bytes:
            await self._room.wait()

    def add_frame(self, frame: bytes) -> None:
        """Adds a frame at once, even if the buffer is full. After `close` the frame is dropped."""
        if self._closed:
            return
        self._frames.append(frame)
        self._bytes += len(frame)
        if self._bytes >= self._limit_bytes:
            self._room.clear()
        if not self._writer_waits or self._flushes:
            return  # the writer checks the buffer before it waits
        if self.write_now is None:
            self._filled.set()
        else:
            self._flushes = True
            self._loop.call_soon(self._flush)

    def close(self, last: bytes = b"") -> None:
        """Ends the buffer after the frames in it and `last`."""
        if last:
            self.add_frame(last)
        self._closed = True
        self._filled.set()

    async def take_frames(self) -> bytes | None:
        """Waits for frames that `write_now` has not written and returns them joined; None at the end."""
        while not self._frames:
            if self._closed:
                return None
            self._filled.clear()
            self._writer_waits = True
            try:
                await self._filled.wait()
            finally:
                self._writer_waits = False
        taken = b"".join(self._frames)
        self._empty()
        return taken

    def _flush(self) -> None:
        """Writes the frames of one wake-up of the followers in one piece, unless the writer has taken them already."""
        self._flushes = False
        if not self._writer_waits or not self._frames or self.write_now is None:
            return
        if self.write_now(b"".join(self._frames)):
            self._empty()
        else:
            self._filled.set()

    def _empty(self) -> None:
        self._frames.clear()
        self._bytes = 0
        self._room.set()
