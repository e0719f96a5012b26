"""One attempt: begins in the log, publishes the answer, then writes the outcome, waits for a retry, or hands back.

Owns what an attempt writes besides its deltas. `job.py` decides whether another attempt follows. Knows neither the
queue nor Redis; its observer makes metrics, traces and log lines.
"""

import asyncio

from msgspec.structs import replace

from tailrace.broker.script import Verdict
from tailrace.broker.scripts import BeginStatus, FailStatus, FinishStatus
from tailrace.schemas.codec import encode_entry
from tailrace.schemas.deltas import FORMAT_VERSION, AttemptStarted, MessageIds, RetryScheduled
from tailrace.schemas.errors import AttemptLost, RequestRejected, TailraceError
from tailrace.schemas.ids import EntryId, message_id
from tailrace.schemas.interface_options import InterfaceOptions
from tailrace.schemas.outcome import UNFILLED
from tailrace.schemas.request import GenerationRequest, decode_request
from tailrace.schemas.times import iso_of_ms
from tailrace.worker.attempt.answer_stream import AnswerStream
from tailrace.worker.attempt.attempt_clock import AttemptClock
from tailrace.worker.attempt.request_store import Begun
from tailrace.worker.attempt.result import AttemptEnd, AttemptResult, error_info
from tailrace.worker.attempt.services import Services
from tailrace.worker.interface.stream_decoder import StreamDecoder
from tailrace.worker.observe.attempt_events import AttemptStart
from tailrace.worker.queue.leases import Lease, Stop


