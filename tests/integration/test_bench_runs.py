"""Benchmarks run to their end: each on its real parts, with as little as it can do. What they find is not judged."""

import io
import json
from types import ModuleType
from typing import Any

import pytest

from bench import decode, memory, publish, scale, worker
from bench.figures import Report
from bench.path import FLOOR, HTTPX, NAIVE, OURS


def _figures(module: ModuleType, effort: Any, monkeypatch: pytest.MonkeyPatch) -> list[dict[str, Any]]:
    monkeypatch.setattr(module, "QUICK", effort)
    out = io.StringIO()
    module.run(Report("bench", out, io.StringIO()), quick=True)
    lines: list[dict[str, Any]] = [json.loads(line) for line in out.getvalue().splitlines()]
    assert all(line["value"] > 0 for line in lines)
    return lines


def _beside(lines: list[dict[str, Any]]) -> set[str]:
    return {line["beside"]["what"] for line in lines if "beside" in line}


SHORT = worker.Effort(streams=(), many=2, windows=1, window_s=0.3, warm_up_s=0.1)


def test_worker_stands_beside_naive_and_floor(monkeypatch: pytest.MonkeyPatch) -> None:
    # given little to do, if all three are measured, expect throughput, CPU and latency of ours beside both others
    lines = _figures(worker, SHORT, monkeypatch)
    assert _beside(lines) == {HTTPX, NAIVE, FLOOR}
    assert {line["unit"] for line in lines} == {"deltas/s", "deltas/s of CPU", "us/delta", "ms", "%"}


def test_decode_reads_by_every_transport(monkeypatch: pytest.MonkeyPatch) -> None:
    # given little to read, if it is read in all ways, expect chunks and requests of ours beside the SDK and the floor
    lines = _figures(decode, decode.Effort(1, requests=20, burst_chunks=200, window_s=0.2), monkeypatch)
    assert _beside(lines) == {decode.SDK, decode.FLOOR}
    assert {line["unit"] for line in lines} == {"us/chunk", "us/request"}


def test_memory_tells_entries_from_full_messages(monkeypatch: pytest.MonkeyPatch) -> None:
    # given short answers, if their memory is measured, expect a delta to take more than its text, less than a message
    monkeypatch.setattr(memory, "WARM", 2)
    lines = _figures(memory, memory.Effort(streams=40, settle_s=0.3, requests=4, chunks=200), monkeypatch)
    (text,) = (line for line in lines if line.get("beside", {}).get("what") == "the text alone")
    (letta,) = (line for line in lines if line.get("beside", {}).get("what") == "full Letta messages")
    assert text["beside"]["value"] < text["value"] == letta["value"] < letta["beside"]["value"]


def test_scale_computes_what_one_redis_feeds(monkeypatch: pytest.MonkeyPatch) -> None:
    # given one worker and two, if they are saturated, expect both, and what follows for one Redis
    lines = _figures(scale, SHORT, monkeypatch)
    assert {"1 worker", "2 workers", "computed from CPU"} <= {line["case"] for line in lines}
    assert OURS not in _beside(lines)


def test_publish_comes_to_its_end_in_every_case(monkeypatch: pytest.MonkeyPatch) -> None:
    # given few deltas, expect ours in each case beside the floor, and beside awaited XADDs where these can follow
    monkeypatch.setattr(publish, "CASES", publish.CASES[:1])
    lines = _figures(publish, publish.Effort(rounds=1, deltas=3_000, spread_s=0.5), monkeypatch)
    assert _beside(lines) == {publish.PEER, publish.FLOOR}
    assert {line["case"] for line in lines} == {publish.CASES[0].name, publish.SPREAD.name}
