"""arq's Worker with leases in place of its claim loop: claims, runs, acknowledges or hands back, drains.

Owns the life of a job in the queue. Knows nothing of what a request is, of logs or of the model's server.
"""

from collections.abc import Awaitable, Callable, Sequence
from typing import Any

from arq.worker import Function, Worker

from worker.lease import Lease

OnDead = Callable[[str, Lease, str, str], Awaitable[None]]
Hook = Callable[[dict[Any, Any]], Awaitable[None]]


class LeasedWorker(Worker):
    """Runs the jobs of `arq:queue` under leases: `await worker.async_run()` returns when it has drained, then `await worker.close()`.

    Construct it inside a running event loop. SIGTERM and SIGINT drain; so does `drain()`. Each call and each signal
    after the first hurries: the second ends the grace period, the third cancels the job functions.

    A job function gets arq's `ctx` and in it `lease` (a `Lease`). It watches `lease.stopped`, and ends in one of these ways:
    it returns (the job is acknowledged); it raises `RetryJob` (handed back, due at once) or `Retry(defer=...)` (handed back,
    due later). Anything else it raises is a failure: `on_dead` is told, then the job is acknowledged. No try is limited.

    Args:
        functions: job functions, as arq takes them.
        redis_url: the Redis or Valkey with the queue. The worker makes and closes connections of its own.
        on_dead: called with request id, lease, code and message when a job ends without its function having ended it, before
            its queue entry goes: `job_expired`, `job_unreadable`, `job_unknown` (function), `job_crashed` (its worker, too often),
            `job_failed` (the function raised). Where it raises, the job is handed back and tried again.
        max_jobs: jobs run at once.
        lease_s: how long a claim lasts without renewal.
        poll_s: how often an idle worker looks at the queue when no wake-up token came.
        drain_s: grace period for running jobs.
        max_crashes: leases of a job that may run out before it counts as one that kills its worker.
        ctx: what every job function finds in its `ctx`, beside arq's own; the same dictionary goes to the hooks.
        on_startup: called with `ctx` before the first claim.
        on_shutdown: called with `ctx` by `close`.
        health_check_s: how often arq's health-check key is written.
        handle_signals: whether SIGTERM and SIGINT are taken over.
    """

    def __init__(
        self,
        functions: Sequence[Function],
        *,
        redis_url: str,
        on_dead: OnDead,
        max_jobs: int = 200,
        lease_s: float = 5.0,
        poll_s: float = 1.0,
        drain_s: float = 20.0,
        max_crashes: int = 3,
        ctx: dict[Any, Any] | None = None,
        on_startup: Hook | None = None,
        on_shutdown: Hook | None = None,
        health_check_s: float = 30.0,
        handle_signals: bool = True,
    ) -> None:
        super().__init__(functions, max_jobs=max_jobs, ctx=ctx, handle_signals=False)

    def drain(self) -> None:
        """No more claims; running jobs get their grace period. Called again it hurries."""
