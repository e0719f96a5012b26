"""Checks the answers of a Redis to INFO and other commands. Pure: sends no commands."""

import re
from collections.abc import Callable, Mapping
from typing import Any, Literal, NamedTuple

from tailrace.broker.slots import SLOTS
from tailrace.schemas.redis_url import OF_A_CLUSTER

Level = Literal["ok", "warning", "failed"]

REDIS_MIN = (7, 0)
VALKEY_MIN = (8, 0)
SKEW_MAX_S = 2.0
PING_MAX_MS = 5.0
OUTBOX_AGE_MAX_S = 60.0


class Finding(NamedTuple):
    """The result of one check.

    Attributes:
        check: the name of the check.
        level: `failed` if requests cannot run or may be lost, `warning` for anything else to act on, otherwise `ok`.
        found: what was found.
        advice: what to do; empty for `ok`.
    """

    check: str
    level: Level
    found: str
    advice: str = ""


Info = Mapping[str, Any]
"""The answer to INFO, as redis-py parses it."""


def check_version(info: Info) -> Finding:
    """Whether the server is new enough for the scripts and streams that Tailrace uses."""
    product, minimum, version = "Redis", REDIS_MIN, str(info.get("redis_version", ""))
    if "valkey_version" in info:
        product, minimum, version = "Valkey", VALKEY_MIN, str(info["valkey_version"])
    found = f"{product} {version or 'of an unknown version'}"
    numbers = tuple(int(part) for part in re.findall(r"\d+", version)[:2])
    if numbers >= minimum:
        return Finding("version", "ok", found)
    return Finding("version", "failed", found, "use Redis 7, Valkey 8 or newer")


def check_role(info: Info) -> Finding:
    """Whether the server is a primary."""
    if info.get("role") == "master":
        return Finding("role", "ok", f"primary with {info.get('connected_slaves', 0)} replicas")
    return Finding("role", "failed", "a read-only replica", "put the primary, or its Sentinels, into the URL")


def check_mode(info: Info) -> Finding:
    """Whether it is a single server, not a node of a cluster."""
    if not info.get("cluster_enabled"):
        return Finding("mode", "ok", "a single server")
    return Finding("mode", "failed", "a node of a Redis Cluster", OF_A_CLUSTER)


def check_node_mode(info: Info) -> Finding:
    """Whether it is a node of a cluster."""
    if info.get("cluster_enabled"):
        return Finding("mode", "ok", "a node of a Redis Cluster")
    return Finding("mode", "failed", "a single server", "use a URL with redis:// (docs/redis-topologies.md)")


def check_coverage(uncovered: int) -> Finding:
    """Whether every slot of a cluster has a node.

    Args:
        uncovered: the number of slots without a node.
    """
    if not uncovered:
        return Finding("slots", "ok", f"all {SLOTS:,} slots have a node")
    found = f"{uncovered:,} of {SLOTS:,} slots have no node"
    return Finding(
        "slots", "failed", found, "assign them to nodes (CLUSTER ADDSLOTSRANGE): requests in them are refused"
    )


def check_eviction(info: Info) -> Finding:
    """Whether the server may evict the logs of running requests."""
    policy = info.get("maxmemory_policy")
    if policy == "noeviction":
        return Finding("eviction", "ok", "noeviction")
    advice = "set maxmemory-policy noeviction: otherwise logs, records and leases of running requests may be evicted"
    return Finding("eviction", "failed", str(policy or "unknown"), advice)


def check_memory(info: Info) -> Finding:
    """How much of its memory the server uses."""
    used, most = int(info.get("used_memory", 0)), int(info.get("maxmemory", 0))
    if not most:
        advice = "set maxmemory below the memory of the machine: without a limit the kernel may kill the server"
        return Finding("memory", "warning", f"{_mib(used)} used, no limit", advice)
    share = used / most
    found = f"{_mib(used)} of {_mib(most)} used ({share:.0%})"
    if share < 0.8:
        return Finding("memory", "ok", found)
    return Finding(
        "memory", "warning", found, "give it more memory, or keep logs for a shorter time (TAILRACE_RETENTION_S)"
    )


def check_persistence(info: Info) -> Finding:
    """Whether the data survives a restart of the server."""
    if info.get("aof_enabled"):
        if info.get("aof_last_write_status", "ok") != "ok":
            return Finding(
                "persistence", "failed", "the append-only file cannot be written", "check the disk of the server"
            )
        return Finding("persistence", "ok", "append-only file")
    advice = "set appendonly yes: otherwise a restart of the server loses all requests since the last snapshot"
    snapshots = info.get("rdb_last_save_time") and info.get("rdb_saves", 0)
    return Finding("persistence", "warning", "only snapshots" if snapshots else "no append-only file", advice)


INFO_CHECKS: tuple[Callable[[Info], Finding], ...] = (
    *(check_version, check_role, check_eviction, check_memory, check_persistence),
)
"""The checks of every server, whatever its mode."""


def check_clock(skew_s: float, within_s: float) -> Finding:
    """How far the clocks of the server and of this machine differ. Leases depend on the server's clock alone.

    Args:
        skew_s: the time of the server minus the local time.
        within_s: the error of that difference: half a round trip.
    """
    found = f"differs by {skew_s:+.3f} s (to within {within_s:.3f} s)"
    if abs(skew_s) - within_s <= SKEW_MAX_S:
        return Finding("clock", "ok", found)
    return Finding(
        "clock",
        "warning",
        found,
        "synchronize both clocks (NTP): the times in logs and outcomes are those of the server",
    )


def check_latency(ping_ms: float) -> Finding:
    """How long a round trip takes."""
    found = f"{ping_ms:.2f} ms per round trip (median)"
    if ping_ms <= PING_MAX_MS:
        return Finding("latency", "ok", found)
    return Finding("latency", "warning", found, "run workers close to Redis: each start takes several round trips")


def check_permissions(refused: Mapping[str, str]) -> Finding:
    """Whether the Redis user has the permissions that a worker needs.

    Args:
        refused: the actions that were refused, each with the error of the server.
    """
    if not refused:
        return Finding("permissions", "ok", "the user may do everything that a worker does")
    action, error = next(iter(refused.items()))
    others = f" (and {len(refused) - 1} more)" if len(refused) > 1 else ""
    advice = "give the user the rules in docs/redis-users.md"
    return Finding("permissions", "failed", f"may not {action}{others}: {error}", advice)


def check_failed(check: str, error: str) -> Finding:
    """The finding of a check that could not run, with the error of the server."""
    advice = "give the user the rules in docs/redis-users.md, or find out why the server does not answer"
    return Finding(check, "failed", f"cannot be checked: {error}", advice)


def check_outbox(waiting: int, oldest_s: float, refused: int) -> Finding:
    """Whether outcomes are written to their database.

    Args:
        waiting: the number of outcomes that wait.
        oldest_s: the age of the oldest of them.
        refused: the number of outcomes that the database could not accept.
    """
    found = f"{waiting:,} outcomes wait for the database, the oldest for {oldest_s:.0f} s"
    if refused:
        return Finding("outbox", "failed", f"{found}; {refused:,} were refused", "list them: tailrace results refused")
    if oldest_s > OUTBOX_AGE_MAX_S:
        advice = "check that a worker with TAILRACE_RESULTS_URL, or tailrace sink, runs and reaches the database"
        return Finding("outbox", "failed", found, advice)
    return Finding("outbox", "ok", found)


def _mib(size: int) -> str:
    return f"{size / 1024 / 1024:,.1f} MiB"
