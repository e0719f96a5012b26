"""Group commit: the entries of all running attempts of this process, with one round trip to Redis in flight.

What gathers while a commit travels goes with the next one, so reading a model never waits for Redis and a lone entry
leaves at once. Owns the order of writers, fencing before each commit, and sending again. Knows no Redis command and
nothing of what the entries say. An entry costs no task, no future and no lock.
"""

import asyncio
import logging
from collections import deque
from collections.abc import Callable, Sequence
from time import monotonic
from types import TracebackType
from typing import Protocol, Self

from tailrace.broker.backoff import Backoff
from tailrace.broker.time_limits import PATIENCE_S
from tailrace.schemas.errors import AttemptLost, StoreFull, StoreUnavailable, TailraceError
from tailrace.telemetry import metrics
from tailrace.telemetry.logging import fields
from tailrace.telemetry.metric_samples import MetricSample
from tailrace.worker.observe.counts import Counts
from tailrace.worker.publish.commit_line import Batch, Elsewhere, Fence
from tailrace.worker.publish.commit_spacing import Pace
from tailrace.worker.publish.log_writer import LogWriter, WriterBatch

MAX_COMMIT_ENTRIES = 4096
MAX_COMMIT_BYTES = 1024 * 1024
"""A commit stops growing here, so that a backlog does not become one command that blocks the server for all."""

REQUEST_BUFFER_BYTES = 4 * 1024 * 1024
RETRY = Backoff(base_s=0.02, cap_s=0.5)

_logger = logging.getLogger("tailrace.publisher")


class Line(Protocol):
    """What carries a commit; `CommitLine` says what is returned and raised."""

    async def commit(self, batches: Sequence[Batch]) -> list[TailraceError | None]:
        """Writes all batches in one round trip, each all or nothing."""
        ...

    def push(self) -> None:
        """Tells those who follow live what the last commit has written."""
        ...

    async def standing(self, fences: Sequence[Fence]) -> list[bool | Elsewhere]:
        """Which of these attempts the server still knows as begun."""
        ...

    async def close(self) -> None:
        """Closes the connection."""
        ...


class Peers(Protocol):
    """The publishers of all nodes of a cluster, of which one asks who goes on with a log that its node has not."""

    def instead(self, writer: LogWriter, why: Elsewhere) -> "Publisher":
        """Whose the log of a writer is, of which a node has said who has it."""
        ...

    async def learn(self) -> None:
        """Asks for the map anew; where that fails it stays as it was."""
        ...

    def of(self, log: bytes) -> "Publisher":
        """Whose a log is by the map."""
        ...