class Attempt:
    """An attempt that has begun; `begin` makes it.

    Attributes:
        request: the request, None if the stored one cannot be decoded.
        asked: whether the model's server was asked.
        failures: failed attempts of the request, on all workers; `count_failure` adds this one.
        rest_s: seconds that were left of a wait for a retry when a stop ended it.
        observer: receives the events of this attempt.
    """

    def __init__(self, services: Services, lease: Lease, begun: Begun, why: str) -> None:
        self._services = services
        self._lease = lease
        self._begun = begun
        self._number = lease.attempt
        self._clock = AttemptClock(services.clock, begun)
        self._undecodable: RequestRejected | None = None
        self.request: GenerationRequest | None = None
        try:
            self.request = decode_request(begun.request)
        except RequestRejected as error:  # a newer producer may have written it
            self._undecodable = error
        self._reader = (
            StreamDecoder(self.request.api, self.request.interface)
            if self.request
            else StreamDecoder("chat", InterfaceOptions())
        )
        self._writer = services.publisher.open_writer(lease.request_id, lease.attempt, lease.token, lease.holds)
        self.observer = services.observers.attempt_started(
            AttemptStart(lease.request_id, lease.attempt, why, self.request, begun.submitted_ms, begun.started_ms)
        )
        self._answer = AnswerStream(services, lease, self._clock, self._reader, self._writer, self.observer)
        self.asked = False
        self.failures = begun.failures
        self.rest_s = 0.0

    @classmethod
    async def begin(cls, services: Services, lease: Lease, why: str) -> "Attempt | Verdict[BeginStatus]":
        """Takes over the request's log under the lease's attempt number.

        Args:
            services: those of the process.
            lease: the right to run the request.
            why: what causes the attempt: `first`, `retry`, `lease_expired` or `drained`.

        Returns:
            The attempt, or the verdict that refuses it: stale, finished or unknown.

        Raises:
            StoreError: Redis has not answered for too long.
        """
        ids = MessageIds(message_id(services.uuid()), message_id(services.uuid()))
        started = AttemptStarted(FORMAT_VERSION, lease.attempt, UNFILLED, why, ids)
        begun = await services.store.begin(
            lease.request_id, lease.attempt, lease.token, encode_entry(started), lease.crashes
        )
        return begun if isinstance(begun, Verdict) else cls(services, lease, begun, why)

    @property
    def left_s(self) -> float:
        """Seconds to the request's deadline."""
        return self._clock.left_s

    @property
    def has_published(self) -> bool:
        """Whether a delta of this attempt was published."""
        return self._answer.first_delta_ms is not None

    async def publish_answer(self) -> AttemptResult:
        """Reads the answer and publishes its deltas, until its end, a stop, or the deadline.

        All deltas have been passed to the publisher when this returns, including those that the reader held back.

        Raises:
            StoreError: Redis could not be written to for too long.
        """
        if self._begun.cancelled:
            result = AttemptResult(AttemptEnd.CANCELLED)
        elif self.request is None:
            result = AttemptResult(AttemptEnd.FAILED, self._undecodable)
        elif self.left_s <= 0:
            result = AttemptResult.deadline_exceeded()
        else:
            self.asked = True
            result = await self._answer.read(self.request)
        result = self._answer.close(result)
        self.observer.reading_ended(result.end.value, error_info(result.error).code if result.error else None)
        return result

    def count_failure(self) -> None:
        """Counts this attempt as failed; `wait_for_retry` and `write_outcome` persist the count."""
        self.failures += 1

    async def wait_for_retry(self, pause_s: float, reason: str) -> Stop | None:
        """Publishes that another attempt follows, and waits for it.

        Args:
            pause_s: seconds to wait.
            reason: the code of the error that this attempt failed with.

        Returns:
            The stop that has ended the wait, or None.

        Raises:
            AttemptLost, StoreError: the entry could not be written.
        """
        verdict = await self._services.store.fail(
            self._lease.request_id, self._number, self._lease.token, self.failures
        )
        if verdict.status is FailStatus.STALE:
            raise AttemptLost(f"attempt {self._number} of {self._lease.request_id} is no longer the current one")
        until = iso_of_ms(self._clock.redis_ms + round(pause_s * 1000))
        self._writer.append_entry(encode_entry(RetryScheduled(self._clock.elapsed_ms, self._number, reason, until)))
        await self._writer.flush()
        waited_from_s = self._services.clock()
        await asyncio.wait({self._lease.stopped}, timeout=pause_s)
        self.rest_s = max(waited_from_s + pause_s - self._services.clock(), 0.0)
        return self._lease.stopped.result() if self._lease.stopped.done() else None

    async def write_outcome(
        self, *, error: TailraceError | None = None, cancelled: bool = False, dead: bool = False
    ) -> Verdict[FinishStatus]:
        """Persists the outcome together with the terminal entry, after all deltas.

        Args:
            error: why the request failed, if it did.
            cancelled: whether the request was cancelled.
            dead: whether the request belongs on the dead-letter list.

        Raises:
            AttemptLost, StoreError: nothing was persisted.
        """
        first_delta_ms = self._answer.first_delta_ms
        outcome = replace(
            self._reader.finish(error=error_info(error) if error else None, cancelled=cancelled),
            request_id=self._lease.request_id,
            attempt=self._number,
            submitted_at=iso_of_ms(self._begun.submitted_ms),
            started_at=iso_of_ms(self._begun.started_ms),
            first_delta_at=None if first_delta_ms is None else iso_of_ms(first_delta_ms),
            finished_at=UNFILLED,
            failures=self.failures,
            crashes=self._begun.crashes,
            drains=self._begun.drains,
            retry_of=self.request.retry_of if self.request else None,
            metadata=self.request.metadata if self.request else None,
        )
        await self._writer.flush()
        terminal_id = EntryId(self._number, self._writer.seq + 1)
        ms = self._clock.elapsed_ms
        verdict = await self._services.store.finish(
            self._lease.token, terminal_id, outcome, ms=ms, dead=dead and outcome.status == "failed"
        )
        if verdict.status in (FinishStatus.FINISHED, FinishStatus.ALREADY_DONE):
            self.observer.finished(outcome, terminal_id, ms)
        else:
            self.observer.finish_refused(verdict.status)
        return verdict

    async def release(self) -> None:
        """Hands the request back unfinished. The next attempt discards the deltas of this one.

        Raises:
            StoreError: Redis has not answered for too long.
        """
        verdict = await self._services.store.release(self._lease.request_id, self._number, self._lease.token)
        self.observer.released(verdict.status)

    def close(self) -> None:
        """Ends the attempt; nothing more is written under its number."""
        self._writer.close()
        self.observer.closed()
