"""Group commit: the entries of all running attempts of this process, with one round trip to Redis at a time.

Entries that arrive while a commit is in flight go with the next one, so reading a model never waits for Redis, and a
single entry is sent at once. Owns when a commit is sent, the lease check before it, and retries. Knows no Redis
command, and nothing of what the entries contain. An entry needs no task, no future and no lock.
"""

import asyncio
from collections.abc import Callable
from time import monotonic
from types import TracebackType
from typing import Self

from tailrace.broker.backoff import Backoff
from tailrace.broker.cluster import Redirect
from tailrace.broker.time_limits import PATIENCE_S
from tailrace.schemas.errors import AttemptLost, StoreFull, StoreUnavailable
from tailrace.telemetry import metrics
from tailrace.telemetry.metric_samples import MetricSample
from tailrace.worker.observe.counts import Counts
from tailrace.worker.publish.cluster_node import ClusterNode
from tailrace.worker.publish.commit_line import CommitLine
from tailrace.worker.publish.commit_observer import CommitObserver
from tailrace.worker.publish.commit_replies import WRITTEN, AttemptState, Moved, Rejected, Result, Written
from tailrace.worker.publish.commit_spacing import CommitSpacing
from tailrace.worker.publish.log_buffer import Batch, LogBuffer
from tailrace.worker.publish.log_writer import Backlog, LogWriter

REQUEST_BUFFER_BYTES = 4 * 1024 * 1024
RETRY = Backoff(base_s=0.02, cap_s=0.5)
HALF_MOVED_PAUSE_S = 0.1  # before a log is retried while its slot is half moved


