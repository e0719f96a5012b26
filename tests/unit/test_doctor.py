"""What the doctor makes of a Redis's answers, and of settings that do not go together."""

from collections.abc import Callable

import pytest

from tailrace.worker.doctor import redis_checks as judge
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


@pytest.mark.parametrize(
    "look", [judge.version, judge.mode, judge.role, judge.eviction, judge.memory, judge.persistence]
)
def test_a_sound_server_needs_no_advice(look: Callable[[Info], Finding]) -> None:
    # given a server as it should be, expect nothing to do
    finding = look(GOOD)
    assert (finding.level, finding.advice) == ("good", "")


@pytest.mark.parametrize(
    ("look", "changed", "level"),
    [
        (judge.version, {"valkey_version": "7.2.5"}, "bad"),
        (judge.mode, {"cluster_enabled": 1}, "bad"),
        (judge.role, {"role": "slave"}, "bad"),
        (judge.eviction, {"maxmemory_policy": "allkeys-lru"}, "bad"),
        (judge.memory, {"maxmemory": 0}, "note"),
        (judge.memory, {"used_memory": 90 * 1024 * 1024}, "note"),
        (judge.persistence, {"aof_enabled": 0}, "note"),
        (judge.persistence, {"aof_last_write_status": "err"}, "bad"),
    ],
)
def test_what_is_wrong_comes_with_advice(look: Callable[[Info], Finding], changed: Info, level: Level) -> None:
    # given a server with one thing wrong, expect it found, and a word on what to do
    finding = look({**GOOD, **changed})
    assert finding.level == level
    assert finding.advice


@pytest.mark.parametrize(
    ("info", "level"),
    [
        ({"redis_version": "7.0.15"}, "good"),
        ({"redis_version": "6.2.14"}, "bad"),
        ({"redis_version": "8.0.0"}, "good"),
        ({"redis_version": "7.2.4", "valkey_version": "10.0"}, "good"),
        ({}, "bad"),
    ],
)
def test_versions(info: Info, level: Level) -> None:
    # given a Redis or a Valkey, which also calls itself Redis 7.2, expect its own version to count
    assert judge.version(info).level == level


def test_clocks_apart_are_noted_by_more_than_the_round_trip_can_explain() -> None:
    # given clocks three seconds apart, expect a note, unless the round trip was so slow that they may agree
    assert judge.clock(3.0, 0.01).level == "note"
    assert judge.clock(-3.0, 0.01).level == "note"
    assert judge.clock(3.0, 1.5).level == "good"


def test_rights_that_lack_are_named() -> None:
    # given two things that were refused, expect the first with the server's words, and the number of the others
    finding = judge.rights({"write logs": "NOPERM xadd", "hear cancels": "NOPERM subscribe"})
    assert finding.level == "bad"
    assert finding.found == "may not write logs (and 1 more): NOPERM xadd"


def test_slots_without_a_node_are_found() -> None:
    assert judge.coverage(0).level == "good"
    assert judge.coverage(3).level == "bad"
    assert judge.node_mode({"cluster_enabled": 0}).level == "bad"
