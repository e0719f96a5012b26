"""The worker's run loop: claims jobs under leases until it drains, then lets running jobs end or hands them back.

Owns when the parts of the queue start and stop. Knows nothing of requests, their logs or the model's server.
"""

import asyncio
import logging
import signal
from collections.abc import Awaitable, Callable, Coroutine, Mapping, Sequence
from contextlib import suppress
from types import MappingProxyType
from typing import Any

from tailrace.broker.clients import asking
from tailrace.schemas.errors import StoreError
from tailrace.telemetry import metrics
from tailrace.telemetry.logging import fields
from tailrace.telemetry.metric_samples import MetricSample
from tailrace.worker.observe.reporter import Reporter, WorkerState
from tailrace.worker.queue.arq_worker import ArqWorker, Function, WorkerCoroutine
from tailrace.worker.queue.claims import Claims
from tailrace.worker.queue.job_endings import JobEndings, OnDead
from tailrace.worker.queue.leases import Leases, Stop
from tailrace.worker.queue.outbox_state import OutboxState
from tailrace.worker.queue.quarantine import QUARANTINE_S, Quarantine
from tailrace.worker.queue.queue_store import QueueStore
from tailrace.worker.queue.records import Records
from tailrace.worker.queue.running_jobs import RunningJobs
from tailrace.worker.queue.waiting import Change

HAND_BACK_S = 10.0
"""From the end of the grace period until job functions that have not ended are cancelled."""

_logger = logging.getLogger("tailrace.queue")


