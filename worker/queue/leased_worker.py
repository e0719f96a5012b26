"""arq's Worker with leases in place of its claim loop: runs what it claims, acknowledges or hands back, drains.

Owns the life of a job from its claim on. Knows nothing of what a request is, of logs or of the model's server.
Of arq's Worker this keeps the registry of functions, the counters, the health check and the way to run it. Its claims,
`run_job` and both finish paths know no owner: others stand in their place (docs/decisions/leases-and-attempts.md).
"""

import asyncio
import logging
import signal
from collections.abc import Awaitable, Callable, Coroutine, Mapping, Sequence
from functools import partial
from types import MappingProxyType
from typing import Any

from arq.typing import StartupShutdown, WorkerCoroutine
from arq.worker import Function, Worker

from tailrace.broker import keys
from tailrace.broker.scripts import ClaimedJob
from tailrace.schemas.codec import decode_job, encode_job
from tailrace.telemetry import metrics
from tailrace.telemetry.logging import fields
from tailrace.telemetry.metric_samples import Figure
from tailrace.worker.observe.reporter import Reporter, Standing
from tailrace.worker.queue.claims import Claims
from tailrace.worker.queue.job_call import Acknowledge, Dead, End, HandBack, JobCall
from tailrace.worker.queue.leases import Lease, Leases, Stop
from tailrace.worker.queue.quarantine import TRIAL_S, Elsewhere, Trial, Trials
from tailrace.worker.queue.queue_store import QueueStore
from tailrace.worker.queue.records import Records
from tailrace.worker.queue.waiting import Change, insist
from tailrace.worker.redis_link import FAILURES, store_error
from tailrace.worker.results.hold import Hold

OnDead = Callable[[str, Lease, str, str], Awaitable[None]]

HAND_BACK_S = 10.0
"""From the end of the grace period until job functions that have not ended are cancelled."""

DEAD_RETRY_S = 5.0
"""When `on_dead` failed: until the job is given out once more."""

_logger = logging.getLogger("tailrace.queue")


