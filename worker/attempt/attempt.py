"""One attempt: take the log over, receive the answer, publish its deltas; then persist the outcome, or hand back.

Owns what stands between the first byte of an answer and its end in the log. Decides no retry: `job.py` does, with what
`run` says. Knows neither the queue nor Redis.
"""

import asyncio
from collections.abc import Callable
from dataclasses import dataclass, field
from enum import Enum
from time import monotonic
from typing import NamedTuple
from uuid import uuid4

from msgspec.structs import replace

from tailrace.broker.scripts import Verdict
from tailrace.schemas.codec import encode_entry
from tailrace.schemas.deltas import FORMAT_VERSION, AttemptStarted, Delta, ErrorInfo, MessageIds, RetryScheduled
from tailrace.schemas.errors import (
    AttemptLost,
    DeadlineExceeded,
    LogFull,
    RequestRejected,
    StoreError,
    TailraceError,
    UpstreamError,
)
from tailrace.schemas.ids import EntryId, message_id
from tailrace.schemas.interface_options import InterfaceOptions
from tailrace.schemas.outcome import UNFILLED
from tailrace.schemas.request import GenerationRequest, decode_request
from tailrace.schemas.times import iso_of_ms
from tailrace.telemetry.metrics import cause_label, error_label
from tailrace.worker.attempt.fair_scheduling import Turn, Turns
from tailrace.worker.attempt.request_store import Begun, Store
from tailrace.worker.interface.reader import StreamReader
from tailrace.worker.observe.counts import Counts
from tailrace.worker.observe.log_events import log_event, log_internal_error
from tailrace.worker.observe.tracing import NoTraces, Traces
from tailrace.worker.publish.cluster_publisher import ClusterPublisher
from tailrace.worker.publish.publisher import Publisher
from tailrace.worker.queue.leases import Lease, Stop
from tailrace.worker.upstream.upstream import Upstream


class End(Enum):
    """How reading an answer came to its end."""

    ANSWERED = "answered"
    FAILED = "failed"
    CANCELLED = "cancelled"
    DRAINED = "drained"
    LOST = "lost"


END_OF_STOP = {Stop.CANCELLED: End.CANCELLED, Stop.DRAINED: End.DRAINED, Stop.LEASE_LOST: End.LOST}


class Ended(NamedTuple):
    """What `Attempt.run` came to; `error` with FAILED alone."""

    how: End
    error: TailraceError | None = None


@dataclass(frozen=True)
class Plant:
    """What every attempt of a process works with.

    Attributes:
        store: verbs.
        publisher: entries.
        upstream: the model's server.
        clock: monotonic seconds.
        turns: of those who read answers.
        uuid: a new random uuid as text.
        counts: of this process.
        traces: told of every attempt.
    """

    store: Store
    publisher: Publisher | ClusterPublisher
    upstream: Upstream
    clock: Callable[[], float] = monotonic
    turns: Turns = field(default_factory=Turns)
    uuid: Callable[[], str] = lambda: str(uuid4())
    counts: Counts = field(default_factory=Counts)
    traces: Traces = field(default_factory=NoTraces)


