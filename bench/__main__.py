"""`python -m bench NAME`: finds a benchmark, bounds its time, and takes everything down, however it ends."""

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

One JSON object a line on stdout: bench, case, what, value (a median unless `what` says otherwise), unit, beside (the
peer or the floor, measured in the same run), ratio (value by beside), expected and met. Progress goes to stderr.
Everything runs on this machine alone, on a Valkey and a simulator of its own, and is taken down at the end, also on
Ctrl-C.
Figures are worth something on a machine that does nothing else; docs/benchmarks.md says how they are made.
"""


class Bench(NamedTuple):
    """A benchmark: the module whose `run` measures, imported when it is called, and what it is about."""

    module: str
    about: str


BENCHES = {
    "queue": Bench("bench.queue", "start latency, starts/s, takeover and cost of waiting, beside stock arq"),
    "cancel": Bench("bench.cancel", "from a cancel to the closed connection, beside a bare PUBLISH"),
    "interface": Bench(
        "bench.interface", "cost of a chunk by length of the answer, beside decoding alone and a naive way"
    ),
    "publish": Bench(
        "bench.publish", "cost of a delta on its way into the log, beside one XADD each and beside RESP by hand"
    ),
    "startup": Bench("bench.startup", "from the start of a process to its help and to a worker that takes jobs"),
    "decode": Bench("bench.decode", "reading the model's stream, beside the SDK's objects and the floor"),
    "worker": Bench(
        "bench.worker", "one worker process, deltas/s, CPU and latency, beside the naive worker and the floor"
    ),
    "memory": Bench("bench.memory", "of a running answer in its worker, of deltas and finished requests in Redis"),
    "scale": Bench("bench.scale", "deltas/s of several workers, and how many of them one Redis feeds"),
    "tails": Bench("bench.tails", "many tails in one process, beside one blocking connection a tail"),
}


class _Module(Protocol):
    def run(self, report: Report, *, quick: bool) -> None: ...


def _parser() -> argparse.ArgumentParser:
    about = "\n".join(f"  {name:<11} {bench.about}" for name, bench in BENCHES.items())
    parser = argparse.ArgumentParser(
        prog="python -m bench",
        description=f"Measures Tailrace beside its peers.\n\nbenchmarks:\n{about}\n  all         each, the default",
        epilog=_EXAMPLE,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"of {', '.join(BENCHES)}, all")
    parser.add_argument(
        "--quick",
        action="store_true",
        help=f"fewer repetitions, under {QUICK_BOUND_S:.0f} s a benchmark: shows that it works, not what it costs"
        f" (otherwise under {BOUND_S:.0f} s)",
    )
    return parser


@contextmanager
def _bounded(bound_s: float) -> Generator[None]:
    """Whatever is measured inside is broken off after `bound_s` seconds, and by SIGTERM as by Ctrl-C."""

    def too_long(_number: int, _frame: FrameType | None) -> None:
        raise BenchError(f"not done within {bound_s:.0f} s: this machine is too busy for it, or something hangs")

    def asked(_number: int, _frame: FrameType | None) -> None:
        raise KeyboardInterrupt

    actions = {
        signal.SIGALRM: too_long,
        signal.SIGTERM: asked,
        signal.SIGINT: signal.default_int_handler,  # a shell ignores it for what it runs in the background
    }
    before = {number: signal.signal(number, action) for number, action in actions.items()}
    signal.setitimer(signal.ITIMER_REAL, bound_s)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        for number, action in before.items():
            signal.signal(number, action)


def _tell_machine(report: Report) -> None:
    """What else runs here, since a figure is worth as much as the machine was free."""
    linux = platform.release().partition("-")[0]  # what follows is the builder's
    note = f"{os.cpu_count()} cores, Linux {linux}, Python {platform.python_version()}"
    report.figure("the machine", "load before it began, 1 minute", os.getloadavg()[0], "processes", note=note)


def main(argv: Sequence[str]) -> int:
    """Runs the benchmarks named; the exit code: 1 when one of them could not be run to its end, which stops no other.

    Expectations that are not met do not change it.
    """
    parser = _parser()
    options = parser.parse_args(argv)
    names: list[str] = options.names or ["all"]
    if unknown := [name for name in names if name not in BENCHES and name != "all"]:
        parser.error(f"there is no benchmark {unknown[0]!r}; there are {', '.join(BENCHES)}, all")
    names = list(BENCHES) if "all" in names else list(dict.fromkeys(names))
    failed = 0
    for name in names:
        try:
            with _bounded(QUICK_BOUND_S if options.quick else BOUND_S):
                bench, report = cast(_Module, import_module(BENCHES[name].module)), Report(name)
                _tell_machine(report)
                bench.run(report, quick=options.quick)
        except TailraceError as error:
            print(f"bench {name}: {error}", file=sys.stderr)
            failed += 1
        except BrokenPipeError:  # whoever read the figures has gone
            sys.stderr.close()
            return 1
        except KeyboardInterrupt:
            print(f"bench {name}: stopped; everything is taken down", file=sys.stderr)
            return 130
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
