"""The newest entries of one log, as they are pushed: passed to waiting readers, and buffered within bounds for others.

Pure: no clock, no socket, no task. For a position it returns the entries after it, or that the log must be read.
"""

from collections.abc import Sequence
from typing import Protocol

from tailrace.producers.store import RawEntry
from tailrace.schemas.ids import EntryId

BUFFER_ENTRIES = 512
BUFFER_BYTES = 256 * 1024
"""Bounds of the buffer. A reader that falls further behind reads the log, and does not slow down the others."""


class Reader(Protocol):
    """A reader; `position` is the last entry it had when it last asked."""

    position: EntryId

    def hand(self, run: Sequence[RawEntry]) -> bool:
        """Gives it the entries that follow its position, if it waits for them; returns whether it did."""
        ...

    def wake(self) -> None:
        """Wakes it, if it waits, to read again."""
        ...

    def tick(self) -> None:
        """Called at regular intervals."""
        ...


class Live:
    """All entries of one log after `floor` up to `seen`; both are None while the pushes do not continue the log.

    Args:
        shard: the number of the channel on which the log is pushed.

    Attributes:
        readers: the readers of the log; the fanout adds and removes them.
        epoch: grows whenever readers must check the log again.
        fresh: whether anything was pushed since this was last set to False.
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

    def entries_after(self, position: EntryId) -> Sequence[RawEntry] | None:
        """The entries after a position, empty if there are none yet; None if the log must be read."""
        if self.floor is None or position < self.floor:
            return None
        at = len(self._entries)
        while at and self._entries[at - 1].id > position:
            at -= 1
        return self._entries[at:]

    def wake(self) -> None:
        """Wakes every waiting reader."""
        for reader in self.readers:
            reader.wake()

    def start(self, position: EntryId) -> None:
        """Starts at a position after which every entry will be pushed."""
        self.floor = self.seen = position
        self._entries, self._bytes = [], 0

    def detach(self) -> None:
        """Notes that an entry after `seen` was not pushed: readers must read the log."""
        self.floor = self.seen = None
        self._entries, self._bytes = [], 0

    def lose(self) -> None:
        """As `detach`; and readers must check whether the log is still the same."""
        self.detach()
        self.epoch += 1

    def push(self, attempt: int, seq: int, entries: Sequence[bytes]) -> None:
        """Takes pushed entries that follow one another from `<attempt>-<seq>` on, and passes them to the readers.

        Entries that do not follow `seen` begin a new run: a reader before it reads the missing ones from the log. Each
        attempt begins a new run, since a push does not show where the attempt before it ended.
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
        """Hands a run that follows `seen` to the readers that wait there, and buffers it if another reader does not."""
        last = run[-1].id
        others = False
        for reader in self.readers:  # a plain loop is faster than all() or any(), and this runs for each delta
            if reader.position != seen or not reader.hand(run):
                others = True
        if not others:
            self.floor = self.seen = last
            if self._entries:
                self._entries, self._bytes = [], 0
            return
        if self._entries and self._is_read(seen):
            self.start(seen)  # no reader needs what is buffered
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
        """Drops the older half, and more while the rest is too large."""
        count = len(self._entries) // 2
        size = self._bytes - sum(len(entry.raw) for entry in self._entries[:count])
        while size > BUFFER_BYTES and count < len(self._entries):
            size -= len(self._entries[count].raw)
            count += 1
        if count:
            self.floor = self._entries[count - 1].id
            self._entries, self._bytes = self._entries[count:], size
