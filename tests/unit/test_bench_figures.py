"""The format of a figure, on which readers of the lines rely."""

import io
import json
from typing import Any

import pytest

from bench.__main__ import BENCHES, main
from bench.figures import Report, rounded


def _lines(out: io.StringIO) -> list[dict[str, Any]]:
    return [json.loads(line) for line in out.getvalue().splitlines()]


def test_a_figure_is_one_line_with_its_peer_and_the_ratio() -> None:
    # given a figure with a peer and a limit, if it is reported, expect one JSON object with ratio and verdict
    out = io.StringIO()
    Report("queue", out, io.StringIO()).figure("idle", "start", 2.5, "ms", beside={"stock": 250.0}, at_most=2.0)
    assert _lines(out) == [
        {
            "bench": "queue",
            "case": "idle",
            "what": "start",
            "value": 2.5,
            "unit": "ms",
            "ratio": 0.01,
            "beside": {"what": "stock", "value": 250.0},
            "expected": "<= 2",
            "met": False,
        }
    ]


def test_a_figure_may_be_expected_from_below() -> None:
    # given what a value must reach, if figures above and below are reported, expect the verdict of each
    out = io.StringIO()
    for value in (40.0, 39.0):
        Report("worker", out, io.StringIO()).figure("saturation", "deltas", value, "1/s", at_least=40.0)
    assert [(line["expected"], line["met"]) for line in _lines(out)] == [(">= 40", True), (">= 40", False)]


def test_each_further_peer_is_a_line() -> None:
    # given two peers, if a figure is reported, expect a line for each, the same figure in both
    out = io.StringIO()
    Report("interface", out, io.StringIO()).figure("text", "read", 6.0, "us", beside={"floor": 2.0, "naive": 12.0})
    assert [(line["value"], line["beside"]["what"], line["ratio"]) for line in _lines(out)] == [
        (6.0, "floor", 3.0),
        (6.0, "naive", 0.5),
    ]


def test_a_figure_may_stand_alone_or_beside_nothing() -> None:
    # given no peer, or one that costs nothing, if a figure is reported, expect no ratio and no division by it
    out = io.StringIO()
    report = Report("queue", out, io.StringIO())
    report.figure("SIGKILL", "takeover", 8.0, "s", bounded=True, note="not waited for")
    report.figure("idle", "CPU", 0.5, "%", beside={"stock": 0.0})
    alone, beside_nothing = _lines(out)
    assert alone["bounded"] is True
    assert alone["note"] == "not waited for"
    assert alone.keys().isdisjoint({"ratio", "beside", "expected", "met"})
    assert beside_nothing["beside"] == {"what": "stock", "value": 0.0}
    assert "ratio" not in beside_nothing


def test_progress_stays_out_of_the_figures() -> None:
    # given progress beside figures, if both are written, expect only figures where figures go
    out, err = io.StringIO(), io.StringIO()
    report = Report("queue", out, err)
    report.progress("half way")
    report.figure("idle", "start", 1.0, "ms")
    assert len(_lines(out)) == 1
    assert "half way" in err.getvalue()


def test_figures_claim_no_more_digits_than_they_have() -> None:
    # given values of any size, if they are rounded, expect four digits that count
    assert [rounded(value) for value in (123456.0, 0.00123456, 99.999, 0.0)] == [123500.0, 0.001235, 100.0, 0.0]


def test_help_names_every_benchmark_and_an_example(capsys: pytest.CaptureFixture[str]) -> None:
    # given no knowledge of the benchmarks, if help is asked for, expect each with what it is about, and an example
    with pytest.raises(SystemExit) as ended:
        main(["--help"])
    said = capsys.readouterr().out
    assert ended.value.code == 0
    assert all(name in said and bench.about in said for name, bench in BENCHES.items())
    assert "python -m bench queue --quick" in said


def test_an_unknown_benchmark_is_a_usage_error(capsys: pytest.CaptureFixture[str]) -> None:
    # given a name that is none, if it is called, expect what there is, exit code 2, and nothing measured
    with pytest.raises(SystemExit) as ended:
        main(["quue"])
    said = capsys.readouterr()
    assert ended.value.code == 2
    assert "'quue'" in said.err
    assert all(name in said.err for name in BENCHES)
    assert said.out == ""
