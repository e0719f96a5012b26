"""Counting and rendering, checked with Prometheus' own parsers; the table of metrics, checked against its rules."""

import re
from collections.abc import Iterable
from pathlib import Path

import pytest

from tailrace.telemetry import metrics
from tailrace.telemetry.exposition import render_samples
from tailrace.telemetry.metric_samples import (
    Counter,
    Histogram,
    LabeledCounter,
    MetricSample,
    add_samples,
    decode_samples,
    encode_samples,
    gauge_sample,
    with_process,
)
from tailrace.telemetry.metrics import METRICS, Metric, cause_label, error_label
from tests.metrics_page import Values, values_of

TEXT = "text/plain; version=0.0.4; charset=utf-8"
OPENMETRICS = "application/openmetrics-text; version=1.0.0; charset=utf-8"
PROMETHEUS_ACCEPT = (
    "application/openmetrics-text;version=1.0.0;escaping=allow-utf-8;q=0.6,"
    "application/openmetrics-text;version=0.0.1;q=0.5,text/plain;version=0.0.4;q=0.4,*/*;q=0.1"
)
"""What Prometheus sends."""

_PAGE = Path(__file__).parents[2] / "docs/metrics.md"


def rendered(samples: Iterable[MetricSample], accept: str = "") -> Values:
    """The values on the page that a scraper with this `Accept` header gets."""
    page, content_type = render_samples(samples, accept)
    return values_of(page.decode(), content_type)


@pytest.mark.parametrize("metric", METRICS, ids=lambda metric: metric.name)
def test_names_units_and_labels_follow_the_rules(metric: Metric) -> None:
    assert re.fullmatch(r"tailrace(_[a-z]+)+", metric.name)
    assert metric.name.endswith("_total") == (metric.kind == "counter")
    assert not re.search(r"_(ms|milliseconds|kib|mib|minutes|percent)(_|$)", metric.name)
    assert metric.help.endswith(".")
    assert bool(metric.buckets) == (metric.kind == "histogram")
    assert list(metric.buckets) == sorted(set(metric.buckets))
    # a value that callers choose is never a label
    assert not {"tenant", "model", "request", "request_id", "id", "le"} & set(metric.all_labels)


def test_names_are_unique() -> None:
    assert len({metric.name for metric in METRICS}) == len(METRICS)


def test_labels_have_few_values() -> None:
    assert error_label(None) == "none"
    assert error_label("upstream_429") == "upstream_429"
    assert error_label("upstream_truncated") == "upstream_truncated"
    assert {error_label(code) for code in ("upstream_999", "acme", "", "upstream_4290", "x" * 99)} == {"other"}
    assert cause_label("lease_expired") == "lease_expired"
    assert cause_label("worker_crashed") == "worker_crashed"
    assert cause_label("anything") == "other"


@pytest.mark.parametrize("accept", ["", PROMETHEUS_ACCEPT], ids=["text", "openmetrics"])
def test_prometheus_reads_the_page(accept: str) -> None:
    # given counts of each kind, if they are rendered in either format, expect Prometheus' parser to read these values
    outcomes = LabeledCounter(metrics.OUTCOMES, [("completed", "none")])
    outcomes.increment("failed", "upstream_429")
    outcomes.increment("failed", "upstream_429")
    deltas = Counter(metrics.DELTAS)
    deltas.value += 7
    waits = Histogram(metrics.QUEUE_WAIT)
    for seconds in (0.001, 0.005, 0.3, 1e6):
        waits.observe(seconds)
    counted = [*outcomes.metric_samples(), *deltas.metric_samples(), *waits.metric_samples()]
    values = rendered([*with_process(counted, "0"), gauge_sample(metrics.QUEUED, 3, "high")], accept)
    zero = ("process", "0")
    assert values["tailrace_outcomes_total"][(("error", "none"), zero, ("status", "completed"))] == 0
    assert values["tailrace_outcomes_total"][(("error", "upstream_429"), zero, ("status", "failed"))] == 2
    assert values["tailrace_deltas_total"][(zero,)] == 7
    assert values["tailrace_queue_requests"][(("priority", "high"),)] == 3
    name = "tailrace_queue_wait_seconds"
    # a value on the bound of a bucket is in that bucket, and each bucket includes all smaller ones
    assert values[f"{name}_bucket"][(("le", "0.005"), zero)] == 2
    assert values[f"{name}_bucket"][(("le", "0.25"), zero)] == 2
    assert values[f"{name}_bucket"][(("le", "0.5"), zero)] == 3
    assert values[f"{name}_bucket"][(("le", "+Inf"), zero)] == values[f"{name}_count"][(zero,)] == 4
    assert values[f"{name}_sum"][(zero,)] == pytest.approx(1e6 + 0.306)


