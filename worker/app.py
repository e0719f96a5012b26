"""Runs the parts of a worker until they have drained: one process, or the parent of a fleet.

`wiring.py` makes the parts. Knows nothing of how a request is run.
"""

import asyncio
import os
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from arq.worker import func

from tailrace.broker.keys import JOB_FUNCTION
from tailrace.schemas.redis_url import parse_redis_url
from tailrace.schemas.settings import Settings
from tailrace.telemetry.metric_samples import MetricSample
from tailrace.telemetry.metrics import PROCESS_DEATHS
from tailrace.worker.attempt.job import RUNNER, Runner, generate
from tailrace.worker.attempt.request_store import Store
from tailrace.worker.attempt.services import Services
from tailrace.worker.fleet import Fleet
from tailrace.worker.observe.attempt_observer import AttemptObservers
from tailrace.worker.observe.counts import Counts
from tailrace.worker.observe.fleet_metrics import FleetMetrics
from tailrace.worker.observe.process_metrics import publish_process_metrics, serve_metrics
from tailrace.worker.publish.cluster_publisher import ClusterPublisher
from tailrace.worker.publish.publisher import Publisher
from tailrace.worker.queue.leased_worker import LeasedWorker
from tailrace.worker.queue.outbox_state import OutboxState
from tailrace.worker.results.run_sink import run_sink
from tailrace.worker.wiring import check_servers, make_publisher, make_traces, make_upstream, redis_client


def announce(settings: Settings) -> None:
    """Prints one line when the worker takes jobs. Scripts and tests wait for it."""
    where = ", logs at ".join(parse_redis_url(url).place for url in settings.servers())
    print(f"ready: pid {os.getpid()}, {settings.max_jobs} jobs at once, {where}", flush=True)


async def run_worker(
    settings: Settings,
    environment: Mapping[str, str],
    ready: Callable[[Settings], None] = announce,
    handle_signals: bool = True,
    metrics_pipe: int | None = None,
) -> None:
    """Runs a worker in this process until it has drained.

    Args:
        settings: those of this process.
        environment: has the variables of the model's server (`OPENAI_API_KEY`, `OPENAI_BASE_URL`, `OPENAI_ORG_ID`) and
            of OpenTelemetry.
        ready: called before the first claim.
        handle_signals: whether SIGTERM and SIGINT drain the worker; otherwise only cancelling this coroutine does.
        metrics_pipe: the file descriptor of a pipe to the parent of a fleet, which serves the metrics of this process.

    Raises:
        SettingsError: the API key is missing, the base URL is wrong, or the port for metrics is taken.
        StoreError: Redis does not answer, or does not accept writes.
    """
    counts = Counts()
    upstream = make_upstream(settings, environment, counts)
    traces = make_traces(settings, environment, upstream.base_url)
    redis, queue = redis_client(settings.log_url), redis_client(settings.queue_url)
    try:
        await check_servers(settings)
        publisher = make_publisher(settings, redis, counts)
        outbox_state = OutboxState()
        async with publisher, run_sink(settings, queue, redis, outbox_state):
            observers = AttemptObservers(counts, traces)
            services = Services(Store(redis, queue=queue, outbox_state=outbox_state), publisher, upstream, observers)
            worker = _worker(settings, services, ready, handle_signals, outbox_state)

            def metric_samples() -> list[MetricSample]:
                return [*counts.metric_samples(), *publisher.metric_samples(), *worker.metric_samples()]

            try:
                async with publish_process_metrics(settings, queue, metric_samples, metrics_pipe):
                    await _until_drained(worker, publisher)
            finally:
                await worker.close()
    finally:
        await traces.close()
        await upstream.close()
        await redis.aclose(close_connection_pool=True)
        await queue.aclose(close_connection_pool=True)


async def run_fleet(settings: Settings, environment: Mapping[str, str], command: Sequence[str], size: int) -> None:
    """Runs several worker processes under this one, until a signal has ended them all.

    Args:
        settings: those of all processes.
        environment: as for `run_worker`.
        command: the command line of each process.
        size: the number of processes.

    Raises:
        SettingsError, StoreError: as `run_worker`, before any process is started.
    """
    await make_upstream(settings, environment).close()
    queue = redis_client(settings.queue_url)
    try:
        await check_servers(settings)
        fleet_metrics = None if settings.metrics_port is None else FleetMetrics()
        fleet = Fleet(command, size, fleet_metrics)

        def metric_samples() -> list[MetricSample]:
            samples = fleet_metrics.metric_samples() if fleet_metrics is not None else []
            return [*samples, MetricSample(PROCESS_DEATHS.name, (), fleet.deaths)]

        def is_healthy() -> bool:
            return fleet_metrics is None or fleet_metrics.alive == size

        async with serve_metrics(settings, queue, metric_samples, is_healthy):
            await fleet.run()
    finally:
        await queue.aclose(close_connection_pool=True)


def _worker(
    settings: Settings,
    services: Services,
    ready: Callable[[Settings], None],
    handle_signals: bool,
    outbox_state: OutboxState,
) -> LeasedWorker:
    runner = Runner(
        services,
        max_attempts=settings.max_attempts,
        run_limit_s=settings.run_limit_s,
        retention_s=settings.retention_s,
        dead_letters=settings.dead_letters,
    )

    async def started(ctx: dict[Any, Any]) -> None:
        ready(settings)

    return LeasedWorker(
        [func(generate, name=JOB_FUNCTION)],
        redis_url=settings.queue_url,
        log_url=settings.log_url,
        on_dead=runner.end_dead,
        max_jobs=settings.max_jobs,
        lease_s=settings.lease_s,
        poll_s=settings.poll_s,
        drain_s=settings.drain_s,
        tenant_limit=settings.tenant_limit,
        tenant_limits=settings.tenant_limits,
        max_crashes=settings.max_crashes,
        outbox_state=outbox_state,
        ctx={RUNNER: runner},
        on_startup=started,
        handle_signals=handle_signals,
    )


async def _until_drained(worker: LeasedWorker, publisher: Publisher | ClusterPublisher) -> None:
    running = asyncio.create_task(worker.run(), name="queue")
    try:
        # The publisher ends first only because of a bug; without it no request can be finished.
        await asyncio.wait({running, publisher.task}, return_when=asyncio.FIRST_COMPLETED)
        if not running.done():
            publisher.task.result()
        running.result()
    finally:
        running.cancel()
        await asyncio.wait({running})
