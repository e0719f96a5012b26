"""The live part of one log, as it is pushed: handed to readers that wait for it, kept within bounds for the others.

Pure: no clock, no socket, no task. Says of a position what stands behind it here, or that the log has to be read.
"""

from collections.abc import Sequence
from typing import Protocol

from tailrace.producers.store import RawEntry
from tailrace.schemas.ids import EntryId

BUFFER_ENTRIES = 512
BUFFER_BYTES = 256 * 1024
"""What is kept for the slowest reader of a request. One that is further behind reads the log, and hinders nobody."""


class Reader(Protocol):
    """Who reads here: how far it has come, as it said when it last asked."""

    position: EntryId

    def hand(self, run: Sequence[RawEntry]) -> bool:
        """Takes what follows on its position, if it waits for that; whether it did."""
        ...

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

    def push(self, attempt: int, seq: int, entries: Sequence[bytes]) -> None:
        """Takes entries that follow one another from `<attempt>-<seq>` on, and sees to it that every reader gets them.

        What does not follow on `seen` begins a new run: a reader before it reads from the log what lies between. So
        does each new attempt, since nothing says where the one before has ended.
        """
        self.fresh = True
        seen = self.seen
        if seen is not None and attempt == seen.attempt and seq <= seen.seq:
            entries, seq = entries[seen.seq + 1 - seq :], seen.seq + 1
        if not entries or (seen is not None and attempt < seen.attempt):
            return
        run: list[RawEntry] = []
        first = seq
        for raw in entries:
            run.append(RawEntry(EntryId(attempt, seq), raw))
            seq += 1
        if seen is not None and attempt == seen.attempt and first == seen.seq + 1:
            self._pass_on(run, seen)
        else:
            self.start(EntryId(attempt, first - 1))
            self._keep(run)
            self.wake()

    def _pass_on(self, run: list[RawEntry], seen: EntryId) -> None:
        """Hands a run that follows on `seen` to whoever waits there, and keeps it where one does not."""
        last = run[-1].id
        others = False
        for reader in self.readers:  # neither all() nor any(): this is done for each delta
            if reader.position != seen or not reader.hand(run):
                others = True
        if not others:
            self.floor = self.seen = last
            if self._entries:
                self._entries, self._bytes = [], 0
            return
        if self._entries and self._is_read(seen):
            self.start(seen)  # nobody needs what was kept
        self._keep(run)
        self.wake()

    def _keep(self, run: list[RawEntry]) -> None:
        self.seen = run[-1].id
        self._entries += run
        for entry in run:
            self._bytes += len(entry.raw)
        if len(self._entries) > BUFFER_ENTRIES or self._bytes > BUFFER_BYTES:
            self._shrink()

    def _is_read(self, seen: EntryId) -> bool:
        for reader in self.readers:
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
