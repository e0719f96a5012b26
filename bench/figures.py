"""The output of a benchmark: one JSON object a line on stdout, progress on stderr. Measures nothing."""

import sys
from collections.abc import Mapping
from time import monotonic
from typing import TextIO

import msgspec

from tailrace.schemas.errors import TailraceError

SIGNIFICANT_DIGITS = 4


class BenchError(TailraceError):
    """A benchmark could not finish."""

    code = "bench_failed"


class Beside(msgspec.Struct, frozen=True):
    """The value of the peer or the floor, measured in the same run, in the same unit."""

    what: str
    value: float


class Figure(msgspec.Struct, frozen=True, omit_defaults=True, kw_only=True):
    """One result. `ratio` is `value` divided by the value beside it; `met` is whether the expectation was met.

    `bounded`: the true value is larger, because the wait was limited or the machine was the bottleneck.
    """

    bench: str
    case: str
    what: str
    value: float
    unit: str
    bounded: bool = False
    ratio: float | None = None
    beside: Beside | None = None
    expected: str | None = None
    met: bool | None = None
    note: str | None = None


def rounded(value: float) -> float:
    """The value with as many digits as a measurement supports."""
    return float(f"{value:.{SIGNIFICANT_DIGITS}g}")


class Report:
    """Prints the results of a benchmark.

    Args:
        bench: the name of the benchmark.
        out: receives results.
        err: receives progress.
    """

    def __init__(self, bench: str, out: TextIO = sys.stdout, err: TextIO = sys.stderr) -> None:
        self._bench, self._out, self._err = bench, out, err
        self._began = monotonic()

    def figure(
        self,
        case: str,
        what: str,
        value: float,
        unit: str,
        *,
        beside: Mapping[str, float] | None = None,
        at_most: float | None = None,
        at_least: float | None = None,
        bounded: bool = False,
        note: str | None = None,
    ) -> None:
        """Prints a result, as one line for each peer.

        Args:
            case: the circumstances.
            what: what was measured.
            value: a median, unless `what` says otherwise.
            unit: `ms`, `us/chunk`, `1/s`, `%`, ...
            beside: values of peers or floors measured in the same run, by name; there is a ratio unless one is 0.
            at_most: the expected upper limit.
            at_least: the expected lower limit; give at most one of the two.
            bounded: the true value is larger: the wait was limited, or the machine was the bottleneck.
            note: a remark for the reader.
        """
        expected, met = None, None
        if at_most is not None:
            expected, met = f"<= {rounded(at_most):g}", value <= at_most
        elif at_least is not None:
            expected, met = f">= {rounded(at_least):g}", value >= at_least
        for name, other in (beside or {None: 0.0}).items():
            line = Figure(
                bench=self._bench,
                case=case,
                what=what,
                value=rounded(value),
                unit=unit,
                bounded=bounded,
                ratio=rounded(value / other) if name is not None and other else None,
                beside=None if name is None else Beside(name, rounded(other)),
                expected=expected,
                met=met,
                note=note,
            )
            print(msgspec.json.encode(line).decode(), file=self._out, flush=True)

    def progress(self, text: str) -> None:
        """Prints on stderr what is being measured now."""
        print(f"bench {self._bench} {monotonic() - self._began:5.1f} s  {text}", file=self._err, flush=True)
