"""`bench worker`: one worker process from the model's server to the log, next to the naive worker and the floor.

The ways run one after the other, each with a feeder, a Valkey and, for latency, one reader of 20 of the logs. These
processes share the machine's cores.
"""

from typing import NamedTuple

from bench.feeder import Plan
from bench.figures import Report
from bench.path import FLOOR, HTTPX, NAIVE, OURS, Setup, Window
from bench.statistics import median

WAYS = (OURS, NAIVE, FLOOR)
MORE_WAYS = (OURS, HTTPX, NAIVE, FLOOR)
SATURATING = 50
RATE = 50.0
STREAMS = (1, 50, 200, 500)
JUDGED = 200
MANY, MANY_RATE = 1_000, 20.0

TIMES_NAIVE = 40.0
TIMES_FLOOR = 1.5
P50_MS, P99_MS = 1.5, 15.0
DELIVERED_PERCENT = 99.0
CPU_BOUND_PERCENT = 90.0
"""A saturated worker that used less of a core had to wait for other processes."""


class Effort(NamedTuple):
    """How much is measured: `--quick` or not."""

    streams: tuple[int, ...]
    many: int
    windows: int
    window_s: float
    warm_up_s: float


FULL = Effort(STREAMS, MANY, windows=3, window_s=2.0, warm_up_s=1.5)
QUICK = Effort((1, 50), 200, windows=1, window_s=1.0, warm_up_s=0.5)


class Paced(NamedTuple):
    """The results of one way at a given rate: medians over its windows, except for the longest."""

    us: float
    server_us: float
    p50_ms: float
    p99_ms: float
    max_ms: float
    delivered_percent: float
    fed_percent: float


class Saturated(NamedTuple):
    """The results of one way when there was always more to read: medians over its windows."""

    deltas_per_s: float
    us: float
    worker_percent: float
    server_us: float


def run(report: Report, *, quick: bool) -> None:
    """Measures and prints the results, case by case."""
    effort = QUICK if quick else FULL
    _report_saturated(report, {way: saturated(report, way, effort) for way in MORE_WAYS})
    for streams, rate in [*((count, RATE) for count in effort.streams), (effort.many, MANY_RATE)]:
        ways = MORE_WAYS if streams == JUDGED else WAYS
        _report_paced(report, streams, rate, {way: _paced(report, way, streams, rate, effort) for way in ways})


def saturated(report: Report, way: str, effort: Effort, workers: int = 1) -> Saturated:
    """Measures with endless answers, sent as fast as they are read.

    Args:
        report: receives progress.
        way: one of `MORE_WAYS`.
        effort: how much is measured.
        workers: how many processes, with `SATURATING` answers each.

    Raises:
        BenchError: a program ended, was not ready in time, or no delta was written.
    """
    report.progress(f"{way}: saturated, {workers} workers")
    with Setup(way, SATURATING * workers, workers) as setup:
        setup.open(Plan())
        setup.go()
        windows = _windows(setup, effort)
    return Saturated(
        median([window.deltas_per_s for window in windows]),
        median([window.worker_us for window in windows]),
        median([window.worker_s / window.seconds * 100 for window in windows]),
        median([window.server_us for window in windows]),
    )


def _paced(report: Report, way: str, streams: int, rate: float, effort: Effort) -> Paced:
    report.progress(f"{way}: {streams:,} answers, {rate:g}/s each")
    with Setup(way, streams) as setup:
        setup.open(Plan(per_s=rate))
        setup.follow()
        setup.go()
        windows = _windows(setup, effort)
    lateness = [window.lateness for window in windows if window.lateness]
    return Paced(
        median([window.worker_us for window in windows]),
        median([window.server_us for window in windows]),
        median([late.p50_ms for late in lateness]),
        median([late.p99_ms for late in lateness]),
        max(late.max_ms for late in lateness),
        median([window.deltas / window.sent * 100 for window in windows]),
        median([window.sent / (streams * rate * window.seconds) * 100 for window in windows]),
    )


def _windows(setup: Setup, effort: Effort) -> list[Window]:
    setup.warm_up(effort.warm_up_s)
    return [setup.window(effort.window_s) for _ in range(effort.windows)]


def _report_saturated(report: Report, found: dict[str, Saturated]) -> None:
    """Prints the results of one saturated process."""
    ours, naive = found[OURS], found[NAIVE]
    case = f"saturated, {SATURATING} answers"
    note = "; ".join(f"{way} had {one.worker_percent:.0f} % of a core" for way, one in found.items())
    report.figure(case, OURS, ours.deltas_per_s, "deltas/s", beside=_peers(found, "deltas_per_s"),
                  at_least=TIMES_NAIVE * naive.deltas_per_s, bounded=ours.worker_percent < CPU_BOUND_PERCENT,
                  note=note)  # fmt: skip
    by_cpu = {way: 1e6 / one.us for way, one in found.items()}
    report.figure(case, f"{OURS}, by its CPU alone", by_cpu.pop(OURS), "deltas/s of CPU", beside=by_cpu,
                  at_least=TIMES_NAIVE * by_cpu[NAIVE])  # fmt: skip
    report.figure(case, f"{OURS}, CPU", ours.us, "us/delta", beside=_peers(found, "us"))
    report.figure(case, f"{OURS}, Valkey's CPU", ours.server_us, "us/delta", beside=_peers(found, "server_us"))


def _report_paced(report: Report, streams: int, rate: float, found: dict[str, Paced]) -> None:
    ours, floor = found[OURS], found[FLOOR]
    case = f"{streams:,} answers, {rate:g}/s each"
    judged = (streams, rate) == (JUDGED, RATE)
    fed = [f"{way} was sent {one.fed_percent:.0f} %" for way, one in found.items() if one.fed_percent < 98]
    note = "; ".join(fed) or None
    report.figure(case, f"{OURS}, CPU", ours.us, "us/delta", beside=_peers(found, "us"),
                  at_most=TIMES_FLOOR * floor.us, note=note)  # fmt: skip
    report.figure(case, f"{OURS}, sent to read", ours.p50_ms, "ms", beside=_peers(found, "p50_ms"),
                  at_most=P50_MS if judged else None)  # fmt: skip
    report.figure(case, f"{OURS}, sent to read, 99 %", ours.p99_ms, "ms", beside=_peers(found, "p99_ms"),
                  at_most=P99_MS if judged else None)  # fmt: skip
    report.figure(case, f"{OURS}, sent to read, longest", ours.max_ms, "ms", beside=_peers(found, "max_ms"))
    report.figure(case, f"{OURS}, delivered of what was sent", ours.delivered_percent, "%",
                  beside=_peers(found, "delivered_percent"), at_least=DELIVERED_PERCENT)  # fmt: skip
    report.figure(case, f"{OURS}, Valkey's CPU", ours.server_us, "us/delta", beside=_peers(found, "server_us"))


def _peers(found: dict[str, Saturated] | dict[str, Paced], field: str) -> dict[str, float]:
    return {way: getattr(one, field) for way, one in found.items() if way != OURS}
