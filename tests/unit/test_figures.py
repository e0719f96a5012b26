"""What is counted and how it is told: held against Prometheus' own parser; the table of metrics against its rules."""

import re
from pathlib import Path
from typing import Any

import pytest
from prometheus_client.parser import text_string_to_metric_families

from tailrace.telemetry import metrics
from tailrace.telemetry.metric_samples import (
    Count,
    Figure,
    Histogram,
    Tally,
    added,
    decode_figures,
    encode_figures,
    exposition,
    gauge,
    of_process,
)
from tailrace.telemetry.metrics import METRICS, Metric, cause_label, error_label

_PAGE = Path(__file__).parents[2] / "docs/metrics.md"


def samples(text: bytes) -> dict[tuple[str, tuple[tuple[str, str], ...]], float]:
    """By name and labels, as Prometheus' own parser reads them."""
    families: Any = text_string_to_metric_families(text.decode())
    return {
        (sample.name, tuple(sorted(sample.labels.items()))): sample.value
        for family in families
        for sample in family.samples
    }


@pytest.mark.parametrize("metric", METRICS, ids=lambda metric: metric.name)
def test_names_units_and_labels_follow_the_rules(metric: Metric) -> None:
    assert re.fullmatch(r"tailrace(_[a-z]+)+", metric.name)
    assert metric.name.endswith("_total") == (metric.kind == "counter")
    assert not re.search(r"_(ms|milliseconds|kib|mib|minutes|percent)(_|$)", metric.name)
    assert metric.help.endswith(".")
    assert bool(metric.buckets) == (metric.kind == "histogram")
    assert list(metric.buckets) == sorted(set(metric.buckets))
    # what callers choose is never a label
    assert not {"tenant", "model", "request", "request_id", "id", "le"} & set(metric.all_labels)


def test_no_name_is_given_twice() -> None:
    assert len({metric.name for metric in METRICS}) == len(METRICS)


def test_labels_have_few_values() -> None:
    assert error_label(None) == "none"
    assert error_label("upstream_429") == "upstream_429"
    assert error_label("upstream_truncated") == "upstream_truncated"
    assert {error_label(code) for code in ("upstream_999", "acme", "", "upstream_4290", "x" * 99)} == {"other"}
    assert cause_label("lease_expired") == "lease_expired"
    assert cause_label("worker_crashed") == "worker_crashed"
    assert cause_label("anything") == "other"


def test_prometheus_reads_what_we_tell() -> None:
    tally = Tally(metrics.OUTCOMES, [("completed", "none")])
    tally.add("failed", "upstream_429")
    tally.add("failed", "upstream_429")
    deltas = Count(metrics.DELTAS)
    deltas.value += 7
    waits = Histogram(metrics.QUEUE_WAIT)
    for seconds in (0.001, 0.005, 0.3, 1e6):
        waits.observe(seconds)
    counted = [*tally.figures(), *deltas.figures(), *waits.figures()]
    told = samples(exposition([*of_process(counted, "0"), gauge(metrics.QUEUED, 3, "high")]))
    zero = ("process", "0")
    assert told[("tailrace_outcomes_total", (("error", "none"), zero, ("status", "completed")))] == 0
    assert told[("tailrace_outcomes_total", (("error", "upstream_429"), zero, ("status", "failed")))] == 2
    assert told[("tailrace_deltas_total", (zero,))] == 7
    assert told[("tailrace_queue_requests", (("priority", "high"),))] == 3
    name = "tailrace_queue_wait_seconds"
    # a value on a bucket's bound belongs to it, and each bucket has all below it
    assert told[(f"{name}_bucket", (("le", "0.005"), zero))] == 2
    assert told[(f"{name}_bucket", (("le", "0.25"), zero))] == 2
    assert told[(f"{name}_bucket", (("le", "0.5"), zero))] == 3
    assert told[(f"{name}_bucket", (("le", "+Inf"), zero))] == told[(f"{name}_count", (zero,))] == 4
    assert told[(f"{name}_sum", (zero,))] == pytest.approx(1e6 + 0.306)


def test_label_values_are_escaped() -> None:
    odd = 'a"b\\c\nd'
    told = samples(exposition([gauge(metrics.QUEUED, 0.5, odd)]))
    assert told == {("tailrace_queue_requests", (("priority", odd),)): 0.5}


def test_what_a_dead_process_counted_stays_and_what_it_held_goes() -> None:
    before = [Figure(metrics.STARTS.name, (), 5), Figure(metrics.RUNNING.name, (), 3)]
    waits = Histogram(metrics.QUEUE_WAIT)
    waits.observe(0.02)
    before += waits.figures()
    after = [Figure(metrics.STARTS.name, (), 1), Figure(metrics.RUNNING.name, (), 1), *waits.figures()]
    total = {figure.name: figure for figure in added(before, after)}
    assert total[metrics.STARTS.name].value == 6
    assert total[metrics.RUNNING.name].value == 1
    assert sum(total[metrics.QUEUE_WAIT.name].counts) == 2
    assert total[metrics.QUEUE_WAIT.name].value == pytest.approx(0.04)
    assert metrics.RUNNING.name not in {figure.name for figure in added(before, ())}


def test_figures_travel_as_one_line() -> None:
    waits = Histogram(metrics.DURATION)
    waits.observe(3.0, "failed")
    figures = [*waits.figures(), Figure(metrics.STARTS.name, (), 5)]
    line = encode_figures(figures)
    assert b"\n" not in line
    assert decode_figures(line) == figures
    for other in (b"", b"{}", b'[["tailrace_nothing", [], 1]]'):
        with pytest.raises(ValueError, match=r"."):
            decode_figures(other)


def test_the_page_has_the_table() -> None:
    rows = re.findall(r"^\| `(tailrace_\w+)` \| (\w+) \| ([^|]*?) \| ([^|]*?) \|$", _PAGE.read_text(), re.MULTILINE)
    assert rows == [
        (metric.name, metric.kind, ", ".join(f"`{label}`" for label in metric.all_labels), metric.help)
        for metric in METRICS
    ]
