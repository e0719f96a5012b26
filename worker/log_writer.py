"""The entries of one attempt on their way: numbered, counted against its limits, waiting for the next commit.

Knows no Redis command but the packed XADD, and nothing of other attempts: when a commit leaves is the publisher's.
"""

from collections import deque
from collections.abc import Callable, Sequence
from typing import Protocol

from schemas.errors import AttemptLost, LogFull, TailraceError
from schemas.ids import EntryId
from schemas.keys import log_key, rec_key
from schemas.push import channel, shard
from worker.commit_line import xadd, xadd_prefix

OVERHEAD_BYTES = 100
"""What an entry counts beside its own bytes: about those of its command."""


class Outlet(Protocol):
    """What a writer needs of the publisher, which says what each means."""

    def gather(self, writer: "LogWriter", size: int) -> None:
        """A writer has taken an entry of `size` bytes."""
        ...

    def is_full(self, writer: "LogWriter") -> bool:
        """Whether this writer should pause."""
        ...

    def pauses(self) -> None:
        """A writer begins to pause."""
        ...

    async def progress(self) -> None:
        """Waits for the end of the next commit, or for the failure of a writer."""
        ...

    def drop(self, writer: "LogWriter", why: TailraceError) -> None:
        """Ends a writer."""
        ...


class LogWriter:
    """Appends the entries of one attempt to its log; made by `Publisher.open`.

    Attributes:
        seq: of the entry appended last; 0 is the attempt's first entry, which `begin` wrote.
        failed: why nothing more can be written, or None.
    """

    def __init__(
        self,
        outlet: Outlet,
        request_id: str,
        attempt: int,
        token: str,
        holds: Callable[[], bool],
        limits: tuple[int, int],
    ) -> None:
        self.request_id = request_id
        self.log = log_key(request_id)
        self.rec = rec_key(request_id)
        self.channel = channel(shard(request_id))
        self.attempt = attempt
        self.token = token
        self.seq = 0
        self.failed: TailraceError | None = None
        self.holds = holds
        self._outlet = outlet
        self._prefix = xadd_prefix(self.log)
        self._max_entries, self._bytes_left = limits
        self._unsent: deque[bytes] = deque()
        self._written = 0
        self.buffered_bytes = 0
        self.listed = False

    def append(self, entry: bytes) -> None:
        """Takes an entry under the next id. Returns at once; it travels with the next commit.

        Raises:
            LogFull: the attempt has reached its maximum of entries or bytes; what was appended still goes out.
            AttemptLost, StoreError: the writer has failed before.
        """
        self._check()
        seq = self.seq + 1
        self._bytes_left -= len(entry)
        if seq > self._max_entries or self._bytes_left < 0:
            self._bytes_left = -1
            raise LogFull(f"the answer has more entries or bytes than a log takes ({self.seq:,} entries were written)")
        self.seq = seq
        self._unsent.append(entry)
        self._outlet.gather(self, len(entry) + OVERHEAD_BYTES)

    async def room(self) -> None:
        """Waits while the buffer of the process or of this request is full: the back-pressure of the upstream read."""
        if self.failed is None and self._outlet.is_full(self):
            self._outlet.pauses()
            while self.failed is None and self._outlet.is_full(self):
                await self._outlet.progress()
        self._check()

    async def flush(self) -> None:
        """Waits until all appended so far stands in Redis.

        Raises:
            AttemptLost: the lease ended, a later attempt began, or the log is gone.
            StoreError: Redis could not be written to for too long.
        """
        seq = self.seq
        while self._written < seq and self.failed is None:
            await self._outlet.progress()
        if self._written < seq:
            self._check()

    def close(self) -> None:
        """No more entries; what was not sent is dropped."""
        self._outlet.drop(self, AttemptLost("the writer is closed"))

    def take(self, entries: int, size: int) -> "WriterBatch":
        """The next batch: at most so many entries, and bytes up to `size` or one entry."""
        taken: list[bytes] = []
        while self._unsent and entries > len(taken) and size > 0:
            entry = self._unsent.popleft()
            taken.append(entry)
            size -= len(entry) + OVERHEAD_BYTES
        last = self.seq - len(self._unsent)
        numbered = enumerate(taken, last + 1 - len(taken))
        commands = [xadd(self._prefix, b"%d-%d" % (self.attempt, seq), entry) for seq, entry in numbered]
        return WriterBatch(self, taken, commands, EntryId(self.attempt, last))

    def wrote(self, last: EntryId) -> None:
        """All up to here stands in Redis."""
        self._written = last.seq

    def _check(self) -> None:
        if self.failed is not None:
            raise type(self.failed)(str(self.failed)) from self.failed

    @property
    def unwritten(self) -> int:
        """Entries that Redis does not have yet, as far as we know."""
        return self.seq - self._written

    @property
    def has_unsent(self) -> bool:
        """Whether entries wait for the next commit."""
        return bool(self._unsent)

    def discard(self) -> None:
        """Drops what was not sent."""
        self._unsent.clear()


class WriterBatch:
    """What one commit writes into one log. It stays as it is when it is sent again: Redis then knows it by its ids."""

    __slots__ = ("channel", "commands", "entries", "last", "log", "request_id", "size", "writer")

    def __init__(self, writer: LogWriter, entries: list[bytes], commands: list[bytes], last: EntryId) -> None:
        self.writer = writer
        self.request_id = writer.request_id
        self.log = writer.log
        self.channel = writer.channel
        self.entries: Sequence[bytes] = entries
        self.commands: Sequence[bytes] = commands
        self.last = last
        self.size = sum(map(len, entries)) + len(entries) * OVERHEAD_BYTES
