"""The live part of one log, as it is pushed: a bounded run of entries without a hole, and the readers it is kept for.

Pure: no clock, no socket, no task. Says of a position what stands behind it here, or that the log has to be read.
"""

from collections.abc import Sequence
from typing import Protocol

from producers.store import RawEntry
from schemas.ids import EntryId

BUFFER_ENTRIES = 512
BUFFER_BYTES = 256 * 1024
"""What is kept for the slowest reader of a request. One that is further behind reads the log, and hinders nobody."""


class Reader(Protocol):
    """Who reads here: how far it has come, as it said when it last asked."""

    position: EntryId

    def wake(self) -> None:
        """There is something to look at, for one that waits."""
        ...

    def tick(self) -> None:
        """Some time has passed."""
        ...


class Live:
    """Entries of one log behind `floor` up to `seen`, each there; both None while what is pushed does not join on.

    Args:
        shard: on whose channel it is pushed.

    Attributes:
        readers: those who follow the log; whoever makes one adds it.
        epoch: grows whenever something may be amiss that a reader has to look into.
        fresh: whether anything was pushed since this was set to False.
    """

    __slots__ = ("_bytes", "_entries", "epoch", "floor", "fresh", "readers", "seen", "shard")

    def __init__(self, shard: int) -> None:
        self.shard = shard
        self.readers: list[Reader] = []
        self.epoch = 0
        self.fresh = True
        self.floor: EntryId | None = None
        self.seen: EntryId | None = None
        self._entries: list[RawEntry] = []
        self._bytes = 0

    def behind(self, position: EntryId) -> Sequence[RawEntry] | None:
        """The entries behind a position, none when there are none yet; None when the log has to be read."""
        if self.floor is None or position < self.floor:
            return None
        at = len(self._entries)
        while at and self._entries[at - 1].id > position:
            at -= 1
        return self._entries[at:]

    def wake(self) -> None:
        """Wakes every reader that waits."""
        for reader in self.readers:
            reader.wake()

    def start(self, position: EntryId) -> None:
        """Begins here: whatever comes behind `position` will be pushed."""
        self.floor = self.seen = position
        self._entries, self._bytes = [], 0

    def detach(self) -> None:
        """Something behind `seen` was not pushed: readers have to read the log."""
        self.floor = self.seen = None
        self._entries, self._bytes = [], 0

    def lose(self) -> None:
        """As `detach`; and readers have to look whether the log is still the same."""
        self.detach()
        self.epoch += 1

    def push(self, attempt: int, seq: int, entries: Sequence[bytes]) -> bool:
        """Takes entries that follow one another from `<attempt>-<seq>` on; whether any of them is new.

        What does not follow on `seen` begins a new run: a reader before it reads from the log what lies between. So
        does each new attempt, since nothing says where the one before has ended.
        """
        self.fresh = True
        seen = self.seen
        if seen is None or attempt > seen.attempt or (attempt == seen.attempt and seq > seen.seq + 1):
            self.start(EntryId(attempt, seq - 1))
        elif attempt < seen.attempt:
            return False
        elif seq <= seen.seq:
            known = seen.seq + 1 - seq
            if known >= len(entries):
                return False
            entries, seq = entries[known:], seq + known
        elif self._entries and self._is_read(seen):
            self.start(seen)  # nobody needs what was kept
        for raw in entries:
            self._entries.append(RawEntry(EntryId(attempt, seq), raw))
            self._bytes += len(raw)
            seq += 1
        self.seen = self._entries[-1].id
        if len(self._entries) > BUFFER_ENTRIES or self._bytes > BUFFER_BYTES:
            self._shrink()
        return True

    def _is_read(self, seen: EntryId) -> bool:
        for reader in self.readers:  # not all(): this is done for each delta
            if reader.position < seen:
                return False
        return True

    def _shrink(self) -> None:
        """Lets go of the older half, and of more while that is too much."""
        count = len(self._entries) // 2
        size = self._bytes - sum(len(entry.raw) for entry in self._entries[:count])
        while size > BUFFER_BYTES and count < len(self._entries):
            size -= len(self._entries[count].raw)
            count += 1
        if count:
            self.floor = self._entries[count - 1].id
            self._entries, self._bytes = self._entries[count:], size
