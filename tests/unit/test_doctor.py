"""The checks of `tailrace doctor` on the answers of a Redis."""

from collections.abc import Callable

import pytest

from tailrace.worker.doctor import redis_checks
from tailrace.worker.doctor.redis_checks import Finding, Info, Level

GOOD: Info = {
    "redis_version": "7.2.4",
    "valkey_version": "8.1.0",
    "role": "master",
    "maxmemory_policy": "noeviction",
    "used_memory": 10 * 1024 * 1024,
    "maxmemory": 100 * 1024 * 1024,
    "aof_enabled": 1,
}


@pytest.mark.parametrize("check", [redis_checks.check_mode, *redis_checks.INFO_CHECKS])
def test_a_healthy_server_passes_without_advice(check: Callable[[Info], Finding]) -> None:
    # given a server that is configured properly, expect `ok` and no advice
    finding = check(GOOD)
    assert (finding.level, finding.advice) == ("ok", "")


@pytest.mark.parametrize(
    ("check", "changed", "level"),
    [
        (redis_checks.check_version, {"valkey_version": "7.2.5"}, "failed"),
        (redis_checks.check_mode, {"cluster_enabled": 1}, "failed"),
        (redis_checks.check_role, {"role": "slave"}, "failed"),
        (redis_checks.check_eviction, {"maxmemory_policy": "allkeys-lru"}, "failed"),
        (redis_checks.check_memory, {"maxmemory": 0}, "warning"),
        (redis_checks.check_memory, {"used_memory": 90 * 1024 * 1024}, "warning"),
        (redis_checks.check_persistence, {"aof_enabled": 0}, "warning"),
        (redis_checks.check_persistence, {"aof_last_write_status": "err"}, "failed"),
    ],
)
def test_a_problem_comes_with_advice(check: Callable[[Info], Finding], changed: Info, level: Level) -> None:
    # given a server with one problem, expect the finding, with advice
    finding = check({**GOOD, **changed})
    assert finding.level == level
    assert finding.advice


@pytest.mark.parametrize(
    ("info", "level"),
    [
        ({"redis_version": "7.0.15"}, "ok"),
        ({"redis_version": "6.2.14"}, "failed"),
        ({"redis_version": "8.0.0"}, "ok"),
        ({"redis_version": "7.2.4", "valkey_version": "10.0"}, "ok"),
        ({}, "failed"),
    ],
)
def test_versions(info: Info, level: Level) -> None:
    # given a Redis or a Valkey, which also reports itself as Redis 7.2, expect its own version to count
    assert redis_checks.check_version(info).level == level


def test_a_clock_difference_beyond_the_round_trip_is_a_warning() -> None:
    # given clocks that differ by three seconds, expect a warning, unless the round trip was so slow that they may agree
    assert redis_checks.check_clock(3.0, 0.01).level == "warning"
    assert redis_checks.check_clock(-3.0, 0.01).level == "warning"
    assert redis_checks.check_clock(3.0, 1.5).level == "ok"


def test_missing_permissions_are_named() -> None:
    # given two actions that were refused, expect the first with its error, and the number of the others
    finding = redis_checks.check_permissions({"write logs": "NOPERM xadd", "subscribe to cancels": "NOPERM subscribe"})
    assert finding.level == "failed"
    assert finding.found == "may not write logs (and 1 more): NOPERM xadd"


def test_slots_without_a_node_fail() -> None:
    assert redis_checks.check_coverage(0).level == "ok"
    assert redis_checks.check_coverage(3).level == "failed"
    assert redis_checks.check_node_mode({"cluster_enabled": 0}).level == "failed"
