"""What waits to be written to one reader: frames, bounded in bytes. Whoever follows a request waits when it is full.

A reader that falls behind so holds one buffer, and the tails behind it pause: nobody else waits for it.
"""

import asyncio
from collections.abc import Callable


class Outbox:
    """Frames on their way to one connection, from any number of followers to one writer.

    Args:
        limit_bytes: `put` waits while so much is there; one frame of each follower may go beyond it.

    Attributes:
        write_now: writes a piece at once if the connection takes it at once, and says whether; None where there is no
            such way. With it the writer is only woken for what it has to wait for.
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

    async def put(self, frame: bytes) -> None:
        """Adds a frame, and then waits until there is room for more.

        In this order, for a frame's event id may tell the places of other followers as well: had one of them a frame
        made and not added yet, the id would skip it.
        """
        self.add(frame)
        if self._bytes >= self._limit_bytes:
            await self._room.wait()

    def add(self, frame: bytes) -> None:
        """Adds a frame at once, full or not; after the end it is dropped."""
        if self._closed:
            return
        self._frames.append(frame)
        self._bytes += len(frame)
        if self._bytes >= self._limit_bytes:
            self._room.clear()
        if not self._writer_waits or self._flushes:
            return  # the writer looks before it waits
        if self.write_now is None:
            self._filled.set()
        else:
            self._flushes = True
            self._loop.call_soon(self._flush)

    def close(self, last: bytes = b"") -> None:
        """Nothing comes after what is there, and `last`."""
        if last:
            self.add(last)
        self._closed = True
        self._filled.set()

    async def take(self) -> bytes | None:
        """All that waits, in one piece, as soon as there is anything that was not written at once; None at the end."""
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
        """Writes what a wake-up of the followers has brought, all of it at once, unless the writer has it already."""
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
