"""Reads one answer from the model's server and publishes it into the log.

Owns reading: its task, its stop, its share of the event loop, and what the end of the body means. Knows nothing of
outcomes, retries, the queue or Redis.
"""

import asyncio

from tailrace.schemas.codec import encode_entry
from tailrace.schemas.deltas import Delta
from tailrace.schemas.errors import AttemptLost, LogFull, StoreError, TailraceError, UpstreamError
from tailrace.schemas.request import GenerationRequest
from tailrace.worker.attempt.attempt_clock import AttemptClock
from tailrace.worker.attempt.fair_scheduling import TimeSlice
from tailrace.worker.attempt.result import END_OF_STOP, AttemptEnd, AttemptResult
from tailrace.worker.attempt.services import Services
from tailrace.worker.interface.stream_decoder import StreamDecoder
from tailrace.worker.observe.attempt_observer import AttemptObserver
from tailrace.worker.publish.log_writer import LogWriter
from tailrace.worker.queue.leases import Lease


class AnswerStream:
    """The answer of one attempt.

    Args:
        services: those of the process.
        lease: the right to run the request.
        clock: that of the attempt.
        reader: turns bytes into deltas.
        writer: that of the request's log.
        observer: that of the attempt.

    Attributes:
        first_delta_ms: when the first delta was published, in milliseconds since 1970; None before.
    """

    def __init__(
        self,
        services: Services,
        lease: Lease,
        clock: AttemptClock,
        reader: StreamDecoder,
        writer: LogWriter,
        observer: AttemptObserver,
    ) -> None:
        self._services = services
        self._lease = lease
        self._clock = clock
        self._reader = reader
        self._writer = writer
        self._observer = observer
        self.first_delta_ms: int | None = None

    async def read(self, request: GenerationRequest) -> AttemptResult:
        """Asks the model's server, and publishes deltas until the answer ends, a stop, or the deadline.

        Raises:
            StoreError: Redis could not be written to for too long.
        """
        # In a task of its own, so that a stop or the deadline ends it wherever it waits.
        reading = asyncio.create_task(self._read(request), name=f"read {self._lease.request_id}")
        stopped = self._lease.stopped
        try:
            await asyncio.wait({reading, stopped}, timeout=self._clock.left_s, return_when=asyncio.FIRST_COMPLETED)
            done = reading.done()
        finally:
            reading.cancel()
            await asyncio.wait({reading})
        if done:
            return self._result_of(reading.exception())
        if stopped.done():
            return AttemptResult(END_OF_STOP[stopped.result()])
        return AttemptResult.deadline_exceeded()

    def close(self, result: AttemptResult) -> AttemptResult:
        """Publishes what the reader still holds back, and decides how the attempt has ended.

        Args:
            result: that of `read`, or of what ended the attempt before it.
        """
        if result.end is AttemptEnd.FAILED and not self._lease.holds():
            return AttemptResult(AttemptEnd.LOST)  # this process may have hung, not the server
        if result.end is AttemptEnd.LOST or isinstance(result.error, LogFull):
            return result
        try:
            self._publish(self._reader.close(self._clock.elapsed_ms))
        except AttemptLost:
            return AttemptResult(AttemptEnd.LOST)
        except LogFull as error:
            return AttemptResult.failed(error)
        result = self._with_failure_of_reader(result)
        if isinstance(result.error, UpstreamError):  # errors inside a stream may quote the server
            return AttemptResult.failed(self._services.upstream.without_key(result.error))
        return result

    async def _read(self, request: GenerationRequest) -> None:
        writer, reader, started_s = self._writer, self._reader, self._clock.started_s
        await self._services.scheduler.next_round()  # sending a request takes some ms, and many may start at once
        self._observer.upstream_asked()
        async with self._services.upstream.open_response(request) as answer:
            time_slice = TimeSlice(self._services.scheduler)

            def take(piece: bytes) -> bool:
                ms = round((time_slice.piece_arrived() - started_s) * 1000)
                self._publish(reader.feed(piece, ms))
                if writer.backlog.is_behind:
                    time_slice.end_early()
                return time_slice.piece_read() and not (reader.done or reader.failure is not None or writer.is_full())

            while not reader.done and reader.failure is None:
                await writer.wait_for_room()
                await time_slice.wait_if_over()
                if not await answer.deliver_to(take):
                    return
            if reader.failure is not None and not reader.done:
                raise reader.failure  # inside the context: the rest of the answer may be long, and is not read

    def _publish(self, deltas: list[Delta]) -> None:
        if not deltas:
            return
        if self.first_delta_ms is None:
            self._observer.first_delta(self._clock.elapsed_s)
        for delta in deltas:
            self._writer.append_entry(encode_entry(delta))
            if self.first_delta_ms is None:
                self.first_delta_ms = self._clock.redis_ms
        self._observer.deltas.value += len(deltas)

    def _result_of(self, error: BaseException | None) -> AttemptResult:
        match error:
            case None:
                return AttemptResult(AttemptEnd.ANSWERED)
            case AttemptLost():
                return AttemptResult(AttemptEnd.LOST)
            case StoreError():
                raise error
            case TailraceError():
                return AttemptResult.failed(error)
            case _:  # a bug: the request still ends with an error
                self._observer.internal_error(error)
                return AttemptResult.failed(TailraceError(f"internal error in the worker ({type(error).__name__})"))

    def _with_failure_of_reader(self, result: AttemptResult) -> AttemptResult:
        failure = self._reader.failure
        if result.end is AttemptEnd.ANSWERED and failure is not None:
            return AttemptResult.failed(failure)
        if result.end is AttemptEnd.FAILED and failure is None and isinstance(result.error, UpstreamError):
            # The connection was lost after the end of the answer: nothing is missing.
            return AttemptResult(AttemptEnd.ANSWERED)
        return result
