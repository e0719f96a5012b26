"""Renders metric samples for Prometheus: in its text format, or as OpenMetrics if the scraper asks for it.

The formats and the negotiation are prometheus_client's. Its counters and its registry are not used: it gets a collector
over our samples (docs/decisions/libraries.md). Import this only where metrics are served.
"""

from collections.abc import Iterable, Iterator
from itertools import accumulate

from prometheus_client.exposition import choose_encoder
from prometheus_client.metrics_core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily
from prometheus_client.metrics_core import Metric as MetricFamily

from tailrace.telemetry.metric_samples import MetricSample
from tailrace.telemetry.metrics import METRICS, Metric


def render_samples(samples: Iterable[MetricSample], accept: str = "") -> tuple[bytes, str]:
    """Renders samples in the format that a scraper prefers.

    Args:
        samples: the samples of every metric to show; their order within a metric is kept.
        accept: the scraper's `Accept` header.

    Returns:
        The page and its content type.
    """
    collector = _Collector(samples)
    try:
        encode, content_type = choose_encoder(accept.encode("ascii", "ignore").decode())
    except TypeError:  # a version that is not numeric, such as 1.x
        encode, content_type = choose_encoder("")
    return encode(collector), content_type


class _Collector:
    """A collector for prometheus_client: samples as its families, in the order of the table of metrics."""

    def __init__(self, samples: Iterable[MetricSample]) -> None:
        self._by_name: dict[str, list[MetricSample]] = {}
        for sample in samples:
            self._by_name.setdefault(sample.name, []).append(sample)

    def collect(self) -> Iterator[MetricFamily]:
        for metric in METRICS:
            if samples := self._by_name.get(metric.name):
                yield _family(metric, samples)


def _family(metric: Metric, samples: Iterable[MetricSample]) -> MetricFamily:
    if metric.kind == "histogram":
        histogram = HistogramMetricFamily(metric.name, metric.help, labels=metric.all_labels)
        bounds = (*map(str, metric.buckets), "+Inf")
        for sample in samples:
            buckets = list(zip(bounds, accumulate(sample.counts), strict=True))
            histogram.add_metric(sample.labels, buckets, sample.value)
        return histogram
    kind = CounterMetricFamily if metric.kind == "counter" else GaugeMetricFamily
    family = kind(metric.name, metric.help, labels=metric.all_labels)
    for sample in samples:
        family.add_metric(sample.labels, sample.value)
    return family
