"""The worker's composition root: checks what it stands on, builds every part once, runs until drained."""

import asyncio
import logging
import os
import signal
import sys
from collections.abc import Callable, Coroutine, Mapping, Sequence
from typing import Any

from arq.worker import func
from redis.asyncio import Redis
from redis.exceptions import ReadOnlyError, RedisError, ResponseError

from tailrace.broker.cluster import ClusterRedis
from tailrace.broker.keys import ENTRY_FIELD, JOB_FUNCTION, log_key
from tailrace.schemas.errors import SettingsError, StoreError, StoreRefused, StoreUnavailable
from tailrace.schemas.redis_url import OF_A_CLUSTER, Node
from tailrace.schemas.settings import Settings
from tailrace.telemetry.metric_samples import Figure
from tailrace.telemetry.metrics import PROCESS_DEATHS
from tailrace.worker.attempt.attempt import Plant
from tailrace.worker.attempt.job import RUNNER, Runner, generate
from tailrace.worker.attempt.request_store import Store
from tailrace.worker.fleet import Fleet
from tailrace.worker.observe.counts import Counts
from tailrace.worker.observe.fleet_metrics import FleetFigures
from tailrace.worker.observe.process_metrics import served, told
from tailrace.worker.observe.tracing import NoTraces, Traces
from tailrace.worker.publish.cluster_publisher import Publishers
from tailrace.worker.publish.commit_line import CommitLine
from tailrace.worker.publish.publisher import Peers, Publisher
from tailrace.worker.queue.leased_worker import LeasedWorker
from tailrace.worker.redis_link import REPLY_TIMEOUT_S, address, client_of, store_error
from tailrace.worker.results.hold import Hold
from tailrace.worker.results.run_sink import sinking
from tailrace.worker.upstream.response_body import TimeLimits
from tailrace.worker.upstream.upstream import Upstream

VERB_CONNECTIONS = 16
"""For begin, finish and release; a burst of them waits its turn."""

_CHECKED_ID = "startup-check"
_logger = logging.getLogger("tailrace.worker")


def announce(settings: Settings) -> None:
    """One line on stdout once the worker takes jobs; scripts and tests wait for it."""
    where = ", logs at ".join(map(address, settings.servers()))
    print(f"ready: pid {os.getpid()}, {settings.max_jobs} jobs at once, {where}", flush=True)


