"""Makes the parts of a worker from the settings: Redis clients, publisher, the client of the model's server, traces.

Also checks that the Redis servers can be used. Starts nothing: `app.py` runs the parts, `doctor/` and `results/cli.py`
use some of them. Knows neither the queue nor the processes of a fleet.
"""

import logging
from collections.abc import Mapping

from redis.asyncio import Redis
from redis.exceptions import ReadOnlyError, ResponseError

from tailrace.broker.clients import asking, client_of, client_place
from tailrace.broker.cluster import ClusterRedis
from tailrace.broker.keys import ENTRY_FIELD, log_key
from tailrace.broker.time_limits import REPLY_TIMEOUT_S
from tailrace.schemas.errors import SettingsError, StoreError, StoreRefused
from tailrace.schemas.redis_url import OF_A_CLUSTER
from tailrace.schemas.settings import Settings
from tailrace.telemetry.logging import fields
from tailrace.worker.attempt.request_store import Store
from tailrace.worker.observe.counts import Counts
from tailrace.worker.observe.tracing import NoTraces, Traces
from tailrace.worker.publish.cluster_node import ClusterNode
from tailrace.worker.publish.cluster_publisher import ClusterPublisher
from tailrace.worker.publish.commit_line import CommitLine
from tailrace.worker.publish.publisher import Publisher
from tailrace.worker.upstream.response_body import UpstreamTimeouts
from tailrace.worker.upstream.upstream_client import UpstreamClient

COMMAND_CONNECTIONS = 16
"""For the scripts that begin, finish and release a request; when all are in use, the next caller waits for one."""

_CHECKED_ID = "startup-check"
_logger = logging.getLogger("tailrace.worker")


def make_publisher(settings: Settings, redis: Redis, counts: Counts) -> Publisher | ClusterPublisher:
    """The publisher: one per process, or one per node of a cluster.

    Args:
        settings: those of this process.
        redis: the client of the Redis with the logs; on a cluster, its map of nodes is shared with the publisher.
        counts: those of this process.
    """

    def new_publisher(cluster: ClusterNode | None = None) -> Publisher:
        return Publisher(
            CommitLine(settings.log_url, cluster and cluster.address),
            buffer_bytes=settings.publish_buffer_bytes,
            max_entries=settings.max_log_entries,
            max_bytes=settings.max_log_bytes,
            counts=counts,
            cluster=cluster,
        )

    if isinstance(redis, ClusterRedis):
        return ClusterPublisher(redis.nodes, new_publisher, buffer_bytes=settings.publish_buffer_bytes)
    return new_publisher()


def make_upstream(settings: Settings, environment: Mapping[str, str], counts: Counts | None = None) -> UpstreamClient:
    """The client for the model's server.

    Raises:
        SettingsError: the API key is missing, or the base URL is wrong.
    """
    limits = UpstreamTimeouts(settings.connect_timeout_s, settings.first_byte_timeout_s, settings.idle_timeout_s)
    return UpstreamClient.from_environment(environment, limits, settings.max_jobs, settings.upstream_transport, counts)


def make_traces(settings: Settings, environment: Mapping[str, str], base_url: str) -> Traces:
    """OpenTelemetry traces if the environment names an endpoint, otherwise none.

    Raises:
        SettingsError: the extra `otel` is not installed, or the environment asks for an unsupported protocol.
    """
    endpoints = (f"OTEL_EXPORTER_OTLP_{signal}ENDPOINT" for signal in ("", "TRACES_", "METRICS_"))
    if not any(map(environment.get, endpoints)) or environment.get("OTEL_SDK_DISABLED", "").lower() == "true":
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
    """A client of a server or a cluster whose every wait has a limit."""
    return client_of(url, COMMAND_CONNECTIONS, reply_s=REPLY_TIMEOUT_S)


async def check_servers(settings: Settings) -> None:
    """Checks the Redis of the queue and the one of the logs. Raises as `check_redis` does."""
    for url, name in settings.servers().items():
        redis = redis_client(url)
        try:
            await check_redis(redis, name)
        finally:
            await redis.aclose(close_connection_pool=True)


async def check_redis(redis: Redis, setting: str) -> None:
    """Checks that a Redis answers, accepts writes and runs scripts. Logs a warning if it may evict keys.

    Args:
        redis: a client of that Redis.
        setting: the name of the setting that has the URL, for messages.

    Raises:
        StoreUnavailable: it does not answer.
        StoreRefused: it is a read-only replica, or the user lacks permissions.
        StoreFull: it is out of memory.
    """
    place = client_place(redis)
    try:
        async with asking(redis):
            # Writes nothing, because there is no such log; Redis still refuses it if it refuses writes.
            await redis.xadd(log_key(_CHECKED_ID), {ENTRY_FIELD: ""}, nomkstream=True)
            await Store(redis, patience_s=0).release(_CHECKED_ID, 0, "")
            policy = await _eviction_policy(redis)
    except StoreError as error:
        if isinstance(error.__cause__, ReadOnlyError):
            raise StoreRefused(f"{setting}: Redis at {place} is a read-only replica: name the primary") from error
        raise error.with_context(before=f"{setting}: ") from error
    if policy not in (None, "noeviction"):
        _logger.warning(
            "Redis at %s may evict logs (maxmemory-policy %s): set noeviction",
            place,
            policy,
            extra=fields("redis_may_evict", redis=place, policy=policy),
        )


async def _eviction_policy(redis: Redis) -> str | None:
    """The server's `maxmemory_policy`; None if the user may not run INFO. Raises StoreRefused for a cluster node."""
    try:
        info = await redis.info("memory", "cluster")
    except ResponseError:
        return None
    if info.get("cluster_enabled") and not isinstance(redis, ClusterRedis):
        raise StoreRefused(f"Redis at {client_place(redis)}: {OF_A_CLUSTER}")
    return info.get("maxmemory_policy")
