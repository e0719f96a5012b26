"""How benchmarks measure: all that is fed arrives in the logs complete, in order and once, in each way."""

import json
from time import monotonic, sleep

import pytest

from bench.feeder import Plan
from bench.path import FLOOR, HTTPX, NAIVE, OURS, Setup
from tests.until import WITHIN_S

STREAMS = 3


def _texts(setup: Setup, request_id: str) -> list[str]:
    """The texts of an answer in its log."""
    entries = [json.loads(entry) for entry in setup.entries(request_id)]
    deltas = [entry["choices"][0]["delta"] if "choices" in entry else entry for entry in entries]
    return [delta["content"] for delta in deltas if delta.get("content")]


def _all_texts(setup: Setup, request_id: str, count: int) -> list[str]:
    """The same, once there are so many. The setup has a loop of its own, so nothing here may run in one."""
    deadline = monotonic() + WITHIN_S
    while len(texts := _texts(setup, request_id)) < count:
        assert monotonic() < deadline, f"only {len(texts)} of {count} texts of {request_id}"
        sleep(0.01)
    return texts


@pytest.mark.parametrize("way", [OURS, HTTPX, NAIVE, FLOOR])
def test_what_is_fed_comes_into_the_log_whole_and_in_order(way: str) -> None:
    # given a pace, if answers of so many chunks are fed, expect each chunk's time in its log, and each as a delta
    with Setup(way, STREAMS) as setup:
        setup.open(Plan(chunks=25, per_s=50.0))
        setup.follow()
        setup.go()
        window = setup.window(0.3)
        for number in range(STREAMS):
            sent = [int(text) for text in _all_texts(setup, f"bench-{number}", 25)]
            assert len(sent) == 25
            assert sent == sorted(sent)
    assert window.deltas > 0
    assert window.lateness is not None
    assert 0 < window.lateness.p50_ms <= window.lateness.p99_ms <= window.lateness.max_ms


@pytest.mark.parametrize("way", [OURS, NAIVE, FLOOR])
def test_workers_share_what_comes_at_once(way: str) -> None:
    # given two workers, if more answers come at once than one may run, expect each log to have the same texts
    with Setup(way, 4, workers=2) as setup:
        setup.open(Plan(chunks=300))
        setup.go()
        first, *others = (_all_texts(setup, f"bench-{number}", 300) for number in range(4))
        assert len(first) == 300
        assert all(other == first for other in others)