class Attempt:
    """An attempt that has begun; `begin` makes it.

    Attributes:
        request: what is asked, or None where the stored request cannot be read.
        asked: whether the model's server has been asked.
        failures: attempts of the request that failed, whoever made them; `fail` counts this one.
        rest_s: seconds that are left of a pause which a stop has ended.
    """

    def __init__(self, plant: Plant, lease: Lease, begun: Begun, why: str) -> None:
        self._plant = plant
        self._lease = lease
        self._begun = begun
        self._number = lease.attempt
        self._began = plant.clock()
        self._unreadable: RequestRejected | None = None
        self.request: GenerationRequest | None = None
        try:
            self.request = decode_request(begun.request)
        except RequestRejected as error:  # of a newer producer, perhaps
            self._unreadable = error
        self._reader = (
            StreamReader(self.request.api, self.request.interface)
            if self.request
            else StreamReader("chat", InterfaceOptions())
        )
        self._writer = plant.publisher.open_writer(lease.request_id, lease.attempt, lease.token, lease.holds)
        self._first_delta_ms: int | None = None
        self._trace = plant.traces.attempt(lease.request_id, lease.attempt, why, self.request, begun.submitted_ms)
        self.asked = False
        self.failures = begun.failures
        self.rest_s = 0.0

    @classmethod
    async def begin(cls, plant: Plant, lease: Lease, why: str) -> "Attempt | Verdict":
        """Takes the log over under the lease's attempt number.

        Returns:
            The attempt, or the verdict why there is none: stale, finished or unknown.

        Raises:
            StoreError: Redis is away for too long.
        """
        ids = MessageIds(message_id(plant.uuid()), message_id(plant.uuid()))
        started = AttemptStarted(FORMAT_VERSION, lease.attempt, UNFILLED, why, ids)
        begun = await plant.store.begin(
            lease.request_id, lease.attempt, lease.token, encode_entry(started), lease.crashes
        )
        if isinstance(begun, Verdict):
            return begun
        log_event("attempt_started", lease.request_id, attempt=lease.attempt, why=why)
        plant.counts.attempts.increment(cause_label(why))
        if why == "first":
            plant.counts.queue_wait.observe(begun.waited_s)
        return cls(plant, lease, begun, why)

    @property
    def left_s(self) -> float:
        """Seconds to the request's deadline."""
        return self._began + self._begun.left_s - self._plant.clock()

    async def run(self) -> Ended:
        """Receives and publishes the answer, to its end or to a stop, whichever comes first.

        All deltas have been appended when it returns, those still held back included.

        Raises:
            StoreError: Redis could not be written to for too long.
        """
        ended = await self._read_and_judge()
        self._trace.has_read(ended.how.value, error_info(ended.error).code if ended.error else None)
        return ended

    async def _read_and_judge(self) -> Ended:
        ended = await self._receive()
        if ended.how is End.FAILED and not self._lease.holds():
            return Ended(End.LOST)  # who hung for so long cannot tell whether the server did
        if ended.how is End.LOST or isinstance(ended.error, LogFull):
            return ended
        try:
            self._append(self._reader.close(self._ms()))
        except AttemptLost:
            return Ended(End.LOST)
        except LogFull as error:
            return Ended(End.FAILED, error)
        ended = self._judge(ended)
        if isinstance(ended.error, UpstreamError):  # errors inside a stream, too, are the server's words
            return Ended(ended.how, self._plant.upstream.without_key(ended.error))
        return ended

    def fail(self) -> None:
        """Counts this attempt among those that failed; `pause` and `finish` write it down."""
        self.failures += 1

    async def pause(self, pause_s: float, reason: str) -> Stop | None:
        """Waits before the next attempt, visibly to readers; a stop ends the wait and is returned.

        Raises:
            AttemptLost, StoreError: the entry could not be written.
        """
        verdict = await self._plant.store.fail(self._lease.request_id, self._number, self._lease.token, self.failures)
        if verdict.word == "stale":
            raise AttemptLost(f"attempt {self._number} of {self._lease.request_id} is not the one recorded any more")
        until_ms = self._server_ms() + round(pause_s * 1000)
        self._writer.append_entry(encode_entry(RetryScheduled(self._ms(), self._number, reason, iso_of_ms(until_ms))))
        await self._writer.flush()
        over_at = self._plant.clock() + pause_s
        await asyncio.wait({self._lease.stopped}, timeout=pause_s)
        self.rest_s = max(over_at - self._plant.clock(), 0.0)
        return self._lease.stopped.result() if self._lease.stopped.done() else None

    async def finish(
        self, *, error: TailraceError | None = None, cancelled: bool = False, dead: bool = False
    ) -> Verdict:
        """Persists the outcome with its terminal entry, after all deltas.

        Args:
            error: why it failed, if it did.
            cancelled: whether somebody asked for the end.
            dead: whether the request belongs into the dead-letter list.

        Raises:
            AttemptLost, StoreError: it could not be; nothing of it stands.
        """
        outcome = replace(
            self._reader.finish(error=error_info(error) if error else None, cancelled=cancelled),
            request_id=self._lease.request_id,
            attempt=self._number,
            submitted_at=iso_of_ms(self._begun.submitted_ms),
            started_at=iso_of_ms(self._begun.started_ms),
            first_delta_at=None if self._first_delta_ms is None else iso_of_ms(self._first_delta_ms),
            finished_at=UNFILLED,
            failures=self.failures,
            crashes=self._begun.crashes,
            drains=self._begun.drains,
            retry_of=self.request.retry_of if self.request else None,
            metadata=self.request.metadata if self.request else None,
        )
        await self._writer.flush()
        terminal_id = EntryId(self._number, self._writer.seq + 1)
        ms = self._ms()
        verdict = await self._plant.store.finish(
            self._lease.token, terminal_id, outcome, ms=ms, dead=dead and outcome.status == "failed"
        )
        code = outcome.error.code if outcome.error else None
        log_event(
            "attempt_finished",
            self._lease.request_id,
            verdict=verdict.word,
            status=outcome.status,
            code=code,
            entry=terminal_id,
            ms=ms,
        )
        if verdict.word in ("finished", "again"):  # again: the reply to our first sending was lost
            self._plant.counts.outcomes.increment(outcome.status, error_label(code))
            self._trace.finishes(outcome)
            self._plant.counts.duration.observe(self._begun.waited_s + ms / 1000, outcome.status)
        return verdict

    async def release(self) -> None:
        """Gives the request back, unfinished. The next attempt voids what was published.

        Raises:
            StoreError: Redis is away for too long.
        """
        verdict = await self._plant.store.release(self._lease.request_id, self._number, self._lease.token)
        log_event("attempt_released", self._lease.request_id, attempt=self._number, verdict=verdict.word)
        self._plant.counts.drained.value += 1

    def close(self) -> None:
        """Nothing more is written under this attempt."""
        self._writer.close()
        self._trace.close()

    async def _receive(self) -> Ended:
        """Reads in a task of its own, so that a stop or the deadline ends it wherever it waits."""
        if self._begun.cancelled:
            return Ended(End.CANCELLED)
        if self.request is None:
            return Ended(End.FAILED, self._unreadable)
        if self.left_s <= 0:
            return Ended(End.FAILED, _too_late())
        self.asked = True
        reading = asyncio.create_task(self._read(self.request), name=f"read {self._lease.request_id}")
        stopped = self._lease.stopped
        try:
            await asyncio.wait({reading, stopped}, timeout=self.left_s, return_when=asyncio.FIRST_COMPLETED)
            done = reading.done()
        finally:
            reading.cancel()
            await asyncio.wait({reading})
        if done:
            return self._ended_by(reading.exception())
        if stopped.done():
            return Ended(END_OF_STOP[stopped.result()])
        return Ended(End.FAILED, _too_late())

    async def _read(self, request: GenerationRequest) -> None:
        writer, reader = self._writer, self._reader
        await self._plant.turns.next()  # to ask costs some ms, and in a burst many would at once
        self._trace.asks()
        async with self._plant.upstream.open(request) as answer:
            turn = Turn(self._plant.turns)

            def take(piece: bytes) -> bool:
                ms = round((turn.has() - self._began) * 1000)
                self._append(reader.feed(piece, ms))
                if writer.backlog.is_behind:
                    turn.ends()
                return turn.lasts() and not (reader.done or reader.failure is not None or writer.is_full())

            while not reader.done and reader.failure is None:
                await writer.wait_for_room()
                await turn.may_go_on()
                if not await answer.hand_on(take):
                    return
            if reader.failure is not None and not reader.done:
                raise reader.failure  # here, so that the connection is closed at once: the answer may go on for long

    @property
    def shown(self) -> bool:
        """Whether a delta of this attempt has been published."""
        return self._first_delta_ms is not None

    def _append(self, deltas: list[Delta]) -> None:
        if not deltas:
            return
        if self._first_delta_ms is None:
            self._trace.has_first_delta()
            after_s = self._plant.clock() - self._began
            self._plant.counts.upstream_first_delta.observe(after_s)
            self._plant.counts.first_delta.observe(self._begun.waited_s + after_s)
        for delta in deltas:
            self._writer.append_entry(encode_entry(delta))
            if self._first_delta_ms is None:
                self._first_delta_ms = self._server_ms()
        self._plant.counts.deltas.value += len(deltas)

    def _ended_by(self, error: BaseException | None) -> Ended:
        match error:
            case None:
                return Ended(End.ANSWERED)
            case AttemptLost():
                return Ended(End.LOST)
            case StoreError():
                raise error
            case TailraceError():
                return Ended(End.FAILED, error)
            case _:  # a fault of ours: the request must not pay with silence
                log_internal_error(self._lease.request_id, error)
                return Ended(End.FAILED, TailraceError(f"a fault in the worker ({type(error).__name__})"))

    def _judge(self, ended: Ended) -> Ended:
        """The last word on an answer once the reader has seen its end."""
        failure = self._reader.failure
        if ended.how is End.ANSWERED and failure is not None:
            return Ended(End.FAILED, failure)
        if ended.how is End.FAILED and failure is None and isinstance(ended.error, UpstreamError):
            return Ended(
                End.ANSWERED
            )  # the connection was lost after the model had come to its end: nothing is missing
        return ended

    def _ms(self) -> int:
        return round((self._plant.clock() - self._began) * 1000)

    def _server_ms(self) -> int:
        """Now by the clock of Redis, which gave the time at which this attempt began."""
        return self._begun.started_ms + self._ms()


def error_info(error: TailraceError) -> ErrorInfo:
    """An error as clients see it."""
    return ErrorInfo(error.wire_code if isinstance(error, UpstreamError) else error.code, str(error), error.whose)


def _too_late() -> DeadlineExceeded:
    return DeadlineExceeded("the request's time, counted from submit, was over before its end")
