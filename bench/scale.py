"""`bench scale`: deltas a second of one worker process and of several on one Redis, and how many one Redis supports.

The workers are saturated as in `bench worker`. Feeder, Valkey and workers share the machine's cores, so two workers on
two cores do not have one each; their CPU per delta says more. How many workers one Redis supports is computed.
"""

import os

from bench.figures import Report
from bench.path import OURS
from bench.worker import CPU_BOUND_PERCENT, FULL, QUICK, SATURATING, Saturated, saturated


def run(report: Report, *, quick: bool) -> None:
    """Measures with 1 worker, with 2, and with one for each core, and prints the results."""
    effort = QUICK if quick else FULL
    counts = sorted({1, 2, os.cpu_count() or 1})
    found = {count: saturated(report, OURS, effort, count) for count in counts}
    for count, row in found.items():
        _report(report, count, row, found[1])
    _report_redis(report, found[counts[-1]])


def _report(report: Report, count: int, row: Saturated, one: Saturated) -> None:
    def beside(field: str) -> dict[str, float] | None:
        return {_case(1): getattr(one, field)} if count > 1 else None

    case, note = _case(count), f"the workers had {row.worker_percent:.0f} % of a core in all"
    bounded = row.worker_percent < CPU_BOUND_PERCENT * count
    report.figure(case, "deltas in all", row.deltas_per_s, "deltas/s",
                  beside=beside("deltas_per_s"), bounded=bounded, note=note)  # fmt: skip
    report.figure(case, "the workers' CPU", row.us, "us/delta", beside=beside("us"))
    report.figure(case, "Valkey's CPU", row.server_us, "us/delta", beside=beside("server_us"))


def _report_redis(report: Report, row: Saturated) -> None:
    """Computes from the CPU per delta what would be possible with enough cores."""
    case, note = "computed from CPU", f"a core each, {SATURATING} saturated answers a worker; nobody reads"
    report.figure(case, "deltas that one Redis takes", 1e6 / row.server_us, "deltas/s", note=note)
    report.figure(case, "deltas that one worker makes", 1e6 / row.us, "deltas/s", note=note)
    report.figure(case, "saturated workers that one Redis feeds", row.us / row.server_us, "workers", note=note)


def _case(count: int) -> str:
    return "1 worker" if count == 1 else f"{count} workers"
