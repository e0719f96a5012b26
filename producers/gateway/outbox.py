"""What waits to be written to one reader: frames, bounded in bytes. Whoever follows a request waits when it is full.

A reader that falls behind so holds one buffer, and the tails behind it pause: nobody else waits for it.
"""

import asyncio


class Outbox:
    """Frames on their way to one connection, from any number of followers to one writer.

    Args:
        limit_bytes: `put` waits while so much is there; one frame of each follower may go beyond it.
    """

    def __init__(self, limit_bytes: int) -> None:
        self._limit_bytes = limit_bytes
        self._frames: list[bytes] = []
        self._bytes = 0
        self._filled = asyncio.Event()
        self._room = asyncio.Event()
        self._room.set()
        self._closed = False

    async def put(self, frame: bytes) -> None:
        """Adds a frame, and then waits until there is room for more.

        In this order, for a frame's event id may tell the places of other followers as well: had one of them a frame
        made and not added yet, the id would skip it.
        """
        self.add(frame)
        await self._room.wait()

    def add(self, frame: bytes) -> None:
        """Adds a frame at once, full or not; after the end it is dropped."""
        if self._closed:
            return
        self._frames.append(frame)
        self._bytes += len(frame)
        if self._bytes >= self._limit_bytes:
            self._room.clear()
        self._filled.set()

    def close(self, last: bytes = b"") -> None:
        """Nothing comes after what is there, and `last`."""
        if last:
            self.add(last)
        self._closed = True
        self._filled.set()

    async def take(self) -> bytes | None:
        """All that waits, in one piece, as soon as there is anything; None at the end."""
        await self._filled.wait()
        if not self._frames:
            return None
        taken = self._frames[0] if len(self._frames) == 1 else b"".join(self._frames)
        self._frames.clear()
        self._bytes = 0
        self._room.set()
        if not self._closed:
            self._filled.clear()
        return taken