class Publisher:
    """The one publisher of a process, or of one node of a cluster. `async with` runs it.

    Args:
        line: carries the commits.
        buffer_bytes: unsent bytes of the process at which `room` waits.
        request_buffer_bytes: the same for one request.
        max_entries: of one attempt.
        max_bytes: of one attempt's entries.
        patience_s: how long a commit is sent again before its writers fail.
        counts: of this process.
        peers: the publishers of a cluster's nodes, of which this is one.
    """

    def __init__(
        self,
        line: Line,
        *,
        buffer_bytes: int,
        max_entries: int,
        max_bytes: int,
        request_buffer_bytes: int = REQUEST_BUFFER_BYTES,
        patience_s: float = PATIENCE_S,
        counts: Counts | None = None,
        peers: Peers | None = None,
    ) -> None:
        self._line = line
        self._peers = peers
        self._request_buffer_bytes = request_buffer_bytes
        self._buffer_bytes = buffer_bytes
        self._own_buffer_bytes = min(request_buffer_bytes, buffer_bytes)
        self._limits = (max_entries, max_bytes)
        self._patience_s = patience_s
        self._counts = counts or Counts()
        self._waiting: deque[LogWriter] = deque()
        self._open: set[LogWriter] = set()
        self._away = False
        self._doubtful: set[LogWriter] = set()  # open while the connection was lost: what comes back may know less
        self._work = asyncio.Event()
        self._progress = asyncio.Event()
        self._task: asyncio.Task[None] | None = None
        self._waits_since: float | None = None
        self._pace = Pace()
        self.is_behind = False
        """More waited than the last commit could take: readers should leave commits the time they need."""
        self._awaited = 0
        self.buffered_bytes = 0
        self.commits = 0

    def open(self, request_id: str, attempt: int, token: str, holds: Callable[[], bool]) -> LogWriter:
        """A writer for an attempt that has begun.

        Args:
            request_id: whose log.
            attempt: its number.
            token: the owner's, as `begin` was given it.
            holds: whether the attempt's lease still stands, by a local clock; asked before each commit.

        Raises:
            StoreUnavailable: the publisher does not run.
        """
        if self._task is None or self._task.done():
            raise StoreUnavailable("the publisher does not run")
        writer = LogWriter(self, request_id, attempt, token, holds, self._limits)
        self._open.add(writer)
        if self._away:
            self._doubtful.add(writer)
        return writer

    @property
    def writers(self) -> int:
        """Writers that are open."""
        return len(self._open)

    def metric_samples(self) -> list[MetricSample]:
        """What waits to be written."""
        entries = sum(writer.unwritten for writer in self._open)
        return [
            MetricSample(metrics.BACKLOG_BYTES.name, (), self.buffered_bytes),
            MetricSample(metrics.BACKLOG_ENTRIES.name, (), entries),
        ]

    async def __aenter__(self) -> Self:
        self.start()
        return self

    def start(self) -> None:
        """Runs it; `stop` ends it."""
        self._task = asyncio.create_task(self._run(), name="publisher")

    @property
    def task(self) -> asyncio.Task[None]:
        """What runs it. It ends by itself only by a fault of ours, so whoever composes the process watches it."""
        if self._task is None:
            raise StoreUnavailable("the publisher does not run")
        return self._task

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await self.stop()

    async def stop(self) -> None:
        """Ends it; its writers fail."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.wait({self._task})
        await self._line.close()

    def is_full(self, writer: LogWriter) -> bool:
        """Whether this writer should pause."""
        return self.buffered_bytes >= self._buffer_bytes or writer.buffered_bytes >= self._own_buffer_bytes

    def share(self, buffer_bytes: int) -> None:
        """At so many unsent bytes of its writers `room` waits from now on."""
        self._buffer_bytes = buffer_bytes
        self._own_buffer_bytes = min(self._request_buffer_bytes, buffer_bytes)

    def pauses(self) -> None:
        """A writer begins to pause."""
        self._counts.backpressure.value += 1

    async def progress(self) -> None:
        """Waits for the end of the next commit, or for the failure of a writer."""
        self._awaited += 1
        try:
            await self._progress.wait()
        finally:
            self._awaited -= 1

    def gather(self, writer: LogWriter, size: int) -> None:
        """A writer has taken an entry of `size` bytes."""
        writer.buffered_bytes += size
        self.buffered_bytes += size
        if not writer.listed:
            writer.listed = True
            self._waiting.append(writer)
            self._work.set()

    def drop(self, writer: LogWriter, why: TailraceError) -> None:
        """Ends a writer: its unsent entries are dropped, whoever waits for it hears why."""
        self._open.discard(writer)
        self._doubtful.discard(writer)
        if writer.failed is None:
            writer.failed = why
            writer.discard()
            self.buffered_bytes -= writer.buffered_bytes
            writer.buffered_bytes = 0
            self._tell()

    async def _run(self) -> None:
        try:
            while True:
                await self._work.wait()
                self._work.clear()
                while batches := self._next_commit():
                    began = monotonic()
                    await self._commit(batches)
                    self._tell()
                    pause_s = self._pace.pause_s(began, monotonic(), sum(len(batch.entries) for batch in batches))
                    if pause_s and not self.is_behind and not self._awaited:
                        self._line.push()
                        await asyncio.sleep(pause_s)
                self._line.push()
        finally:
            for writer in tuple(self._open):
                self.drop(writer, StoreUnavailable("the publisher has ended"))

    def _next_commit(self) -> list[WriterBatch]:
        """A batch of each writer that waits, the longest waiting first, up to a commit's size."""
        batches: list[WriterBatch] = []
        entries, size = MAX_COMMIT_ENTRIES, MAX_COMMIT_BYTES
        share = max(1, entries // max(1, len(self._waiting)))
        for _ in range(len(self._waiting)):
            if entries <= 0 or size <= 0:
                break
            writer = self._waiting.popleft()
            batch = writer.take(min(share, entries), size)
            entries -= len(batch.commands)
            size -= batch.size
            if batch.commands:
                batches.append(batch)
            writer.listed = writer.has_unsent
            if writer.listed:
                self._waiting.append(writer)
        self.is_behind = bool(self._waiting)
        return batches

    async def _commit(self, batches: list[WriterBatch]) -> None:
        """Writes the batches, sending again what is left as long as that may help."""
        end = monotonic() + self._patience_s
        tries = 0
        while batches := [batch for batch in batches if self._may_write(batch.log)]:
            results = await self._send(batches)
            self.commits += 1
            if self._waits_since is None and not any(results):
                for batch in batches:
                    self._wrote(batch)
                return
            self._say(results)
            tries += 1
            pause_s = RETRY.pause_s(tries)
            over = monotonic() + pause_s > end
            batches = [batch for batch, why in zip(batches, results, strict=True) if not self._settle(batch, why, over)]
            if batches:
                await asyncio.sleep(pause_s)
                batches = await self._still_ours(batches)

    async def _send(self, batches: list[WriterBatch]) -> list[TailraceError | None]:
        """One try at a commit: for each batch None when it stands in its log, or why not."""
        try:
            left = batches if not self._doubtful else await self._not_lost(batches)
            results = await self._round_trip(left) if left else []
        except StoreUnavailable as error:
            self._counts.commit_failures.value += 1
            self._away = True
            self._doubtful.update(self._open)
            return [error] * len(batches)
        self._away = False
        if left is batches:
            return results
        answers = dict(zip(left, results, strict=True))
        return [answers[batch] if batch in answers else batch.log.failed for batch in batches]

    async def _round_trip(self, batches: list[WriterBatch]) -> list[TailraceError | None]:
        began = monotonic()
        answers = await self._line.commit(batches)
        self._counts.commit_duration.observe(monotonic() - began)
        self._counts.commit_entries.observe(sum(len(batch.entries) for batch in batches))
        self._counts.commit_bytes.observe(sum(batch.size for batch in batches))
        return answers

    def _say(self, results: list[TailraceError | None]) -> None:
        """One line when Redis takes no entries, and one when it does again."""
        missed = (result for result in results if isinstance(result, StoreUnavailable | StoreFull))
        why = next((result for result in missed if not isinstance(result, Elsewhere)), None)
        if why is not None and self._waits_since is None:
            self._waits_since = monotonic()
            size = self.buffered_bytes
            _logger.warning(
                "cannot write entries (%s), %d bytes are buffered; trying again",
                why,
                size,
                extra=fields("entries_not_written", buffered_bytes=size, why=why),
            )
        elif why is None and self._waits_since is not None:
            away_s = round(monotonic() - self._waits_since, 1)
            _logger.warning(
                "entries are written again, after %.1f s", away_s, extra=fields("entries_written_again", away_s=away_s)
            )
            self._waits_since = None

    async def _not_lost(self, batches: list[WriterBatch]) -> list[WriterBatch]:
        """Ends the attempts of which the server, back after a failover, has lost the beginning: those left.

        It may give their number to another attempt, and would take our entries for that one's.
        """
        doubtful = [batch.log for batch in batches if batch.log in self._doubtful]
        if doubtful:
            for writer, known in zip(doubtful, await self._line.standing(doubtful), strict=True):
                if isinstance(known, Elsewhere):
                    if known.redirect.asking:  # the record has moved already, the log may not have: it will
                        raise known
                    continue  # the commit is told the same, and then another publisher asks there
                self._doubtful.discard(writer)
                if not known:
                    self.drop(writer, AttemptLost("Redis does not know this attempt any more"))
        return [batch for batch in batches if batch.log.failed is None]

    def _may_write(self, writer: LogWriter) -> bool:
        if writer.failed is None and not writer.holds():
            self.drop(writer, AttemptLost("the lease of this attempt has run out"))
        return writer.failed is None

    def _settle(self, batch: WriterBatch, why: TailraceError | None, over: bool) -> bool:
        """Whether a batch is done with: written, or failed for good. `over`: there is no time to send it again."""
        if why is None:
            self._wrote(batch)
        elif isinstance(why, Elsewhere) and self._peers is not None and batch.log.failed is None:
            # One that answers so may be the primary that was: the new one is asked whether it knows the attempt.
            if not why.redirect.asking:
                self._doubtful.add(batch.log)
            self._hand_over(batch, self._peers.instead(batch.log, why))
        elif isinstance(why, StoreUnavailable | StoreFull) and not over:
            return False
        else:
            self.drop(batch.log, why)
        return True

    async def _still_ours(self, batches: list[WriterBatch]) -> list[WriterBatch]:
        """Those of which no other node has the log by now; the others' publishers go on with theirs."""
        if self._peers is None:
            return batches
        await self._peers.learn()
        ours: list[WriterBatch] = []
        for batch in batches:
            publisher = self._peers.of(batch.log.log)
            if publisher is self or batch.log.failed is not None:
                ours.append(batch)
            else:
                self._hand_over(batch, publisher)
        return ours

    def _hand_over(self, batch: WriterBatch, to: "Publisher") -> None:
        """Another publisher goes on with a log, from a batch that this one has not written."""
        writer = batch.log
        writer.untake(batch)
        if writer.listed:
            self._waiting.remove(writer)
            writer.listed = False
        is_doubtful = writer in self._doubtful
        self._open.discard(writer)
        self._doubtful.discard(writer)
        self.buffered_bytes -= writer.buffered_bytes
        to.adopt(writer, is_doubtful=is_doubtful)

    def adopt(self, writer: LogWriter, *, is_doubtful: bool) -> None:
        """Goes on with a writer of another publisher.

        Args:
            writer: with entries that are not sent.
            is_doubtful: whether the server may have forgotten its attempt.
        """
        writer.outlet = self
        self._open.add(writer)
        if is_doubtful or self._away:
            self._doubtful.add(writer)
        size, writer.buffered_bytes = writer.buffered_bytes, 0
        self.gather(writer, size)

    def _wrote(self, batch: WriterBatch) -> None:
        batch.log.wrote(batch)
        if batch.log.failed is None:
            self.buffered_bytes -= batch.size

    def _tell(self) -> None:
        told, self._progress = self._progress, asyncio.Event()
        told.set()