async def run_worker(
    settings: Settings,
    environment: Mapping[str, str],
    ready: Callable[[Settings], None] = announce,
    handle_signals: bool = True,
    voice: int | None = None,
) -> None:
    """Runs a worker in this process until it has drained.

    Args:
        settings: ours.
        environment: for what is the model's server's: `OPENAI_API_KEY`, `OPENAI_BASE_URL`, `OPENAI_ORG_ID`.
        ready: called before the first claim.
        handle_signals: whether SIGTERM and SIGINT drain; otherwise only cancelling this does.
        voice: the file descriptor of a pipe to the parent, which says our figures for us.

    Raises:
        SettingsError: the key is missing, the base URL wrong, or the port for metrics taken.
        StoreError: Redis is not there, or cannot be written to.
    """
    counts = Counts()
    upstream = upstream_of(settings, environment, counts)
    traces = traces_of(settings, environment, upstream.base_url)
    redis, queue = redis_client(settings.log_url), redis_client(settings.queue_url)
    try:
        await check_servers(settings)
        publisher = publisher_of(settings, redis, counts)
        hold = Hold()
        async with publisher, sinking(settings, queue, redis, hold):
            plant = Plant(Store(redis, queue=queue, hold=hold), publisher, upstream, counts=counts, traces=traces)
            worker = _worker(settings, plant, ready, handle_signals, hold)

            def figures() -> list[Figure]:
                return [*counts.figures(), *publisher.figures(), *worker.figures()]

            try:
                async with told(settings, queue, figures, voice):
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
        settings: ours.
        environment: as of `run_worker`.
        command: what each of them runs.
        size: how many.

    Raises:
        SettingsError, StoreError: as `run_worker`, before any of them is started.
    """
    await upstream_of(settings, environment).close()
    queue = redis_client(settings.queue_url)
    try:
        await check_servers(settings)
        heard = None if settings.metrics_port is None else FleetFigures()
        fleet = Fleet(command, size, heard)

        def figures() -> list[Figure]:
            said = heard.figures() if heard is not None else []
            return [*said, Figure(PROCESS_DEATHS.name, (), fleet.deaths)]

        async with served(settings, queue, figures, lambda: heard is None or heard.alive == size):
            await fleet.run()
    finally:
        await queue.aclose(close_connection_pool=True)


def _worker(
    settings: Settings, plant: Plant, ready: Callable[[Settings], None], handle_signals: bool, hold: Hold
) -> LeasedWorker:
    runner = Runner(
        plant,
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
        on_dead=runner.bury,
        max_jobs=settings.max_jobs,
        lease_s=settings.lease_s,
        poll_s=settings.poll_s,
        drain_s=settings.drain_s,
        tenant_limit=settings.tenant_limit,
        tenant_limits=settings.tenant_limits,
        max_crashes=settings.max_crashes,
        hold=hold,
        ctx={RUNNER: runner},
        on_startup=started,
        handle_signals=handle_signals,
    )


async def _until_drained(worker: LeasedWorker, publisher: Publisher | Publishers) -> None:
    running = asyncio.create_task(worker.async_run(), name="queue")
    try:
        # A publisher that ends first has met a fault of ours; without it nothing can be brought to its end here.
        await asyncio.wait({running, publisher.task}, return_when=asyncio.FIRST_COMPLETED)
        if not running.done():
            publisher.task.result()
        running.result()
    finally:
        running.cancel()
        await asyncio.wait({running})


def publisher_of(settings: Settings, redis: Redis, counts: Counts) -> Publisher | Publishers:
    """What writes into logs.

    Args:
        settings: ours.
        redis: the client for verbs on logs; of a cluster, what it learns of the nodes is shared.
        counts: of this process.
    """

    def at(node: Node | None = None, peers: Peers | None = None) -> Publisher:
        return Publisher(
            CommitLine(settings.log_url, node),
            buffer_bytes=settings.publish_buffer_bytes,
            max_entries=settings.max_log_entries,
            max_bytes=settings.max_log_bytes,
            counts=counts,
            peers=peers,
        )

    if isinstance(redis, ClusterRedis):
        return Publishers(redis.nodes, at, buffer_bytes=settings.publish_buffer_bytes)
    return at()


def upstream_of(settings: Settings, environment: Mapping[str, str], counts: Counts | None = None) -> Upstream:
    """The client for the model's server.

    Raises:
        SettingsError: the key is missing, or the base URL wrong.
    """
    limits = TimeLimits(settings.connect_timeout_s, settings.first_byte_timeout_s, settings.idle_timeout_s)
    return Upstream.from_environment(environment, limits, settings.max_jobs, settings.upstream_transport, counts)


def traces_of(settings: Settings, environment: Mapping[str, str], base_url: str) -> Traces:
    """OpenTelemetry, where its environment names a place to export to; otherwise nobody.

    Raises:
        SettingsError: the extra `otel` is not installed, or a protocol is asked for that is not ours.
    """
    places = (f"OTEL_EXPORTER_OTLP_{signal}ENDPOINT" for signal in ("", "TRACES_", "METRICS_"))
    if not any(map(environment.get, places)) or environment.get("OTEL_SDK_DISABLED", "").lower() == "true":
        return NoTraces()
    if environment.get("OTEL_EXPORTER_OTLP_PROTOCOL", "http/protobuf") != "http/protobuf":
        raise SettingsError("OTEL_EXPORTER_OTLP_PROTOCOL: only http/protobuf is supported")
    try:
        from tailrace.worker.observe.otel import OtelTraces  # only here: it takes a fifth of a second to load
    except ModuleNotFoundError as error:
        raise SettingsError(
            "OTEL_EXPORTER_OTLP_ENDPOINT is set, and the extra `otel` is not installed: pip install 'tailrace[otel]'"
        ) from error
    return OtelTraces(environment, base_url, content=settings.trace_content)


def redis_client(url: str) -> Redis:
    """A client for verbs, with every wait bounded."""
    return client_of(url, VERB_CONNECTIONS, reply_s=REPLY_TIMEOUT_S)


async def check_servers(settings: Settings) -> None:
    """Whether the Redis of the queue and that of the logs will do. Raises as `check_redis`."""
    for url, name in settings.servers().items():
        redis = redis_client(url)
        try:
            await check_redis(redis, url, name)
        finally:
            await redis.aclose(close_connection_pool=True)


async def check_redis(redis: Redis, url: str, setting: str) -> None:
    """Whether this Redis will do: there, writable, scripts allowed. Warns where it may evict keys.

    Args:
        redis: a client of it.
        url: where it is.
        setting: what names it.

    Raises:
        StoreUnavailable: nobody answers there.
        StoreRefused: it is a read-only replica, or our user may not do what we need.
        StoreFull: it is out of memory.
    """
    where = f"{address(url)} ({setting})"
    try:
        # Writes nothing, since there is no such log, but is refused where writing is.
        await redis.xadd(log_key(_CHECKED_ID), {ENTRY_FIELD: ""}, nomkstream=True)
        await Store(redis, patience_s=0).release(_CHECKED_ID, 0, "")
        policy = await _eviction_policy(redis)
    except ReadOnlyError as error:
        raise StoreRefused(f"the Redis at {where} is a read-only replica: name the primary") from error
    except StoreError as error:
        raise type(error)(f"the Redis at {where}: {error}") from error
    except (RedisError, OSError) as error:
        ours = store_error(error)
        if isinstance(ours, StoreUnavailable):
            raise StoreUnavailable(f"no Redis answers at {where}: {error}") from error
        raise type(ours)(f"the Redis at {where}: {ours}") from error
    if policy not in (None, "noeviction"):
        _logger.warning("the Redis at %s may evict logs (maxmemory-policy %s): set noeviction", where, policy)


async def _eviction_policy(redis: Redis) -> str | None:
    """How it evicts, where our user may ask. Raises StoreRefused when it is a node of a Cluster."""
    try:
        info = await redis.info("memory", "cluster")
    except ResponseError:
        return None
    if info.get("cluster_enabled") and not isinstance(redis, ClusterRedis):
        raise StoreRefused(OF_A_CLUSTER)
    return info.get("maxmemory_policy")


def run(main: Coroutine[Any, Any, None]) -> None:
    """Runs a coroutine to its end on uvloop, where there is one."""
    factory = None
    if sys.platform != "win32":
        import uvloop

        factory = uvloop.new_event_loop
    with asyncio.Runner(loop_factory=factory) as runner:
        try:
            runner.run(main)
        finally:
            if sys.platform != "win32":  # the process ends here: a signal repeated has nothing left to hurry
                signal.pthread_sigmask(signal.SIG_BLOCK, (signal.SIGTERM, signal.SIGINT))
