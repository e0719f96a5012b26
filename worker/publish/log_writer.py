"""The entries of one attempt on their way: numbered, counted against its limits, waiting for the next commit.

Knows no Redis command but the packed XADD, and nothing of other attempts: when a commit leaves is the publisher's.
"""

from collections import deque
from collections.abc import Callable, Sequence
from typing import Protocol

from tailrace.broker.keys import log_key, push_channel, push_shard, rec_key
from tailrace.schemas.errors import AttemptLost, LogFull, TailraceError
from tailrace.worker.publish.commit_line import xadd, xadd_prefix

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

    is_behind: bool
    """Whether more waits than a commit takes: readers should leave commits the time they need."""

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
        outlet: its publisher; of a cluster, another one once its log has moved.
        asking: as of `commit_line.Log`.
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
        self.log = log_key(request_id).encode()
        self.rec = rec_key(request_id)
        self.channel = push_channel(push_shard(request_id)).encode()
        self.attempt = attempt
        self.token = token
        self.seq = 0
        self.failed: TailraceError | None = None
        self.holds = holds
        self.asking = False
        self.outlet = outlet
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
        if self.failed is not None:
            self._check()
        seq = self.seq + 1
        size = len(entry)
        self._bytes_left -= size
        if seq > self._max_entries or self._bytes_left < 0:
            self._bytes_left = -1
            raise LogFull(f"the answer has more entries or bytes than a log takes ({self.seq:,} entries were written)")
        self.seq = seq
        self._unsent.append(entry)
        self.outlet.gather(self, size + OVERHEAD_BYTES)

    async def room(self) -> None:
        """Waits while the buffer of the process or of this request is full: the back-pressure of the upstream read."""
        if self.failed is None and self.outlet.is_full(self):
            self.outlet.pauses()
            while self.failed is None and self.outlet.is_full(self):
                await self.outlet.progress()
        self._check()

    async def flush(self) -> None:
        """Waits until all appended so far stands in Redis.

        Raises:
            AttemptLost: the lease ended, a later attempt began, or the log is gone.
            StoreError: Redis could not be written to for too long.
        """
        seq = self.seq
        while self._written < seq and self.failed is None:
            await self.outlet.progress()
        if self._written < seq:
            self._check()

    def close(self) -> None:
        """No more entries; what was not sent is dropped."""
        self.outlet.drop(self, AttemptLost("the writer is closed"))

    def take(self, entries: int, size: int) -> "WriterBatch":
        """The next batch: at most so many entries, and bytes up to `size` or one entry."""
        unsent, left = self._unsent, size
        first = self.seq - len(unsent) + 1
        taken: list[bytes] = []
        commands: list[bytes] = []
        while unsent and entries > len(taken) and left > 0:
            entry = unsent.popleft()
            commands.append(xadd(self._prefix, b"%d-%d" % (self.attempt, first + len(taken)), entry))
            taken.append(entry)
            left -= len(entry) + OVERHEAD_BYTES
        return WriterBatch(self, first, taken, commands, size - left)

    def untake(self, batch: "WriterBatch") -> None:
        """The batch taken last is not sent by who took it: what it has is again the next."""
        self._unsent.extendleft(reversed(batch.entries))

    def wrote(self, batch: "WriterBatch") -> None:
        """It stands in Redis."""
        self._written = batch.first + len(batch.entries) - 1
        if self.failed is None:  # otherwise nothing counts as buffered any more
            self.buffered_bytes -= batch.size

    def _check(self) -> None:
        if self.failed is not None:
            raise self.failed.with_context() from self.failed

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

    __slots__ = ("attempt", "commands", "entries", "first", "log", "size")

    def __init__(self, log: LogWriter, first: int, entries: list[bytes], commands: list[bytes], size: int) -> None:
        self.log = log
        self.attempt = log.attempt
        self.first = first
        self.entries: Sequence[bytes] = entries
        self.commands: Sequence[bytes] = commands
        self.size = size
