"""The checks of `tailrace doctor`: whether a worker could use these settings, Redis servers and model's server.

They change nothing: commands that write are tried on names that no request has. `redis_checks.py` judges the answers of
Redis.
"""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from time import monotonic, time
from typing import Any

import msgspec
from redis.asyncio import Redis

from tailrace.broker import keys, scripts
from tailrace.broker.clients import client_error, client_place
from tailrace.broker.cluster import ClusterRedis
from tailrace.broker.errors import FAILURES
from tailrace.broker.keys import push_channel
from tailrace.broker.script_runner import run_script
from tailrace.broker.time_limits import REPLY_TIMEOUT_S
from tailrace.schemas.errors import ResultsUnavailable, SettingsError, StoreError, StoreRefused, UpstreamError
from tailrace.schemas.push import encode_pushes
from tailrace.schemas.settings import Settings
from tailrace.worker.attempt.request_store import Store
from tailrace.worker.doctor import redis_checks
from tailrace.worker.doctor.redis_checks import Finding
from tailrace.worker.results.run_sink import make_database
from tailrace.worker.wiring import make_upstream, redis_client

PINGS = 7
UPSTREAM_ANSWER_S = 2.0
UNUSED_ID = "doctor"
"""An id that no request has."""

_DATABASE_ADVICE = "check that it runs and can be reached, and that its user may read and write tailrace_results"

QUEUE_ACTIONS = ("run scripts on the queue", "wait for jobs")

Checks = Mapping[str, Callable[[Redis], Awaitable[Finding | None]]]


async def examine(settings: Settings, environment: Mapping[str, str]) -> AsyncIterator[Finding]:
    """Runs all checks, one after the other.

    Args:
        settings: the settings of the worker.
        environment: has the variables of the model's server.
    """
    for finding in _settings(settings):
        yield finding
    servers = settings.servers()
    for url, setting in servers.items():
        redis = redis_client(url)
        try:
            has_queue = url == settings.queue_url
            if isinstance(redis, ClusterRedis):
                findings = _cluster(redis, client_place(redis), setting)
            else:
                checks = {**SERVER_CHECKS, **USER_CHECKS, **(QUEUE_CHECKS if has_queue else {})}
                findings = _redis(redis, client_place(redis), setting, redis_checks.check_mode, checks)
            async for finding in findings:
                suffix = "" if len(servers) == 1 else ", queue" if has_queue else ", logs"
                yield finding._replace(check=finding.check + suffix)
        finally:
            await redis.aclose(close_connection_pool=True)
    async for finding in _upstream(settings, environment):
        yield finding
    if settings.results_url.get_secret_value():
        yield await _database(settings)


def _settings(settings: Settings) -> list[Finding]:
    """Whether the settings are consistent."""
    advice: list[str] = []
    if settings.first_byte_timeout_s >= settings.run_limit_s:
        advice.append("TAILRACE_FIRST_BYTE_TIMEOUT_S is never reached: TAILRACE_RUN_LIMIT_S ends requests before it")
    if settings.idle_timeout_s >= settings.run_limit_s:
        advice.append("TAILRACE_IDLE_TIMEOUT_S is never reached: TAILRACE_RUN_LIMIT_S ends requests before it")
    if settings.poll_s > settings.lease_s:
        advice.append("TAILRACE_POLL_S above TAILRACE_LEASE_S delays takeovers by the difference")
    if not advice:
        return [Finding("settings", "ok", "valid and consistent")]
    return [Finding("settings", "warning", "two settings conflict", line) for line in advice]


async def _cluster(redis: ClusterRedis, where: str, setting: str) -> AsyncIterator[Finding]:
    """Checks each node with slots, and the permissions of the user."""
    try:
        await redis.nodes.learn()
    except FAILURES as error:
        yield _unavailable(redis, setting, error)
        return
    yield redis_checks.check_coverage(redis.nodes.uncovered)
    for node in redis.nodes.primaries():
        name = f"{node[0]}:{node[1]}"
        async for finding in _redis(redis.at(node), name, setting, redis_checks.check_node_mode, SERVER_CHECKS):
            yield finding._replace(check=f"{finding.check}, {name}")
    async for finding in _run_checks(redis, USER_CHECKS):
        yield finding


async def _redis(
    redis: Redis, where: str, setting: str, mode: Callable[[redis_checks.Info], Finding], checks: Checks
) -> AsyncIterator[Finding]:
    try:
        await redis.ping()
        info: dict[str, Any] = await redis.info()
    except FAILURES as error:
        yield _unavailable(redis, setting, error)
        return
    yield Finding("redis", "ok", f"answers at {where}")
    for check in (mode, *redis_checks.INFO_CHECKS):
        yield check(info)
    async for finding in _run_checks(redis, checks):
        yield finding


async def _run_checks(redis: Redis, checks: Checks) -> AsyncIterator[Finding]:
    for name, check in checks.items():
        try:
            finding = await check(redis)
        except FAILURES as error:  # a permission that the user lacks must not hide the other findings
            yield redis_checks.check_failed(name, str(client_error(error, redis)))
            continue
        if finding is not None:
            yield finding


def _unavailable(redis: Redis, setting: str, error: Exception) -> Finding:
    found = client_error(error, redis)
    advice = f"check {setting}, that the server runs, and that the network lets you reach it"
    if isinstance(found, StoreRefused):
        advice = f"check the user and password in {setting}, and the user's rules (docs/redis-users.md)"
    return Finding("redis", "failed", str(found), advice)