@pytest.mark.parametrize("accept", ["", PROMETHEUS_ACCEPT], ids=["text", "openmetrics"])
def test_label_values_are_escaped(accept: str) -> None:
    odd = 'a"b\\c\nd'
    values = rendered([gauge_sample(metrics.QUEUED, 0.5, odd)], accept)
    assert values == {"tailrace_queue_requests": {(("priority", odd),): 0.5}}


@pytest.mark.parametrize(
    ("accept", "content_type"),
    [
        ("", TEXT),
        ("*/*", TEXT),
        ("text/plain;version=0.0.4", TEXT),
        ("application/openmetrics-text", OPENMETRICS),
        (PROMETHEUS_ACCEPT, f"{OPENMETRICS}; escaping=allow-utf-8"),
        ("application/openmetrics-text; version=0.0.1", TEXT),
        ("application/openmetrics-text; version=1.x", TEXT),
        ("application/openmetrics-text; version=", OPENMETRICS),
        ("application/openmetrics-text; version=1.0.0\xe9", f"{OPENMETRICS}; escaping=underscores"),
        (";;,=;version=,\0\xff", TEXT),
    ],
)
def test_the_scraper_chooses_the_format(accept: str, content_type: str) -> None:
    # given an `Accept` header, sound or not, expect a page, and a content type that can stand in a header
    page, chosen = render_samples([gauge_sample(metrics.STREAMS, 1)], accept)
    assert chosen == content_type
    assert chosen.isascii()
    assert page.endswith(b"# EOF\n") == chosen.startswith("application/openmetrics-text")
    assert b"tailrace_gateway_streams 1.0\n" in page


def test_counts_of_a_dead_process_stay_and_its_gauges_go() -> None:
    before = [MetricSample(metrics.STARTS.name, (), 5), MetricSample(metrics.RUNNING.name, (), 3)]
    waits = Histogram(metrics.QUEUE_WAIT)
    waits.observe(0.02)
    before += waits.metric_samples()
    after = [MetricSample(metrics.STARTS.name, (), 1), MetricSample(metrics.RUNNING.name, (), 1)]
    after += waits.metric_samples()
    total = {sample.name: sample for sample in add_samples(before, after)}
    assert total[metrics.STARTS.name].value == 6
    assert total[metrics.RUNNING.name].value == 1
    assert sum(total[metrics.QUEUE_WAIT.name].counts) == 2
    assert total[metrics.QUEUE_WAIT.name].value == pytest.approx(0.04)
    assert metrics.RUNNING.name not in {sample.name for sample in add_samples(before, ())}


def test_samples_are_sent_as_one_line() -> None:
    waits = Histogram(metrics.DURATION)
    waits.observe(3.0, "failed")
    samples = [*waits.metric_samples(), MetricSample(metrics.STARTS.name, (), 5)]
    line = encode_samples(samples)
    assert b"\n" not in line
    assert decode_samples(line) == samples
    for other in (b"", b"{}", b'[["tailrace_nothing", [], 1]]'):
        with pytest.raises(ValueError, match=r"."):
            decode_samples(other)


def test_docs_metrics_has_the_table() -> None:
    rows = re.findall(r"^\| `(tailrace_\w+)` \| (\w+) \| ([^|]*?) \| ([^|]*?) \|$", _PAGE.read_text(), re.MULTILINE)
    assert rows == [
        (metric.name, metric.kind, ", ".join(f"`{label}`" for label in metric.all_labels), metric.help)
        for metric in METRICS
    ]
