"""`python -m bench NAME`: runs a benchmark within a time limit, and stops everything it started."""

import argparse
import os
import platform
import signal
import sys
from collections.abc import Generator, Sequence
from contextlib import contextmanager
from importlib import import_module
from types import FrameType
from typing import NamedTuple, Protocol, cast

from bench.figures import BenchError, Report
from tailrace.schemas.errors import TailraceError

BOUND_S = 300.0
QUICK_BOUND_S = 60.0

_EXAMPLE = """example:
  python -m bench queue --quick
  python -m bench all > figures.jsonl

Prints one JSON object a line on stdout: bench, case, what, value (a median unless `what` says otherwise), unit, beside
(the peer or the floor, measured in the same run), ratio (value divided by beside), expected and met. Progress goes to
stderr. Everything runs on this machine, with a Valkey and a simulator of its own, and is stopped at the end, also on
Ctrl-C.
The results are meaningful only on an otherwise idle machine; docs/benchmarks.md explains how they are made.
"""


class Bench(NamedTuple):
    """A benchmark: the module whose `run` measures, and a line for the help. The module is imported when it is run."""

    module: str
    about: str


BENCHES = {
    "queue": Bench("bench.queue", "start latency, starts/s, takeover and idle cost, next to stock arq"),
    "cancel": Bench("bench.cancel", "from a cancel to the closed connection, next to a bare PUBLISH"),
    "interface": Bench(
        "bench.interface", "cost of a chunk by length of the answer, next to decoding alone and a naive way"
    ),
    "publish": Bench("bench.publish", "cost of writing a delta to the log, next to one XADD each and to RESP by hand"),
    "startup": Bench("bench.startup", "from the start of a process to its help, and to a worker that takes jobs"),
    "decode": Bench("bench.decode", "reading the model's stream, next to the SDK's objects and the floor"),
    "worker": Bench(
        "bench.worker", "deltas/s, CPU and latency of one worker process, next to the naive worker and the floor"
    ),
    "memory": Bench(
        "bench.memory", "memory of a running answer in its worker, and of deltas and finished requests in Redis"
    ),
    "scale": Bench("bench.scale", "deltas/s of several workers, and how many of them one Redis supports"),
    "tails": Bench("bench.tails", "many tails in one process, next to one blocking connection a tail"),
}


class _Module(Protocol):
    def run(self, report: Report, *, quick: bool) -> None: ...


def _parser() -> argparse.ArgumentParser:
    about = "\n".join(f"  {name:<11} {bench.about}" for name, bench in BENCHES.items())
    parser = argparse.ArgumentParser(
        prog="python -m bench",
        description=f"Measures Tailrace next to its peers.\n\nbenchmarks:\n{about}\n  all         all, the default",
        epilog=_EXAMPLE,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"one or more of {', '.join(BENCHES)}, all")
    parser.add_argument(
        "--quick",
        action="store_true",
        help=f"fewer repetitions, under {QUICK_BOUND_S:.0f} s a benchmark instead of {BOUND_S:.0f} s; the results are"
        " rough",
    )
    return parser


@contextmanager
def _bounded(bound_s: float) -> Generator[None]:
    """Stops what runs inside after `bound_s` seconds; SIGTERM has the effect of Ctrl-C."""

    def too_long(_number: int, _frame: FrameType | None) -> None:
        raise BenchError(f"not finished within {bound_s:.0f} s: the machine is too busy, or something hangs")

    def asked(_number: int, _frame: FrameType | None) -> None:
        raise KeyboardInterrupt

    actions = {
        signal.SIGALRM: too_long,
        signal.SIGTERM: asked,
        signal.SIGINT: signal.default_int_handler,  # a shell sets it to ignored for background jobs
    }
    before = {number: signal.signal(number, action) for number, action in actions.items()}
    signal.setitimer(signal.ITIMER_REAL, bound_s)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        for number, action in before.items():
            signal.signal(number, action)


def _report_machine(report: Report) -> None:
    """Reports the machine and its load, which limit what the results mean."""
    linux = platform.release().partition("-")[0]  # the rest is specific to the build
    note = f"{os.cpu_count()} cores, Linux {linux}, Python {platform.python_version()}"
    report.figure("the machine", "load before it began, 1 minute", os.getloadavg()[0], "processes", note=note)


def main(argv: Sequence[str]) -> int:
    """Runs the named benchmarks and returns the exit code: 1 if one of them failed, which does not stop the others.

    An expectation that is not met does not change the exit code.
    """
    parser = _parser()
    options = parser.parse_args(argv)
    names: list[str] = options.names or ["all"]
    if unknown := [name for name in names if name not in BENCHES and name != "all"]:
        parser.error(f"there is no benchmark {unknown[0]!r}; choose from {', '.join(BENCHES)}, all")
    names = list(BENCHES) if "all" in names else list(dict.fromkeys(names))
    failed = 0
    for name in names:
        try:
            with _bounded(QUICK_BOUND_S if options.quick else BOUND_S):
                bench, report = cast(_Module, import_module(BENCHES[name].module)), Report(name)
                _report_machine(report)
                bench.run(report, quick=options.quick)
        except TailraceError as error:
            print(f"bench {name}: {error}", file=sys.stderr)
            failed += 1
        except BrokenPipeError:  # the reader of stdout has gone
            sys.stderr.close()
            return 1
        except KeyboardInterrupt:
            print(f"bench {name}: stopped", file=sys.stderr)
            return 130
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
