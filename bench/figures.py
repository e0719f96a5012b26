"""The form of a figure: one JSON object a line on stdout; what goes on meanwhile, on stderr. Measures nothing."""

import sys
from collections.abc import Mapping
from time import monotonic
from typing import TextIO

import msgspec

from tailrace.schemas.errors import TailraceError

SIGNIFICANT_DIGITS = 4


class BenchError(TailraceError):
    """A benchmark could not be brought to its end."""

    code = "bench_failed"


class Beside(msgspec.Struct, frozen=True):
    """The peer or the floor of a figure, measured in the same run, in the same unit."""

    what: str
    value: float


class Figure(msgspec.Struct, frozen=True, omit_defaults=True, kw_only=True):
    """One figure. `ratio` is `value` by the value beside it. `met`: whether it keeps what was expected of it.

    `bounded`: the value is only as far as was waited, or as the machine gave; the true one is larger.
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
    """As many digits as a measurement may claim."""
    return float(f"{value:.{SIGNIFICANT_DIGITS}g}")


class Report:
    """Where a benchmark puts its figures.

    Args:
        bench: its name.
        out: for figures.
        err: for progress.
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
        """Prints a figure, and one line more for each further peer beside it.

        Args:
            case: under which circumstances.
            what: of whom or of what.
            value: a median, unless `what` says otherwise.
            unit: `ms`, `us/chunk`, `1/s`, `%`, ...
            beside: peers or floors measured in the same run, by name; a ratio is given where theirs is not 0.
            at_most: what is expected of the value.
            at_least: the same from below; one of the two.
            bounded: the true value is larger: it was not waited for, or the machine gave no more.
            note: anything a reader has to know.
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
        """Says on stderr what is being measured now."""
        print(f"bench {self._bench} {monotonic() - self._began:5.1f} s  {text}", file=self._err, flush=True)
