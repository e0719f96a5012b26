"""What was counted, and how it is told: counters and histograms as plain numbers, figures of them, Prometheus' text.

Pure. To count is an addition; what that means to Prometheus is worked out when somebody asks. The text is written here
and not by a client library: that costs 40 lines, and spares every worker a dependency and its globals.
"""

from bisect import bisect_left
from collections.abc import Iterable, Iterator, Sequence

import msgspec

from tailrace.telemetry.metrics import METRICS, Metric

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"

_BY_NAME = {metric.name: metric for metric in METRICS}


class Figure(msgspec.Struct, frozen=True, array_like=True):
    """One value of one metric.

    Attributes:
        name: the metric's.
        labels: values of its labels, in their order.
        value: of a histogram, the sum of what was observed.
        counts: of a histogram, how many fell into each bucket, the infinite one last; empty otherwise.
    """

    name: str
    labels: tuple[str, ...]
    value: float
    counts: tuple[int, ...] = ()


class Count:
    """A counter without labels: add to `value`."""

    __slots__ = ("metric", "value")

    def __init__(self, metric: Metric) -> None:
        self.metric = metric
        self.value = 0

    def figures(self) -> Iterator[Figure]:
        """As it stands."""
        yield Figure(self.metric.name, (), self.value)


class Tally:
    """A counter with labels.

    Args:
        metric: whose it is.
        known: label values that are shown from the beginning, as 0: so that the first of them is seen as a rise.
    """

    __slots__ = ("_values", "metric")

    def __init__(self, metric: Metric, known: Iterable[tuple[str, ...]] = ()) -> None:
        self.metric = metric
        self._values: dict[tuple[str, ...], int] = dict.fromkeys(known, 0)

    def add(self, *labels: str) -> None:
        """One more."""
        self._values[labels] = self._values.get(labels, 0) + 1

    def figures(self) -> Iterator[Figure]:
        """As it stands."""
        for labels, value in self._values.items():
            yield Figure(self.metric.name, labels, value)


class Histogram:
    """Observations in buckets."""

    __slots__ = ("_counts", "_sums", "metric")

    def __init__(self, metric: Metric) -> None:
        self.metric = metric
        self._counts: dict[tuple[str, ...], list[int]] = {}
        self._sums: dict[tuple[str, ...], float] = {}
        if not metric.labels:
            self._begin(())

    def observe(self, value: float, *labels: str) -> None:
        """One observation."""
        counts = self._counts.get(labels) or self._begin(labels)
        counts[bisect_left(self.metric.buckets, value)] += 1
        self._sums[labels] += value

    def figures(self) -> Iterator[Figure]:
        """As it stands."""
        for labels, counts in self._counts.items():
            yield Figure(self.metric.name, labels, self._sums[labels], tuple(counts))

    def _begin(self, labels: tuple[str, ...]) -> list[int]:
        self._sums[labels] = 0.0
        counts = self._counts[labels] = [0] * (len(self.metric.buckets) + 1)
        return counts


def gauge(metric: Metric, value: float, *labels: str) -> Figure:
    """A value as it is now."""
    return Figure(metric.name, labels, value)


def added(figures: Iterable[Figure], more: Iterable[Figure]) -> list[Figure]:
    """Counters and histograms of both together: what one process has counted, and the one in its place after it.

    Gauges are not taken from the first: what a process held is gone with it.
    """
    total = {(figure.name, figure.labels): figure for figure in figures if _BY_NAME[figure.name].kind != "gauge"}
    for figure in more:
        key = (figure.name, figure.labels)
        before = total.get(key)
        total[key] = figure if before is None else _sum(before, figure)
    return list(total.values())


def of_process(figures: Iterable[Figure], process: str) -> list[Figure]:
    """The same, with the process they are of as their first label."""
    return [Figure(figure.name, (process, *figure.labels), figure.value, figure.counts) for figure in figures]


def encode_figures(figures: Sequence[Figure]) -> bytes:
    """As one line of JSON."""
    return msgspec.json.encode(figures)


_decoder = msgspec.json.Decoder(list[Figure])


def decode_figures(raw: bytes) -> list[Figure]:
    """Reads what `encode_figures` wrote.

    Raises:
        ValueError: it is something else, or names a metric that there is not.
    """
    figures = _decoder.decode(raw)
    if unknown := next((figure.name for figure in figures if figure.name not in _BY_NAME), None):
        raise ValueError(f"no metric is named {unknown!r}")
    return figures


def exposition(figures: Iterable[Figure]) -> bytes:
    """Prometheus' text format, version 0.0.4 (Prometheus, "Exposition formats"), in the order of the table."""
    by_name: dict[str, list[Figure]] = {}
    for figure in figures:
        by_name.setdefault(figure.name, []).append(figure)
    lines: list[str] = []
    for metric in METRICS:
        if found := by_name.get(metric.name):
            lines += (f"# HELP {metric.name} {metric.help}", f"# TYPE {metric.name} {metric.kind}")
            for figure in found:
                lines += _histogram(metric, figure) if metric.kind == "histogram" else [_line(metric, figure)]
    return ("\n".join(lines) + "\n").encode()


def _line(metric: Metric, figure: Figure) -> str:
    return f"{metric.name}{_labels(metric.all_labels, figure.labels)} {_number(figure.value)}"


def _histogram(metric: Metric, figure: Figure) -> Iterator[str]:
    so_far = 0
    for bound, count in zip((*map(_number, metric.buckets), "+Inf"), figure.counts, strict=True):
        so_far += count
        yield f"{metric.name}_bucket{_labels((*metric.all_labels, 'le'), (*figure.labels, bound))} {so_far}"
    labels = _labels(metric.all_labels, figure.labels)
    yield f"{metric.name}_sum{labels} {_number(figure.value)}"
    yield f"{metric.name}_count{labels} {so_far}"


def _labels(names: Sequence[str], values: Sequence[str]) -> str:
    shown = ",".join(f'{name}="{_escaped(value)}"' for name, value in zip(names, values, strict=True))
    return f"{{{shown}}}" if shown else ""


def _escaped(value: str) -> str:
    return value.replace("\\", r"\\").replace('"', r"\"").replace("\n", r"\n")


def _number(value: float) -> str:
    return str(int(value)) if value == int(value) else repr(value)


def _sum(one: Figure, other: Figure) -> Figure:
    counts = tuple(map(int.__add__, one.counts, other.counts))
    return Figure(one.name, one.labels, one.value + other.value, counts)
