"""The writer of an attempt's entries, and the backlog that all writers of one publisher share.

Owns the order in which logs are served, the limits of the buffers, and the signals between writers and publisher. Knows
nothing of Redis, and does not decide when a commit is sent.
"""

import asyncio
from collections import deque
from collections.abc import Callable

from tailrace.schemas.errors import AttemptLost, TailraceError
from tailrace.worker.observe.counts import Counts
from tailrace.worker.publish.log_buffer import Batch, ByteCount, LogBuffer

MAX_COMMIT_ENTRIES = 4096
MAX_COMMIT_BYTES = 1024 * 1024
"""The largest commit, so that a backlog does not become one command that blocks the server for all clients."""


class Backlog:
    """The writers of one publisher, and which of them have entries that wait for the next commit.

    Args:
        max_bytes: unwritten bytes of all writers at which `wait_for_room` waits.
        max_log_bytes: the same for one writer.
        counts: those of this process.

    Attributes:
        writers: the open writers, by their buffers.
        bytes: bytes of all writers that Redis does not have.
        max_bytes: as given.
        max_log_bytes: as given, but at most `max_bytes`.
        is_behind: whether the last commit could not take everything: readers of model servers should leave time for it.
        awaited: how many tasks wait for the next commit to end.
    """

    def __init__(self, max_bytes: int, max_log_bytes: int, counts: Counts) -> None:
        self.writers: dict[LogBuffer, LogWriter] = {}
        self.bytes = ByteCount()
        self.is_behind = False
        self.awaited = 0
        self._log_limit = max_log_bytes
        self._backpressure = counts.backpressure
        self._waiting: deque[LogWriter] = deque()
        self._work = asyncio.Event()
        self._progress = asyncio.Event()
        self.set_limit(max_bytes)

    def set_limit(self, max_bytes: int) -> None:
        """Changes `max_bytes`."""
        self.max_bytes = max_bytes
        self.max_log_bytes = min(self._log_limit, max_bytes)

    def count_pause(self) -> None:
        """Counts a writer that begins to pause."""
        self._backpressure.value += 1

    def add_writer(self, writer: "LogWriter") -> None:
        """Serves a writer from now on."""
        self.writers[writer.buffer] = writer

    def remove_writer(self, writer: "LogWriter") -> None:
        """Stops serving a writer."""
        self.writers.pop(writer.buffer, None)
        if writer.is_waiting and writer in self._waiting:
            self._waiting.remove(writer)
        writer.is_waiting = False

    def fail_writer(self, log: LogBuffer, error: TailraceError) -> None:
        """Ends the writer of a log, if it is open."""
        if writer := self.writers.get(log):
            writer.fail(error)

    def enqueue(self, writer: "LogWriter") -> None:
        """Adds a writer's entries to the next commit."""
        writer.is_waiting = True
        if not self._waiting:  # otherwise the publisher is already awake
            self._work.set()
        self._waiting.append(writer)

    def enqueue_later(self, writer: "LogWriter", delay_s: float) -> None:
        """As `enqueue`, after a delay during which the writer takes part in no commit."""
        writer.is_waiting = True
        asyncio.get_running_loop().call_later(delay_s, self._enqueue_if_open, writer)

    def _enqueue_if_open(self, writer: "LogWriter") -> None:
        if writer.buffer in self.writers:
            self.enqueue(writer)

    def take_batches(self) -> list[Batch]:
        """The next commit: a batch of each waiting writer, the longest waiting first, until the commit is full."""
        batches: list[Batch] = []
        entries, size = MAX_COMMIT_ENTRIES, MAX_COMMIT_BYTES
        waiting = self._waiting
        share = max(1, entries // max(1, len(waiting)))
        for _ in range(len(waiting)):
            if entries <= 0 or size <= 0:
                break
            writer = waiting.popleft()
            batch = writer.buffer.take_batch(min(share, entries), size)
            entries -= len(batch.commands)
            size -= batch.size
            batches.append(batch)
            writer.is_waiting = writer.buffer.has_untaken
            if writer.is_waiting:
                waiting.append(writer)
        self.is_behind = bool(waiting)
        return batches

    async def wait_for_work(self) -> None:
        """Waits until a writer has entries for a commit."""
        await self._work.wait()
        self._work.clear()

    async def wait_for_progress(self) -> None:
        """Waits for the end of the next commit, or for the failure of a writer."""
        self.awaited += 1
        try:
            await self._progress.wait()
        finally:
            self.awaited -= 1

    def signal_progress(self) -> None:
        """Wakes the tasks that wait for progress."""
        ended, self._progress = self._progress, asyncio.Event()
        ended.set()


class LogWriter:
    """Appends the entries of one attempt to its log; made by `Publisher.open_writer`.

    Args:
        buffer: that of the attempt.
        backlog: that of the publisher that writes the log.
        lease_holds: whether the attempt's lease still holds, by a local clock.

    Attributes:
        backlog: that of its publisher; of another one after the log has moved to another node of a cluster.
        failed: why nothing more can be written, or None.
        is_waiting: whether its entries wait for a commit; the backlog sets it.
    """

    def __init__(self, buffer: LogBuffer, backlog: Backlog, lease_holds: Callable[[], bool]) -> None:
        self.buffer = buffer
        self.backlog = backlog
        self.lease_holds = lease_holds
        self.failed: TailraceError | None = None
        self.is_waiting = False
        backlog.add_writer(self)

    @property
    def seq(self) -> int:
        """The seq of the entry appended last; 0 is the attempt's first entry, which `begin` wrote."""
        return self.buffer.seq

    def append_entry(self, entry: bytes) -> None:
        """Appends an entry under the next id. Returns at once; the entry is sent with the next commit.

        Raises:
            LogFull: the attempt has reached its maximum of entries or bytes. The entries before it are still written.
            AttemptLost, StoreError: the writer has failed before.
        """
        if self.failed is not None:
            self._raise_failure()
        self.buffer.add_entry(entry)
        if not self.is_waiting:
            self.backlog.enqueue(self)

    def is_full(self) -> bool:
        """Whether `wait_for_room` would wait."""
        backlog = self.backlog
        return backlog.bytes.value >= backlog.max_bytes or self.buffer.buffered_bytes >= backlog.max_log_bytes

    async def wait_for_room(self) -> None:
        """Waits while the buffer of the process or of this request is full. This is the model server's back-pressure.

        Raises:
            AttemptLost, StoreError: the writer has failed.
        """
        if self.failed is None and self.is_full():
            self.backlog.count_pause()
            while self.failed is None and self.is_full():
                await self.backlog.wait_for_progress()
        self._raise_failure()

    async def flush(self) -> None:
        """Waits until Redis has everything that was appended so far.

        Raises:
            AttemptLost: the lease ended, a later attempt began, or the log is gone.
            StoreError: Redis could not be written to for too long.
        """
        buffer, seq = self.buffer, self.buffer.seq
        while buffer.written_seq < seq and self.failed is None:
            await self.backlog.wait_for_progress()
        if buffer.written_seq < seq:
            self._raise_failure()

    def close(self) -> None:
        """Ends the writer. Entries that were not sent are discarded."""
        self.fail(AttemptLost("the writer is closed"))

    def fail(self, error: TailraceError) -> None:
        """Ends the writer with this error, which all later calls raise. Does nothing if it has ended before."""
        if self.failed is None:
            self.failed = error
            self.buffer.discard()
            self.backlog.remove_writer(self)
            self.backlog.signal_progress()

    def move_to(self, backlog: Backlog) -> None:
        """Lets another publisher serve this writer from now on."""
        self.backlog.remove_writer(self)
        self.backlog = backlog
        self.buffer.count_in(backlog.bytes)
        backlog.add_writer(self)
        backlog.enqueue(self)

    def _raise_failure(self) -> None:
        if self.failed is not None:
            raise self.failed.with_context() from self.failed
