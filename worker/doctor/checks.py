"""The doctor: asks Redis and the model's server what a worker will need of them, before a request has to find out.

Changes nothing: what it tries is tried on names that no request has. Judging Redis's answers is `doctor_redis.py`'s.
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
from tailrace.worker.doctor import redis_checks as judge
from tailrace.worker.doctor.redis_checks import Finding
from tailrace.worker.results.run_sink import make_database
from tailrace.worker.wiring import make_upstream, redis_client

PINGS = 7
NOBODY = "doctor"
"""An id whose request nobody has."""

_LET_IN = "see that it runs and can be reached, and that its user may read and write tailrace_results"

OF_THE_QUEUE = ("run scripts on the queue", "wait for jobs")

Looks = Mapping[str, Callable[[Redis], Awaitable[Finding | None]]]


async def examine(settings: Settings, environment: Mapping[str, str]) -> AsyncIterator[Finding]:
    """Looks at everything, one thing after the other.

    Args:
        settings: ours; that they could be read is the first finding.
        environment: for what is the model's server's.
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
                looks = {**OF_A_SERVER, **OF_A_USER, **(OF_A_QUEUE if has_queue else {})}
                findings = _redis(redis, client_place(redis), setting, judge.mode, looks)
            async for finding in findings:
                of = "" if len(servers) == 1 else ", queue" if has_queue else ", logs"
                yield finding._replace(check=finding.check + of)
        finally:
            await redis.aclose(close_connection_pool=True)
    async for finding in _upstream(settings, environment):
        yield finding
    if settings.results_url.get_secret_value():
        yield await _database(settings)


def _settings(settings: Settings) -> list[Finding]:
    """Values that are allowed, and do not go together."""
    advice: list[str] = []
    if settings.first_byte_timeout_s >= settings.run_limit_s:
        advice.append("TAILRACE_FIRST_BYTE_TIMEOUT_S is never reached: TAILRACE_RUN_LIMIT_S ends requests before it")
    if settings.idle_timeout_s >= settings.run_limit_s:
        advice.append("TAILRACE_IDLE_TIMEOUT_S is never reached: TAILRACE_RUN_LIMIT_S ends requests before it")
    if settings.poll_s > settings.lease_s:
        advice.append("TAILRACE_POLL_S above TAILRACE_LEASE_S delays takeovers by the difference")
    if not advice:
        return [Finding("settings", "good", "read, and they go together")]
    return [Finding("settings", "note", "two do not go together", line) for line in advice]


async def _cluster(redis: ClusterRedis, where: str, setting: str) -> AsyncIterator[Finding]:
    """Each node that has slots, and what our user may do."""
    try:
        await redis.nodes.learn()
    except FAILURES as error:
        yield _away(redis, setting, error)
        return
    yield judge.coverage(redis.nodes.uncovered)
    for node in redis.nodes.primaries():
        name = f"{node[0]}:{node[1]}"
        async for finding in _redis(redis.at(node), name, setting, judge.node_mode, OF_A_SERVER):
            yield finding._replace(check=f"{finding.check}, {name}")
    async for finding in _looked(redis, OF_A_USER):
        yield finding


async def _redis(
    redis: Redis, where: str, setting: str, mode: Callable[[judge.Info], Finding], looks: Looks
) -> AsyncIterator[Finding]:
    try:
        await redis.ping()
        info: dict[str, Any] = await redis.info()
    except FAILURES as error:
        yield _away(redis, setting, error)
        return
    yield Finding("redis", "good", f"answers at {where}")
    for look in (judge.version, mode, judge.role, judge.eviction, judge.memory, judge.persistence):
        yield look(info)
    async for finding in _looked(redis, looks):
        yield finding


async def _looked(redis: Redis, looks: Looks) -> AsyncIterator[Finding]:
    for check, look_at in looks.items():
        try:
            finding = await look_at(redis)
        except FAILURES as error:  # one that our user may not have hides nothing of the others
            yield judge.unanswered(check, str(client_error(error, redis)))
            continue
        if finding is not None:
            yield finding


def _away(redis: Redis, setting: str, error: Exception) -> Finding:
    ours = client_error(error, redis)
    advice = f"check {setting}, that the server runs, and that nothing stands between"
    if isinstance(ours, StoreRefused):
        advice = f"check user and password in {setting}, and the user's rules (docs/redis-users.md)"
    return Finding("redis", "bad", str(ours), advice)


async def _clock(redis: Redis) -> Finding:
    """How far the server's clock is from ours."""
    before = time()
    seconds, micros = await redis.time()
    after = time()
    return judge.clock(seconds + micros / 1e6 - (before + after) / 2, (after - before) / 2)