async def _clock(redis: Redis) -> Finding:
    """Compares the clock of the server with the local one."""
    before = time()
    seconds, micros = await redis.time()
    after = time()
    return redis_checks.check_clock(seconds + micros / 1e6 - (before + after) / 2, (after - before) / 2)


async def _latency(redis: Redis) -> Finding:
    """Measures a round trip."""
    durations_ms: list[float] = []
    for _ in range(PINGS):
        began = monotonic()
        await redis.ping()
        durations_ms.append((monotonic() - began) * 1000)
    return redis_checks.check_latency(sorted(durations_ms)[PINGS // 2])


async def _permissions(redis: Redis) -> Finding:
    """Tries the operations of a worker."""

    async def listen() -> None:
        async with redis.pubsub() as subscription:
            await subscription.subscribe(keys.CANCEL_CHANNEL)
            await subscription.get_message(timeout=REPLY_TIMEOUT_S)  # a refusal is raised here

    actions: dict[str, Callable[[], Awaitable[Any]]] = {
        "write logs": lambda: redis.xadd(keys.log_key(UNUSED_ID), {keys.ENTRY_FIELD: ""}, nomkstream=True),
        "run scripts on records": lambda: Store(redis, patience_s=0).release(UNUSED_ID, 0, ""),
        "run scripts on the queue": lambda: run_script(
            redis, scripts.RENEW, lease_ms=1000, leases=msgspec.msgpack.encode([])
        ),
        "push to readers": lambda: redis.publish(push_channel(0), encode_pushes([])),
        "subscribe to cancels": listen,
        "wait for jobs": lambda: redis.blpop([f"{keys.WAKE}:{UNUSED_ID}"], timeout=0.01),
    }
    if isinstance(redis, ClusterRedis):
        actions = {name: action for name, action in actions.items() if name not in QUEUE_ACTIONS}
    refused: dict[str, str] = {}
    for name, action in actions.items():
        try:
            await action()
        except StoreError as error:
            refused[name] = str(error)
        except FAILURES as error:
            refused[name] = str(client_error(error, redis))
    return redis_checks.check_permissions(refused)


async def _worker(redis: Redis) -> Finding:
    """Whether a worker runs."""
    if await redis.exists(keys.HEALTH):
        return Finding("workers", "ok", "at least one is alive")
    return Finding("workers", "warning", "none is alive", "start one: tailrace worker")


async def _outbox(redis: Redis) -> Finding | None:
    """The outcomes that wait for the database; None without an outbox."""
    if not await redis.exists(keys.OUTBOX):
        return None
    waiting, refused = await redis.xlen(keys.OUTBOX), await redis.hlen(keys.OUTBOX_REFUSED)
    oldest = await redis.xrange(keys.OUTBOX, count=1)
    seconds, _ = await redis.time()
    since_s = int(oldest[0][0].partition(b"-")[0]) / 1000 if oldest else seconds
    return redis_checks.check_outbox(waiting, max(seconds - since_s, 0.0), refused)


async def _database(settings: Settings) -> Finding:
    """Whether the database of outcomes can be written to, and has the tables of this version."""
    try:
        database = make_database(settings)
    except SettingsError as error:
        return Finding("database", "failed", "cannot be used", str(error))
    try:
        await database.check()
    except ResultsUnavailable as error:
        found, _, advice = str(error).partition(": run ")
        return Finding("database", "failed", found, f"run {advice}" if advice else _DATABASE_ADVICE)
    finally:
        await database.close()
    return Finding("database", "ok", f"{database.place} accepts outcomes and has the tables of this version")


SERVER_CHECKS: Checks = {"clock": _clock, "latency": _latency}
USER_CHECKS: Checks = {"permissions": _permissions}
QUEUE_CHECKS: Checks = {"workers": _worker, "outbox": _outbox}


async def _upstream(settings: Settings, environment: Mapping[str, str]) -> AsyncIterator[Finding]:
    try:
        upstream = make_upstream(settings, environment)
    except SettingsError as error:
        yield Finding("model's server", "failed", "the client cannot be configured", str(error))
        return
    began = monotonic()
    try:
        async with asyncio.timeout(settings.connect_timeout_s + UPSTREAM_ANSWER_S):
            await upstream.check_access()
    except UpstreamError as error:
        yield _unreached(error)
    except TimeoutError:
        yield Finding("model's server", "failed", "does not answer", "check OPENAI_BASE_URL and the network")
    else:
        yield Finding("model's server", "ok", f"accepts the key; answered in {(monotonic() - began) * 1000:.0f} ms")
    finally:
        await upstream.close()


def _unreached(error: UpstreamError) -> Finding:
    match error.status:
        case 401 | 403:
            return Finding(
                "model's server", "failed", f"refuses the key: {error}", "set OPENAI_API_KEY to a key that it accepts"
            )
        case 404 | 405:
            advice = "nothing, if it serves the API; otherwise check OPENAI_BASE_URL, which usually ends in /v1"
            return Finding("model's server", "warning", "answers, and has no list of models", advice)
        case None:
            advice = "check OPENAI_BASE_URL, the network, and HTTPS_PROXY if there is a proxy"
            return Finding("model's server", "failed", str(error), advice)
        case status:
            return Finding(
                "model's server", "warning", f"answers with status {status}: {error}", "check its own status page"
            )