class LeasedWorker(Worker):
    """Runs the jobs of `arq:queue` under leases. `await async_run()` returns when it has drained; then `await close()`.

    Construct it inside a running event loop. SIGTERM and SIGINT drain; so does `drain()`. Each call and each signal
    after the first hurries: the second ends the grace period, the third cancels the job functions.

    A job function gets arq's `ctx` and in it `lease` (a `Lease`); `job_try` is the attempt's number. It watches
    `lease.stopped`, and ends in one of these ways: it returns (the job is acknowledged); it raises `RetryJob` (handed
    back, due at once) or `Retry(defer=...)` (handed back, due later). Anything else it raises is a failure: `on_dead`
    is told, then the job is acknowledged. When the lease is lost, whatever it does changes nothing in the queue.
    arq's limits on tries and on a job's time do not apply, and no result is kept.

    Args:
        functions: job functions, as arq takes them.
        redis_url: the Redis or Valkey with the queue. The worker makes and closes connections of its own.
        log_url: that of records and logs, where it is another one.
        on_dead: called with request id, lease, code and message when a job ends without its function having ended it,
            before its queue entry goes. Codes: `job_expired`, `job_unreadable`, `job_unknown` (no such function),
            `job_crashed` (its worker, too often), `job_failed` (the function raised). Where `on_dead` raises, the job
            is handed back and tried again.
        max_jobs: jobs run at once.
        lease_s: how long a claim lasts without renewal.
        poll_s: how often an idle worker looks at the queue when no wake-up token came.
        drain_s: grace period for running jobs.
        tenant_limit: requests of one tenant that may run at once, on all workers together; 0 for no limit.
        tenant_limits: the same for single tenants.
        max_crashes: leases of a job that may run out unanswered before it counts as one that kills its worker: the
            last of them while it began alone (trial.py), unless it is the only one.
        trial_s: how long such a job begins alone; then others begin beside it.
        hold: is told whether there is an outbox of requests that have ended.
        ctx: what job functions find in their `ctx`, beside arq's own; the same dictionary goes to the hooks.
        on_startup: called with `ctx` before the first claim; what it raises comes out of `async_run`.
        on_shutdown: called with `ctx` by `close`.
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
        trial_s: float = TRIAL_S,
        hold: Hold | None = None,
        ctx: dict[Any, Any] | None = None,
        on_startup: StartupShutdown | None = None,
        on_shutdown: StartupShutdown | None = None,
        health_check_s: float = 30.0,
        handle_signals: bool = True,
    ) -> None:
        self._store = QueueStore(
            redis_url,
            lease_s=lease_s,
            poll_s=poll_s,
            tenant_limit=tenant_limit,
            tenant_limits=tenant_limits,
            hold=hold,
        )
        self._records = Records(log_url or redis_url, lease_s=lease_s)
        self._is_split = log_url not in (None, redis_url)
        super().__init__(
            functions,
            queue_name=keys.QUEUE,
            redis_pool=self._store.arq,
            on_startup=on_startup,
            on_shutdown=on_shutdown,
            handle_signals=False,
            max_jobs=max_jobs,
            poll_delay=poll_s,
            health_check_interval=health_check_s,
            ctx=ctx,
            job_serializer=encode_job,
            job_deserializer=decode_job,
        )
        self._leases = Leases(self._store, self._records, lease_s)
        self._on_dead = on_dead
        self._lease_s, self._drain_s = lease_s, drain_s
        self._max_crashes = max_crashes
        self._signals = (signal.SIGTERM, signal.SIGINT) if handle_signals else ()
        self._drains = 0
        self._change = Change()  # a job has ended, or somebody wants us to drain
        self._trials = Trials(self._store, self._change, max_crashes=max_crashes, trial_s=trial_s)
        self._starts = 0
        self._reporter = Reporter(self._store, self._standing)
        self._claims = Claims(
            self._store,
            self._change,
            room=lambda: 0 if self._trials.under_way else self.max_jobs - len(self.tasks),
            start=self._start,
            sign_of_life=self._sign_of_life,
            lease_s=lease_s,
            poll_s=poll_s,
        )

    def drain(self) -> None:
        """No more claims; running jobs get their grace period. Called again it hurries."""
        self._drains += 1
        self.allow_pick_jobs = False
        running = len(self.tasks)
        _logger.info(
            "draining (call %d), %d jobs are running",
            self._drains,
            running,
            extra=fields("draining", call=self._drains, running=running),
        )
        self._claims.stop()

    async def main(self) -> None:
        """Runs until it has drained.

        Raises:
            StoreError: Redis was not there at the start. Later it may go and come back.
        """
        await self._store.ping()
        self.ctx["redis"] = self.pool
        # Before the hook, which may say that we are ready: from then on a signal drains. They stay until the loop is
        # closed: a signal repeated after the drain must not cut short how our caller closes what it has opened.
        for number in self._signals:
            self.loop.add_signal_handler(number, self.drain)
        if self.on_startup:
            await self.on_startup(self.ctx)
        keepers = [self._watched(work) for work in (*self._leases.keep(), self._reporter.keep())]
        claimer = self._watched(self._claims.make())
        try:
            await self._change.until(lambda: self._drains > 0)
        except asyncio.CancelledError:  # our own caller is in a hurry; the jobs still have to be handed back
            self._drains = 2
            self.drain()
            raise
        finally:
            await self._drain(claimer)
            for task in (claimer, *keepers, *([self._claims.waiting] if self._claims.waiting else [])):
                await self._cancel(task)
            await self._trials.close()
            await self._reporter.leave()
        for task in (claimer, *keepers):
            if not task.cancelled():
                task.result()

    def _watched(self, work: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        """A task without which the worker cannot go on: if it breaks, the worker drains and `main` raises."""

        def ended(task: asyncio.Task[None]) -> None:
            self._change.tell()
            if not task.cancelled() and task.exception():
                self.drain()

        task = self.loop.create_task(work)
        task.add_done_callback(ended)
        return task

    async def close(self) -> None:
        """Calls `on_shutdown` and closes the connections."""
        if self.on_shutdown:
            await self.on_shutdown(self.ctx)
        await self._store.close()
        await self._records.close()

    async def _sign_of_life(self) -> None:
        try:
            await self.record_health()
        except FAILURES as error:
            store_error(error)  # whoever claims next will say it; what is no failure of Redis's is raised
            self._last_health_check = 0.0

    def _standing(self) -> Standing:
        return Standing(
            max_jobs=self.max_jobs,
            running=len(self._leases),
            starts=self._starts,
            renewed_ago_s=self._leases.renewed_ago_s,
            draining=self._drains > 0,
        )

    def figures(self) -> list[Figure]:
        """What this worker has counted, and how it stands."""
        standing = self._standing()
        return [
            Figure(metrics.STARTS.name, (), standing.starts),
            Figure(metrics.LEASES_LOST.name, (), self._leases.lost),
            Figure(metrics.RUNNING.name, (), standing.running),
            Figure(metrics.SLOTS.name, (), standing.max_jobs),
            Figure(metrics.DRAINING.name, (), int(standing.draining)),
            Figure(metrics.RENEWAL_AGE.name, (), standing.renewed_ago_s),
        ]

    # Running

    def _start(self, job: ClaimedJob, token: str, ends_at: float) -> None:
        lease = Lease(
            job.id,
            attempt=job.attempt,
            token=token,
            why=job.why,
            crashes=job.crashes,
            ends_at=ends_at,
            mint=self._store.next_attempt,
        )
        self._leases.add(lease)
        self._starts += 1
        trial = self._trials.admit(job, lease)
        name = f"{job.id}:{job.attempt}"  # the id alone is not unique: we may take over what we have lost ourselves
        self.tasks[name] = task = self.loop.create_task(self._run(job, lease, name, trial), name=name)
        task.add_done_callback(partial(self._ended, name))

    def _ended(self, name: str, task: asyncio.Task[None]) -> None:
        del self.tasks[name]
        self._change.tell()
        if not task.cancelled() and (error := task.exception()):
            _logger.error(
                "job %s ended with an internal error",
                name,
                exc_info=error,
                extra=fields("internal_error", name.rpartition(":")[0]),
            )

    async def _run(self, job: ClaimedJob, lease: Lease, name: str, trial: Trial | Elsewhere | None) -> None:
        try:
            if back := await self._not_now(lease, trial):
                return await self._hand_back(lease, back)
            match await self._call(job, lease, name):
                case HandBack() as back:
                    await self._hand_back(lease, back)
                case Acknowledge():
                    self.jobs_complete += 1
                    await self._acknowledge(lease)
                case Dead() as dead:
                    await self._bury(lease, dead)
        finally:
            self._trials.left(lease, trial)
            self._leases.remove(lease)

    async def _not_now(self, lease: Lease, trial: Trial | Elsewhere | None) -> HandBack | None:
        """Why a job does not begin: the signal came, or there is no place for a suspect, or it was stopped before."""
        if self._drains:
            return HandBack(0, lease.why)
        if isinstance(trial, Elsewhere):
            return HandBack(round(trial.delay_s * 1000), lease.why)
        if trial is not None:
            await trial.turn(lease)
        stopped = lease.stopped.result() if lease.stopped.done() else Stop.CANCELLED
        return None if stopped is Stop.CANCELLED else HandBack(0, lease.why)  # of a cancel its function is told

    async def _call(self, job: ClaimedJob, lease: Lease, name: str) -> End:
        self.job_tasks[name] = self.tasks[name]  # while it stands there it may be cancelled: a hand-back may not
        try:
            return await JobCall(self.functions, job, lease, self._max_crashes).end(self.ctx)
        finally:
            del self.job_tasks[name]

    async def _bury(self, lease: Lease, dead: Dead) -> None:
        _logger.warning(
            "job %s cannot be run (%s): %s",
            lease.request_id,
            dead.code,
            dead.message,
            extra=fields("job_given_up", lease.request_id, code=dead.code, why=dead.message),
        )
        try:
            await self._on_dead(lease.request_id, lease, dead.code, dead.message)
        except Exception:  # a hook that raises must neither end the worker nor lose the job
            _logger.exception(
                "cannot end job %s; it is tried again",
                lease.request_id,
                extra=fields("job_not_ended", lease.request_id),
            )
            await self._hand_back(lease, HandBack(round(DEAD_RETRY_S * 1000), lease.why))
        else:
            self.jobs_failed += 1
            await self._acknowledge(lease)

    async def _acknowledge(self, lease: Lease) -> None:
        lease.is_parting = True

        async def once(_: int) -> bool:
            # On one server the script looks. A failover after this look may leave a request without a job: its readers
            # mend that.
            if self._is_split and await self._records.has_lost_end(lease.request_id):
                return await self._store.hand_back(lease, delay_ms=0, why="end_lost")
            return await self._store.acknowledge(lease)

        ours = await insist("acknowledge", once)
        _logger.info(
            "job %s, attempt %d: %s",
            lease.request_id,
            lease.attempt,
            "acknowledged" if ours else "belongs to another worker",
            extra=fields("job_acknowledged", lease.request_id, attempt=lease.attempt, owned=ours),
        )

    async def _hand_back(self, lease: Lease, back: HandBack) -> None:
        self.jobs_retried += 1
        lease.is_parting = True
        ours = await insist("hand back", lambda _: self._store.hand_back(lease, delay_ms=back.delay_ms, why=back.why))
        _logger.info(
            "job %s, attempt %d: %s (%s)",
            lease.request_id,
            lease.attempt,
            "handed back" if ours else "belongs to another worker",
            back.why,
            extra=fields(
                "job_handed_back",
                lease.request_id,
                attempt=lease.attempt,
                owned=ours,
                why=back.why,
                delay_ms=back.delay_ms,
            ),
        )

    # Draining

    async def _drain(self, claimer: asyncio.Task[None]) -> None:
        def idle() -> bool:
            return claimer.done() and not self.tasks

        await self._change.until(lambda: idle() or self._drains > 1, self._drain_s)
        self._leases.stop_all(Stop.DRAINED)
        await self._change.until(lambda: idle() or self._drains > 2, HAND_BACK_S)
        for task in self.job_tasks.values():  # the job function ends here; what follows is its hand-back
            task.cancel()
        await self._change.until(idle, self._lease_s)
        for task in self.tasks.values():  # without Redis nothing can be handed back: the leases run out
            name = task.get_name()
            _logger.error(
                "job %s could not be handed back in time",
                name,
                extra=fields("job_not_handed_back", name.rpartition(":")[0]),
            )
            task.cancel()
        await self._change.until(lambda: not self.tasks, self._lease_s)

    async def _cancel(self, task: asyncio.Future[None]) -> None:
        """Cancels until it is done: Python 3.11's `wait_for`, which redis-py sends with, can swallow a cancellation."""
        while not task.done():
            task.cancel()
            await asyncio.wait({task}, timeout=0.1)
