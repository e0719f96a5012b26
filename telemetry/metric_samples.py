"""Counting, and the samples that carry counts between processes: counters and histograms are plain numbers. Pure.

Counting is an addition. Samples are made when metrics are asked for; `exposition.py` renders them for Prometheus.
"""

from bisect import bisect_left
from collections.abc import Iterable, Iterator, Sequence

import msgspec

from tailrace.telemetry.metrics import METRICS, Metric

_BY_NAME = {metric.name: metric for metric in METRICS}


class MetricSample(msgspec.Struct, frozen=True, array_like=True):
    """One value of one metric.

    Attributes:
        name: the name of the metric.
        labels: the values of its labels, in the order of the metric's labels.
        value: the value; of a histogram, the sum of all observations.
        counts: for a histogram, the observations in each bucket, not cumulative, the infinite bucket last; else empty.
    """

    name: str
    labels: tuple[str, ...]
    value: float
    counts: tuple[int, ...] = ()


class Counter:
    """A counter without labels. To count, add to `value`."""

    __slots__ = ("metric", "value")

    def __init__(self, metric: Metric) -> None:
        self.metric = metric
        self.value = 0

    def metric_samples(self) -> Iterator[MetricSample]:
        """The current value."""
        yield MetricSample(self.metric.name, (), self.value)


class LabeledCounter:
    """A counter with labels.

    Args:
        metric: the metric it counts.
        known: label values that are reported as 0 from the start, so that the first count of them is seen as a rise.
    """

    __slots__ = ("_values", "metric")

    def __init__(self, metric: Metric, known: Iterable[tuple[str, ...]] = ()) -> None:
        self.metric = metric
        self._values: dict[tuple[str, ...], int] = dict.fromkeys(known, 0)

    def increment(self, *labels: str) -> None:
        """Adds one to the counter with these label values."""
        self._values[labels] = self._values.get(labels, 0) + 1

    def metric_samples(self) -> Iterator[MetricSample]:
        """The current values."""
        for labels, value in self._values.items():
            yield MetricSample(self.metric.name, labels, value)


class Histogram:
    """Counts observations in the buckets of a metric."""

    __slots__ = ("_counts", "_sums", "metric")

    def __init__(self, metric: Metric) -> None:
        self.metric = metric
        self._counts: dict[tuple[str, ...], list[int]] = {}
        self._sums: dict[tuple[str, ...], float] = {}
        if not metric.labels:
            self._begin(())

    def observe(self, value: float, *labels: str) -> None:
        """Adds one observation."""
        counts = self._counts.get(labels) or self._begin(labels)
        counts[bisect_left(self.metric.buckets, value)] += 1
        self._sums[labels] += value

    def metric_samples(self) -> Iterator[MetricSample]:
        """The current counts."""
        for labels, counts in self._counts.items():
            yield MetricSample(self.metric.name, labels, self._sums[labels], tuple(counts))

    def _begin(self, labels: tuple[str, ...]) -> list[int]:
        self._sums[labels] = 0.0
        counts = self._counts[labels] = [0] * (len(self.metric.buckets) + 1)
        return counts


def gauge_sample(metric: Metric, value: float, *labels: str) -> MetricSample:
    """A sample of a gauge."""
    return MetricSample(metric.name, labels, value)


def add_samples(samples: Iterable[MetricSample], more: Iterable[MetricSample]) -> list[MetricSample]:
    """Adds the counters and histograms of a process and of the one that replaced it.

    Args:
        samples: those of the process that ended. Its gauges are dropped: what they measured is gone.
        more: those of the process that replaced it.
    """
    total = {(sample.name, sample.labels): sample for sample in samples if _BY_NAME[sample.name].kind != "gauge"}
    for sample in more:
        key = (sample.name, sample.labels)
        before = total.get(key)
        total[key] = sample if before is None else _sum(before, sample)
    return list(total.values())


def with_process(samples: Iterable[MetricSample], process: str) -> list[MetricSample]:
    """The same samples with the label `process` in front of their labels."""
    return [MetricSample(sample.name, (process, *sample.labels), sample.value, sample.counts) for sample in samples]


def encode_samples(samples: Sequence[MetricSample]) -> bytes:
    """Encodes samples as one line of JSON."""
    return msgspec.json.encode(samples)


_decoder = msgspec.json.Decoder(list[MetricSample])


def decode_samples(raw: bytes) -> list[MetricSample]:
    """Reads what `encode_samples` wrote.

    Raises:
        ValueError: it is something else, or names an unknown metric.
    """
    samples = _decoder.decode(raw)
    if unknown := next((sample.name for sample in samples if sample.name not in _BY_NAME), None):
        raise ValueError(f"no metric is named {unknown!r}")
    return samples


def _sum(one: MetricSample, other: MetricSample) -> MetricSample:
    counts = tuple(map(int.__add__, one.counts, other.counts))
    return MetricSample(one.name, one.labels, one.value + other.value, counts)