class Publisher:
    """The publisher of a process, or of one node of a cluster. `async with` runs it.

    Args:
        line: sends the commits.
        buffer_bytes: unwritten bytes of the process at which `wait_for_room` waits.
        request_buffer_bytes: the same for one request.
        max_entries: the maximum of entries of one attempt.
        max_bytes: the maximum of bytes of one attempt's entries.
        patience_s: how long a commit is sent again before its writers fail.
        counts: those of this process.
        cluster: the node of a cluster that the line is connected to.
    """

    def __init__(
        self,
        line: CommitLine,
        *,
        buffer_bytes: int,
        max_entries: int,
        max_bytes: int,
        request_buffer_bytes: int = REQUEST_BUFFER_BYTES,
        patience_s: float = PATIENCE_S,
        counts: Counts | None = None,
        cluster: ClusterNode | None = None,
    ) -> None:
        self._line = line
        self._limits = {"max_entries": max_entries, "max_bytes": max_bytes}
        self._patience_s = patience_s
        counts = counts or Counts()
        self._observer = CommitObserver(counts)
        self._cluster = cluster
        self._backlog = Backlog(buffer_bytes, request_buffer_bytes, counts)
        self._spacing = CommitSpacing()
        self._task: asyncio.Task[None] | None = None
        self._is_away = False
        # Attempts the server has to confirm, with the time since which the slot of each has been half moved.
        self._unconfirmed: dict[LogBuffer, float | None] = {}
        self.commits = 0  # how many were sent

    def open_writer(self, request_id: str, attempt: int, token: str, lease_holds: Callable[[], bool]) -> LogWriter:
        """A writer for an attempt that has begun.

        Args:
            request_id: the request.
            attempt: the attempt's number.
            token: the token of the attempt's owner, as passed to `begin`.
            lease_holds: whether the attempt's lease still holds, by a local clock; called before each commit.

        Raises:
            StoreUnavailable: the publisher does not run.
        """
        if self._task is None or self._task.done():
            raise StoreUnavailable("the publisher does not run")
        buffer = LogBuffer(request_id, attempt, token, **self._limits, total=self._backlog.bytes)
        if self._is_away:
            self._unconfirmed[buffer] = None
        return LogWriter(buffer, self._backlog, lease_holds)

    @property
    def writers(self) -> int:
        """How many writers are open."""
        return len(self._backlog.writers)

    @property
    def buffered_bytes(self) -> int:
        """Bytes that Redis does not have."""
        return self._backlog.bytes.value

    def metric_samples(self) -> list[MetricSample]:
        """The size of the backlog."""
        entries = sum(log.unwritten_entries for log in self._backlog.writers)
        gauges = {metrics.BACKLOG_BYTES: self.buffered_bytes, metrics.BACKLOG_ENTRIES: entries}
        return [MetricSample(metric.name, (), value) for metric, value in gauges.items()]

    def set_buffer_bytes(self, buffer_bytes: int) -> None:
        """Changes `buffer_bytes`."""
        self._backlog.set_limit(buffer_bytes)

    async def __aenter__(self) -> Self:
        self.start()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await self.stop()

    def start(self) -> None:
        """Runs the publisher until `stop`."""
        self._task = asyncio.create_task(self._run(), name="publisher")

    @property
    def task(self) -> asyncio.Task[None]:
        """The task that runs it. It ends by itself only through a bug in our code, so the process has to watch it."""
        if self._task is None:
            raise StoreUnavailable("the publisher does not run")
        return self._task

    async def stop(self) -> None:
        """Ends the publisher; its writers fail."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.wait({self._task})
        await self._line.close()

    def adopt(self, writer: LogWriter, *, is_confirmed: bool) -> None:
        """Takes over a writer from another publisher, whose log is on this node now.

        Args:
            writer: with entries that are not sent.
            is_confirmed: whether the attempt is known to be the current one; otherwise the node is asked first.
        """
        if not is_confirmed or self._is_away:
            self._unconfirmed[writer.buffer] = None
        writer.move_to(self._backlog)

    async def _run(self) -> None:
        backlog = self._backlog
        try:
            while True:
                await backlog.wait_for_work()
                while batches := backlog.take_batches():
                    began = monotonic()
                    await self._commit(batches)
                    backlog.signal_progress()
                    entries = sum(len(batch.entries) for batch in batches)
                    pause_s = self._spacing.pause_s(began, monotonic(), entries)
                    if pause_s and not backlog.is_behind and not backlog.awaited:
                        self._line.push()
                        await asyncio.sleep(pause_s)
                self._line.push()
        finally:
            for writer in tuple(backlog.writers.values()):
                writer.fail(StoreUnavailable("the publisher has ended"))

    async def _commit(self, batches: list[Batch]) -> None:
        """Writes the batches. Retries those whose failure may pass, for `patience_s` at most."""
        give_up_at = monotonic() + self._patience_s
        tries = 0
        while batches := self._writable(batches):
            try:
                if self._unconfirmed:
                    batches = await self._confirmed(batches)
                results = await self._send(batches) if batches else []
                self._is_away = False
            except StoreUnavailable as error:
                results = self._lose_connection(batches, error)
            self.commits += 1
            if not self._observer.is_outage and results.count(WRITTEN) == len(results):
                for batch in batches:
                    batch.log.mark_written(batch)
                return
            self._observer.log_outage(results, self.buffered_bytes)
            tries += 1
            pause_s = RETRY.pause_s(tries)
            may_retry = monotonic() + pause_s <= give_up_at
            with_results = zip(batches, results, strict=True)
            batches = [batch for batch, result in with_results if not self._settle(batch, result, may_retry=may_retry)]
            if batches:
                await asyncio.sleep(pause_s)
                batches = await self._still_here(batches)

    def _writable(self, batches: list[Batch]) -> list[Batch]:
        """The batches whose attempts may still write; ends the writers whose lease has run out."""
        writers = self._backlog.writers
        writable: list[Batch] = []
        for batch in batches:
            writer = writers.get(batch.log)
            if writer is not None and writer.lease_holds():
                writable.append(batch)
            elif writer is not None:
                writer.fail(AttemptLost("the lease of this attempt has run out"))
        return writable

    async def _send(self, batches: list[Batch]) -> list[Result]:
        began = monotonic()
        results = await self._line.commit(batches)
        self._observer.answered(batches, began)
        return results

    def _lose_connection(self, batches: list[Batch], error: StoreUnavailable) -> list[Result]:
        """The results of a commit that got no answer. From now on every open attempt has to be confirmed."""
        self._observer.failed()
        self._is_away = True
        for log in self._backlog.writers:
            self._unconfirmed.setdefault(log, None)
        return [Rejected(error)] * len(batches)

    async def _confirmed(self, batches: list[Batch]) -> list[Batch]:
        """The batches whose attempts the server still has; settles the others.

        A failover may have lost an attempt. Redis may then give its number to another attempt, and would accept our
        entries as entries of the new one.
        """
        writers = self._backlog.writers
        self._unconfirmed = {log: since for log, since in self._unconfirmed.items() if log in writers}
        asked = [batch for batch in batches if batch.log in self._unconfirmed]
        states = await self._line.attempt_states([batch.log for batch in asked]) if asked else []
        settled = {batch.log for batch, state in zip(asked, states, strict=True) if not self._confirms(batch, state)}
        return [batch for batch in batches if batch.log not in settled and batch.log in writers]

    def _confirms(self, batch: Batch, state: AttemptState | Moved) -> bool:
        """Whether a batch may be sent; otherwise it is settled."""
        match state:
            case AttemptState.KNOWN:
                self._unconfirmed.pop(batch.log, None)
                return True
            case AttemptState.FORGOTTEN:
                self._backlog.fail_writer(batch.log, AttemptLost("Redis does not know this attempt any more"))
            case AttemptState.HALF_MOVED:
                self._postpone(batch)
            case Moved():
                self._hand_over(batch, state.redirect)
        return False

    def _settle(self, batch: Batch, result: Result, *, may_retry: bool) -> bool:
        """Whether a batch is done; otherwise it is sent again."""
        match result:
            case Written():
                batch.log.mark_written(batch)
            case Moved():
                self._hand_over(batch, result.redirect)
            case Rejected() if may_retry and isinstance(result.error, StoreUnavailable | StoreFull):
                return False
            case Rejected():
                self._backlog.fail_writer(batch.log, result.error)
        return True

    def _postpone(self, batch: Batch) -> None:
        """Retries one log later, without delaying the others, because its slot is half moved."""
        writer = self._backlog.writers.get(batch.log)
        if writer is None:
            return
        since = self._unconfirmed.get(batch.log) or monotonic()
        self._unconfirmed[batch.log] = since
        if monotonic() - since > self._patience_s:
            writer.fail(StoreUnavailable("the slot of this request is half moved to another node of the cluster"))
        else:
            batch.log.give_back(batch)
            self._backlog.enqueue_later(writer, HALF_MOVED_PAUSE_S)

    async def _still_here(self, batches: list[Batch]) -> list[Batch]:
        """The batches whose logs this node still has, by a new map of slots; hands over the others."""
        if self._cluster is None:
            return batches
        await self._cluster.learn_slots()
        here: list[Batch] = []
        for batch in batches:
            if redirect := self._cluster.redirect(batch.log):
                self._hand_over(batch, redirect)
            else:
                here.append(batch)
        return here

    def _hand_over(self, batch: Batch, redirect: Redirect) -> None:
        """Lets the publisher of another node continue with a log, from a batch that was not written here."""
        log, cluster = batch.log, self._cluster
        writer = self._backlog.writers.get(log)
        if writer is not None:
            assert cluster is not None  # noqa: S101 -- only a node of a cluster redirects
            log.give_back(batch)
            is_confirmed = log not in self._unconfirmed
            self._unconfirmed.pop(log, None)
            cluster.hand_over(writer, redirect, is_confirmed=is_confirmed)