class LeasedWorker:
    """Runs the jobs of `arq:queue` under leases. `await run()` returns when it has drained; then `await close()`.

    Construct it inside a running event loop. SIGTERM and SIGINT drain; so does `drain()`. Further calls and signals
    hurry the drain: the second ends the grace period, the third cancels the job functions.

    A job function gets arq's `ctx` and in it `lease` (a `Lease`); `job_try` is the attempt's number. It watches
    `lease.stopped`, and ends in one of these ways: it returns (the job is acknowledged); it raises `RetryJob` (handed
    back, due at once) or `Retry(defer=...)` (handed back, due later). Anything else it raises is a failure: `on_dead`
    is called, then the job is acknowledged. After the lease is lost, nothing that it does changes the queue.
    arq's limits on tries and on a job's time do not apply, and no result is kept.

    Args:
        functions: job functions, as arq takes them.
        redis_url: the Redis or Valkey with the queue. The worker makes and closes connections of its own.
        log_url: that of records and logs, if it is another one.
        on_dead: called with request id, lease, code and message when a job ends without its function having ended it,
            before its queue entry goes. Codes: `job_expired`, `job_unreadable`, `job_unknown` (no such function),
            `job_crashed` (its worker, too often), `job_failed` (the function raised). If `on_dead` raises, the job
            is handed back and tried again.
        max_jobs: jobs run at once.
        lease_s: how long a claim lasts without renewal.
        poll_s: how often an idle worker reads the queue if no wake-up token arrives.
        drain_s: grace period for running jobs.
        tenant_limit: requests of one tenant that may run at once, on all workers together; 0 for no limit.
        tenant_limits: the same for single tenants.
        max_crashes: how many leases of a job may expire before it counts as one that kills its worker: the last of
            them while it ran alone (quarantine.py), unless the limit is 1.
        quarantine_s: how long nothing else begins beside such a job, the first time.
        outbox_state: is updated with whether there is an outbox.
        ctx: what job functions find in their `ctx`, besides arq's own; `redis` is added to it.
        on_startup: called with `ctx` before the first claim; `run` raises what it raises.
        health_check_s: how often arq's health-check key is written.
        handle_signals: whether SIGTERM and SIGINT are taken over, from then on until the loop is closed.
    """

    def __init__(
        self,
        functions: Sequence[Function | WorkerCoroutine],
        *,
        redis_url: str,
        log_url: str | None = None,
        on_dead: OnDead,
        max_jobs: int = 200,
        lease_s: float = 5.0,
        poll_s: float = 1.0,
        drain_s: float = 20.0,
        tenant_limit: int = 0,
        tenant_limits: Mapping[str, int] = MappingProxyType({}),
        max_crashes: int = 3,
        quarantine_s: float = QUARANTINE_S,
        outbox_state: OutboxState | None = None,
        ctx: dict[Any, Any] | None = None,
        on_startup: Callable[[dict[Any, Any]], Awaitable[None]] | None = None,
        health_check_s: float = 30.0,
        handle_signals: bool = True,
    ) -> None:
        self._store = store = QueueStore(
            redis_url,
            lease_s=lease_s,
            poll_s=poll_s,
            tenant_limit=tenant_limit,
            tenant_limits=tenant_limits,
            outbox_state=outbox_state,
        )
        self._records = Records(log_url or redis_url, lease_s=lease_s)
        self._ctx = {} if ctx is None else ctx
        self._ctx["redis"] = store.arq
        self._on_startup = on_startup
        self._max_jobs, self._lease_s, self._drain_s = max_jobs, lease_s, drain_s
        self._signals = (signal.SIGTERM, signal.SIGINT) if handle_signals else ()
        self._drains = 0
        self._change = Change()  # a job has ended, or a drain was asked for
        self._arq = ArqWorker(functions, store.arq, health_check_s=health_check_s)
        self._leases = Leases(store, self._records, lease_s)
        self._quarantine = Quarantine(store, self._change, max_crashes=max_crashes, quarantine_s=quarantine_s)
        self._reporter = Reporter(store, self._state)
        self._jobs = RunningJobs(
            store,
            self._arq,
            self._leases,
            self._quarantine,
            JobEndings(store, None if log_url in (None, redis_url) else self._records, self._arq, on_dead),
            self._change,
            ctx=self._ctx,
            max_crashes=max_crashes,
        )
        self._claims = Claims(
            store,
            self._change,
            free_slots=self._free_slots,
            start_job=self._jobs.start_job,
            after_claim=self._record_health,
            lease_s=lease_s,
            poll_s=poll_s,
        )

    def drain(self) -> None:
        """Ends claiming and gives running jobs their grace period. Further calls hurry (see the class)."""
        self._drains += 1
        self._jobs.is_draining = True
        running = len(self._jobs)
        _logger.info(
            "draining (call %d), %d jobs are running",
            self._drains,
            running,
            extra=fields("draining", call=self._drains, running=running),
        )
        self._claims.stop()

    async def run(self) -> None:
        """Runs until it has drained.

        Raises:
            StoreError: Redis was not available at the start. Later outages are retried.
        """
        await self._store.ping()
        # Before on_startup, which may report that we are ready: from then on a signal drains. The handlers stay until
        # the loop is closed, so that a repeated signal does not interrupt the cleanup of our caller.
        for number in self._signals:
            asyncio.get_running_loop().add_signal_handler(number, self.drain)
        if self._on_startup:
            await self._on_startup(self._ctx)
        keepers = [self._watched(work) for work in (*self._leases.upkeep(), self._reporter.run())]
        claimer = self._watched(self._claims.claim_until_stopped())
        try:
            await self._change.until(lambda: self._drains > 0)
        except asyncio.CancelledError:  # our caller cancels us; the jobs still have to be handed back
            self._drains = 2
            self.drain()
            raise
        finally:
            await self._finish_jobs(claimer)
            for task in (claimer, *keepers, *([self._claims.waiting] if self._claims.waiting else [])):
                await _cancel(task)
            await self._quarantine.close()
            await self._reporter.remove_report()
        for task in (claimer, *keepers):
            if not task.cancelled():
                task.result()

    async def close(self) -> None:
        """Closes the connections."""
        await self._store.close()
        await self._records.close()

    def metric_samples(self) -> list[MetricSample]:
        """What this worker has counted, and its state."""
        state = self._state()
        return [
            MetricSample(metrics.STARTS.name, (), state.starts),
            MetricSample(metrics.LEASES_LOST.name, (), self._leases.lost),
            MetricSample(metrics.RUNNING.name, (), state.running),
            MetricSample(metrics.SLOTS.name, (), state.max_jobs),
            MetricSample(metrics.DRAINING.name, (), int(state.draining)),
            MetricSample(metrics.RENEWAL_AGE.name, (), state.renewed_ago_s),
        ]

    def _state(self) -> WorkerState:
        return WorkerState(
            max_jobs=self._max_jobs,
            running=len(self._leases),
            starts=self._jobs.starts,
            renewed_ago_s=self._leases.renewed_ago_s,
            draining=self._drains > 0,
        )

    def _free_slots(self) -> int:
        return 0 if self._quarantine.is_active else self._max_jobs - len(self._jobs)

    async def _record_health(self) -> None:
        with suppress(StoreError):  # the next claim logs it
            async with asking(self._store.arq):
                await self._arq.record_health()

    def _watched(self, work: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        """A task without which the worker cannot continue: if it fails, the worker drains and `run` raises."""

        def ended(task: asyncio.Task[None]) -> None:
            self._change.tell()
            if not task.cancelled() and task.exception():
                self.drain()

        task = asyncio.create_task(work)
        task.add_done_callback(ended)
        return task

    async def _finish_jobs(self, claimer: asyncio.Task[None]) -> None:
        """The drain: running jobs may end, then are asked to stop, then are cancelled, then are abandoned."""

        def idle() -> bool:
            return claimer.done() and not self._jobs

        await self._change.until(lambda: idle() or self._drains > 1, self._drain_s)
        self._leases.stop_all(Stop.DRAINED)
        await self._change.until(lambda: idle() or self._drains > 2, HAND_BACK_S)
        self._jobs.cancel_calls()
        await self._change.until(idle, self._lease_s)
        self._jobs.abandon()
        await self._change.until(lambda: not self._jobs, self._lease_s)


async def _cancel(task: asyncio.Future[None]) -> None:
    """Cancels until it is done: Python 3.11's `wait_for`, which redis-py sends with, can swallow a cancellation."""
    while not task.done():
        task.cancel()
        await asyncio.wait({task}, timeout=0.1)
