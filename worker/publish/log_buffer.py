"""The entries of one attempt that Redis does not have yet: numbered, limited, and packed into batches.

Owns the entries and the counts of their bytes. Pure: knows no connection, no task and no clock, and no other attempt.
"""

from collections import deque

from tailrace.broker.keys import log_key, push_channel, push_shard, rec_key
from tailrace.schemas.errors import LogFull

OVERHEAD_BYTES = 100
"""Bytes that are counted for an entry in addition to its own: about the size of the command around it."""


_PREFIX = b"*6\r\n$4\r\nXADD\r\n$%d\r\n%b\r\n$10\r\nNOMKSTREAM\r\n"
_COMMAND = b"%b$%d\r\n%b\r\n$1\r\ne\r\n$%d\r\n%b\r\n"
"""XADD with an explicit id, and the part of it that is the same for every entry of a log (RESP2, Redis serialization
protocol). It is rendered here because redis-py's packing costs more than the whole commit."""


class ByteCount:
    """A sum of bytes over several buffers, which add to it themselves."""

    __slots__ = ("value",)

    def __init__(self) -> None:
        self.value = 0


class LogBuffer:
    """The buffer of one attempt's log.

    Args:
        request_id: the request.
        attempt: the attempt's number.
        token: the token of the attempt's owner, as in the record.
        max_entries: how many entries the attempt may write.
        max_bytes: how many bytes these may have.
        total: the sum over all buffers of a publisher.

    Attributes:
        key: the key of the log.
        record_key: the key of the request's record.
        channel: where readers receive new entries.
        seq: the seq of the entry added last; 0 is the attempt's first entry, which `begin` wrote.
        buffered_bytes: bytes that are not written yet, overhead included.
        asking: whether the commands need an `ASKING` before them: the slot is moving to the node they are sent to.
    """

    def __init__(
        self, request_id: str, attempt: int, token: str, *, max_entries: int, max_bytes: int, total: ByteCount
    ) -> None:
        self.request_id = request_id
        self.attempt = attempt
        self.token = token
        self.key = log_key(request_id).encode()
        self.record_key = rec_key(request_id).encode()
        self.channel = push_channel(push_shard(request_id)).encode()
        self.seq = 0
        self.buffered_bytes = 0
        self.asking = False
        self._prefix = _PREFIX % (len(self.key), self.key)
        self._max_entries, self._bytes_left = max_entries, max_bytes
        self._total = total
        self._untaken: deque[bytes] = deque()
        self._written_seq = 0
        self._is_discarded = False

    def add_entry(self, entry: bytes) -> None:
        """Adds an entry under the next id.

        Raises:
            LogFull: the attempt has reached its maximum of entries or bytes. The entries before it are still written.
        """
        seq = self.seq + 1
        size = len(entry)
        self._bytes_left -= size
        if seq > self._max_entries or self._bytes_left < 0:
            self._bytes_left = -1
            raise LogFull(f"the answer has more entries or bytes than a log takes ({self.seq:,} entries were written)")
        self.seq = seq
        self._untaken.append(entry)
        size += OVERHEAD_BYTES
        self.buffered_bytes += size
        self._total.value += size

    def take_batch(self, entries: int, size: int) -> "Batch":
        """Takes the next batch. The next call continues after it.

        Args:
            entries: the maximum number of entries.
            size: the maximum of bytes, overhead included; a single entry may be larger.
        """
        untaken, prefix, left = self._untaken, self._prefix, size
        first = seq = self.seq - len(untaken) + 1
        end = first + entries
        taken: list[bytes] = []
        commands: list[bytes] = []
        while untaken and seq < end and left > 0:
            entry = untaken.popleft()
            entry_id = b"%d-%d" % (self.attempt, seq)
            length = len(entry)
            commands.append(_COMMAND % (prefix, len(entry_id), entry_id, length, entry))
            taken.append(entry)
            left -= length + OVERHEAD_BYTES
            seq += 1
        return Batch(self, first, taken, commands, size - left)

    def give_back(self, batch: "Batch") -> None:
        """Undoes the last `take_batch`, whose batch was not written."""
        if not self._is_discarded:
            self._untaken.extendleft(reversed(batch.entries))

    def mark_written(self, batch: "Batch") -> None:
        """Marks the entries of this batch as written to Redis."""
        self._written_seq = batch.first + len(batch.entries) - 1
        if not self._is_discarded:
            self.buffered_bytes -= batch.size
            self._total.value -= batch.size

    def discard(self) -> None:
        """Drops the entries that are not written; they are no longer counted."""
        self._is_discarded = True
        self._untaken.clear()
        self._total.value -= self.buffered_bytes
        self.buffered_bytes = 0

    def count_in(self, total: ByteCount) -> None:
        """Adds the bytes to the sum of another publisher from now on."""
        self._total.value -= self.buffered_bytes
        total.value += self.buffered_bytes
        self._total = total

    @property
    def written_seq(self) -> int:
        """The seq of the last entry that Redis is known to have."""
        return self._written_seq

    @property
    def unwritten_entries(self) -> int:
        """Entries that Redis is not known to have."""
        return self.seq - self._written_seq

    @property
    def has_untaken(self) -> bool:
        """Whether there are entries that are in no batch yet."""
        return bool(self._untaken)


class Batch:
    """What one commit writes into one log, all or nothing.

    It is sent again unchanged, so that Redis recognizes its ids.

    Attributes:
        log: the buffer it comes from.
        first: the seq of its first entry; the others follow without gaps.
        entries: the entries as readers receive them.
        commands: a packed XADD for each.
        size: bytes of the entries, overhead included.
    """

    __slots__ = ("commands", "entries", "first", "log", "size")

    def __init__(self, log: LogBuffer, first: int, entries: list[bytes], commands: list[bytes], size: int) -> None:
        self.log = log
        self.first = first
        self.entries = entries
        self.commands = commands
        self.size = size