async def _latency(redis: Redis) -> Finding:
    """How long a round trip takes."""
    taken: list[float] = []
    for _ in range(PINGS):
        began = monotonic()
        await redis.ping()
        taken.append((monotonic() - began) * 1000)
    return judge.latency(sorted(taken)[PINGS // 2])


async def _rights(redis: Redis) -> Finding:
    """Whether this user may do what a worker does."""

    async def listen() -> None:
        async with redis.pubsub() as heard:
            await heard.subscribe(keys.CANCEL_CHANNEL)
            await heard.get_message(timeout=REPLY_TIMEOUT_S)  # that it is refused is said here

    tries: dict[str, Callable[[], Awaitable[Any]]] = {
        "write logs": lambda: redis.xadd(keys.log_key(NOBODY), {keys.ENTRY_FIELD: ""}, nomkstream=True),
        "run scripts on records": lambda: Store(redis, patience_s=0).release(NOBODY, 0, ""),
        "run scripts on the queue": lambda: run_script(
            redis, scripts.RENEW, lease_ms=1000, leases=msgspec.msgpack.encode([])
        ),
        "push to readers": lambda: redis.publish(push_channel(0), encode_pushes([])),
        "hear cancels": listen,
        "wait for jobs": lambda: redis.blpop([f"{keys.WAKE}:{NOBODY}"], timeout=0.01),
    }
    if isinstance(redis, ClusterRedis):
        tries = {what: attempt for what, attempt in tries.items() if what not in OF_THE_QUEUE}
    refused: dict[str, str] = {}
    for what, attempt in tries.items():
        try:
            await attempt()
        except StoreError as error:
            refused[what] = str(error)
        except FAILURES as error:
            refused[what] = str(client_error(error, redis))
    return judge.rights(refused)


async def _worker(redis: Redis) -> Finding:
    """Whether somebody would run what is submitted."""
    if await redis.exists(keys.HEALTH):
        return Finding("workers", "good", "one has given a sign of life lately")
    return Finding("workers", "note", "none has given a sign of life", "start one: tailrace worker")


async def _outbox(redis: Redis) -> Finding | None:
    """What waits for the database of outcomes, if there is an outbox."""
    if not await redis.exists(keys.OUTBOX):
        return None
    waiting, refused = await redis.xlen(keys.OUTBOX), await redis.hlen(keys.OUTBOX_REFUSED)
    oldest = await redis.xrange(keys.OUTBOX, count=1)
    seconds, _ = await redis.time()
    since_s = int(oldest[0][0].partition(b"-")[0]) / 1000 if oldest else seconds
    return judge.outbox(waiting, max(seconds - since_s, 0.0), refused)


async def _database(settings: Settings) -> Finding:
    """Whether the database of outcomes can be written to: it is there, with the tables we know."""
    try:
        database = make_database(settings)
    except SettingsError as error:
        return Finding("database", "bad", "cannot be used", str(error))
    try:
        await database.check()
    except ResultsUnavailable as error:
        found, _, advice = str(error).partition(": run ")
        return Finding("database", "bad", found, f"run {advice}" if advice else _LET_IN)
    finally:
        await database.close()
    return Finding("database", "good", f"{database.place} takes outcomes, and has the tables of this version")


OF_A_SERVER: Looks = {"clock": _clock, "latency": _latency}
OF_A_USER: Looks = {"rights": _rights}
OF_A_QUEUE: Looks = {"workers": _worker, "outbox": _outbox}


async def _upstream(settings: Settings, environment: Mapping[str, str]) -> AsyncIterator[Finding]:
    try:
        upstream = make_upstream(settings, environment)
    except SettingsError as error:
        yield Finding("model's server", "bad", "no client could be made", str(error))
        return
    began = monotonic()
    try:
        async with asyncio.timeout(settings.connect_timeout_s + judge.SKEW_NOTED_S):
            await upstream.check_access()
    except UpstreamError as error:
        yield _unreached(error)
    except TimeoutError:
        yield Finding("model's server", "bad", "does not answer", "check OPENAI_BASE_URL, and the way there")
    else:
        yield Finding("model's server", "good", f"takes the key; answered in {(monotonic() - began) * 1000:.0f} ms")
    finally:
        await upstream.close()


def _unreached(error: UpstreamError) -> Finding:
    match error.status:
        case 401 | 403:
            return Finding("model's server", "bad", f"refuses the key: {error}", "set OPENAI_API_KEY to one it takes")
        case 404 | 405:
            advice = "nothing, if it serves the API; else check OPENAI_BASE_URL, which as a rule ends in /v1"
            return Finding("model's server", "note", "is there, and has no list of models to ask for", advice)
        case None:
            advice = "check OPENAI_BASE_URL, the way there, and HTTPS_PROXY where there is a proxy"
            return Finding("model's server", "bad", str(error), advice)
        case status:
            return Finding(
                "model's server", "note", f"is there, and answers {status}: {error}", "look at its own status"
            )
