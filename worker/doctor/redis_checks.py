"""What the doctor makes of what a Redis says of itself. Pure: judges answers, asks nothing."""

import re
from collections.abc import Mapping
from typing import Any, Literal, NamedTuple

from tailrace.broker.slots import SLOTS
from tailrace.schemas.redis_url import OF_A_CLUSTER

Level = Literal["good", "note", "bad"]

REDIS_MIN = (7, 0)
VALKEY_MIN = (8, 0)
SKEW_NOTED_S = 2.0
PING_NOTED_MS = 5.0
OUTBOX_NOTED_S = 60.0


class Finding(NamedTuple):
    """One thing that was looked at.

    Attributes:
        check: what.
        level: `bad` keeps requests from being run, or may lose them; `note` is worth knowing.
        found: what was seen.
        advice: what to do; empty for `good`.
    """

    check: str
    level: Level
    found: str
    advice: str = ""


Info = Mapping[str, Any]
"""The answer to INFO, as redis-py reads it."""


def version(info: Info) -> Finding:
    """Whether the server is new enough: scripts with flags, functions of streams."""
    product, least, said = "Redis", REDIS_MIN, str(info.get("redis_version", ""))
    if "valkey_version" in info:
        product, least, said = "Valkey", VALKEY_MIN, str(info["valkey_version"])
    found = f"{product} {said or 'of an unknown version'}"
    numbers = tuple(int(part) for part in re.findall(r"\d+", said)[:2])
    if numbers >= least:
        return Finding("version", "good", found)
    return Finding("version", "bad", found, "take Redis 7, Valkey 8, or newer")


def role(info: Info) -> Finding:
    """Whether it is a primary."""
    if info.get("role") == "master":
        return Finding("role", "good", f"primary with {info.get('connected_slaves', 0)} replicas")
    return Finding("role", "bad", "a read-only replica", "name the primary in the URL, or its Sentinels")


def mode(info: Info) -> Finding:
    """Whether it is a server of its own."""
    if not info.get("cluster_enabled"):
        return Finding("mode", "good", "a server of its own")
    return Finding("mode", "bad", "a node of a Redis Cluster", OF_A_CLUSTER)


def node_mode(info: Info) -> Finding:
    """Whether it is a node of a cluster."""
    if info.get("cluster_enabled"):
        return Finding("mode", "good", "a node of a Redis Cluster")
    return Finding("mode", "bad", "a server of its own", "name it as redis:// (docs/redis-topologies.md)")


def coverage(uncovered: int) -> Finding:
    """Whether every request has a node.

    Args:
        uncovered: slots that no node has.
    """
    if not uncovered:
        return Finding("slots", "good", f"every one of {SLOTS:,} has a node")
    found = f"{uncovered:,} of {SLOTS:,} have no node"
    return Finding("slots", "bad", found, "give each to a node (CLUSTER ADDSLOTSRANGE): their requests are refused")


def eviction(info: Info) -> Finding:
    """Whether it may throw logs away under a run."""
    policy = info.get("maxmemory_policy")
    if policy == "noeviction":
        return Finding("eviction", "good", "noeviction")
    advice = "set maxmemory-policy noeviction: otherwise logs, records and leases may vanish under a run"
    return Finding("eviction", "bad", str(policy or "unknown"), advice)


def memory(info: Info) -> Finding:
    """How full it is."""
    used, most = int(info.get("used_memory", 0)), int(info.get("maxmemory", 0))
    if not most:
        advice = "set maxmemory below what the machine has: without it the machine's own limit kills the server"
        return Finding("memory", "note", f"{_mib(used)} used, no limit", advice)
    share = used / most
    found = f"{_mib(used)} of {_mib(most)} used ({share:.0%})"
    if share < 0.8:
        return Finding("memory", "good", found)
    return Finding("memory", "note", found, "give it more, or keep logs for a shorter time (TAILRACE_RETENTION_S)")


def persistence(info: Info) -> Finding:
    """What is left after a restart of the server."""
    if info.get("aof_enabled"):
        if info.get("aof_last_write_status", "ok") != "ok":
            return Finding("persistence", "bad", "the append-only file cannot be written", "look at the server's disk")
        return Finding("persistence", "good", "append-only file")
    advice = "set appendonly yes: without it a restart of the server loses the requests since the last snapshot"
    snapshots = info.get("rdb_last_save_time") and info.get("rdb_saves", 0)
    return Finding("persistence", "note", "snapshots alone" if snapshots else "no append-only file", advice)


def clock(skew_s: float, within_s: float) -> Finding:
    """How far the server's clock and ours are apart. Leases run by the server's alone.

    Args:
        skew_s: the server's clock less ours.
        within_s: how exact that is: half of the round trip.
    """
    found = f"{skew_s:+.3f} s from ours (to {within_s:.3f} s)"
    if abs(skew_s) - within_s <= SKEW_NOTED_S:
        return Finding("clock", "good", found)
    return Finding("clock", "note", found, "let both keep time (NTP): the times in logs and outcomes are the server's")


def latency(ping_ms: float) -> Finding:
    """How long an answer takes."""
    found = f"{ping_ms:.2f} ms a round trip (median)"
    if ping_ms <= PING_NOTED_MS:
        return Finding("latency", "good", found)
    return Finding("latency", "note", found, "run workers near their Redis: each start takes some round trips")


def rights(refused: Mapping[str, str]) -> Finding:
    """Whether our user may do what a worker does.

    Args:
        refused: what was tried in vain, and the server's words.
    """
    if not refused:
        return Finding("rights", "good", "this user may do what a worker does")
    what, words = next(iter(refused.items()))
    others = f" (and {len(refused) - 1} more)" if len(refused) > 1 else ""
    advice = "give the user the rules in docs/redis-users.md"
    return Finding("rights", "bad", f"may not {what}{others}: {words}", advice)


def unanswered(check: str, words: str) -> Finding:
    """What could not be looked at, and the server's words."""
    advice = "give the user the rules in docs/redis-users.md, or see why the server does not answer"
    return Finding(check, "bad", f"cannot be looked at: {words}", advice)


def outbox(waiting: int, oldest_s: float, refused: int) -> Finding:
    """Whether outcomes get into their database.

    Args:
        waiting: how many are not there yet.
        oldest_s: how long the one that waits longest has.
        refused: how many the database could not take.
    """
    found = f"{waiting:,} outcomes wait for the database, the oldest for {oldest_s:.0f} s"
    if refused:
        return Finding("outbox", "bad", f"{found}; {refused:,} were refused", "look at them: tailrace results refused")
    if oldest_s > OUTBOX_NOTED_S:
        advice = "see that a worker with TAILRACE_RESULTS_URL, or tailrace sink, runs and reaches the database"
        return Finding("outbox", "bad", found, advice)
    return Finding("outbox", "good", found)


def _mib(size: int) -> str:
    return f"{size / 1024 / 1024:,.1f} MiB"
