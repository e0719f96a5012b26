"""Which results are drawn, and the content of each chart. Pure: `plot.py` draws."""

import re
from collections.abc import Sequence
from typing import NamedTuple

from bench.figures import Figure


class Chart(NamedTuple):
    """A bar chart of results with the same unit.

    Attributes:
        name: of the picture: `bench-<name>.svg`.
        bench: the benchmark.
        title: what is shown, with its unit.
        what: a regular expression that `Figure.what` has to match as a whole.
        case: the same for `Figure.case`; its first group, if it has one, is the label of the bar.
        logarithmic: whether the scale is logarithmic, for values that are far apart.
    """

    name: str
    bench: str
    title: str
    what: str
    case: str = "(.*)"
    logarithmic: bool = True


CHARTS = (
    Chart("queue", "queue", "From submit to the job function, median, ms", "LeasedWorker, submit to job function"),
    Chart("cancel", "cancel", "From a cancel to the closed connection, median, ms",
          "cancel, call to closed connection.*server"),
    Chart("interface", "interface", "A chunk of arguments with inner thoughts, by chunks of the answer, us",
          "ChatInterface.read", r"arguments, inner thoughts taken out, (\d+ chunks)"),
    Chart("startup", "startup", "From the start of a process, ms", "tailrace [^,]*(, to its ready line)?"),
    Chart("publish", "publish", "A delta into its log, the writer's CPU, us", ".*, client"),
    Chart("decode", "decode", "Reading a chunk, CPU, us", ".*", "(.* chunks at once|.*/s each)"),
    Chart("worker", "worker", "Saturated: deltas/s of one process", "tailrace worker"),
    Chart("worker-cpu", "worker", "From the model's server to the log, CPU of a delta, us", "tailrace worker, CPU",
          "(.*) each"),
    Chart("worker-latency", "worker", "From the model's server to a reader, median, ms",
          "tailrace worker, sent to read", "(.*) each"),
    Chart("memory", "memory", "A running answer, KiB", "tailrace worker, memory", "(.*) running answers.*"),
    Chart("memory-redis", "memory", "A delta in Redis, bytes", "tailrace worker, Redis' memory", "(.*)"),
    Chart("scale", "scale", "Saturated: deltas/s in all", "deltas in all", logarithmic=False),
    Chart("tails", "tails", "A delta at its tail, CPU, us", "Client.tail, CPU"),
    Chart("tails-latency", "tails", "From the append to the item, 99 %, ms", "Client.tail, append to item, 99 %"),
)  # fmt: skip


class Drawn(NamedTuple):
    """The content of a chart: the labels of its groups, and for each series one value per group, or None."""

    labels: list[str]
    series: dict[str, list[float | None]]


def drawn(chart: Chart, figures: Sequence[Figure]) -> Drawn | None:
    """The content of a chart for some results; None if there is nothing to draw."""
    values: dict[str, dict[str, float]] = {}
    labels: list[str] = []
    for figure in figures:
        case = re.fullmatch(chart.case, figure.case)
        if figure.bench != chart.bench or case is None or not re.fullmatch(chart.what, figure.what):
            continue
        label = case[1] if case.groups() else figure.case
        if label not in labels:
            labels.append(label)
        values.setdefault(figure.what, {})[label] = figure.value
        if figure.beside is not None:
            values.setdefault(figure.beside.what, {})[label] = figure.beside.value
    if not labels:
        return None
    return Drawn(labels, {name: [row.get(label) for label in labels] for name, row in values.items()})
