"""`bench startup`: the time from the start of a process to its help, and to a worker that takes jobs.

It is compared with the start of Python itself, and with the import of the SDK, which a worker needs. Each measurement
starts a new process of this interpreter, with its files in the page cache, one after the other in each round.
"""

import subprocess
import sys
from collections.abc import Callable, Mapping
from functools import partial
from time import monotonic

from bench.figures import Report
from bench.programs import Fleet, cpu_s
from bench.statistics import interleaved, median
from tailrace.demo.parts import clean_environment
from tailrace.demo.valkey import EmbeddedValkey

ROUNDS, QUICK_ROUNDS = 10, 3
HELP_MS, WORKER_MS = 150.0, 1_000.0
HELP, WORKER = "tailrace --help", "tailrace worker, to its ready line"
PYTHON, SDK = "python -c pass", "python -c 'import openai'"
_WITHIN_S = 30.0


def run(report: Report, *, quick: bool) -> None:
    """Measures each way and prints the results."""
    with EmbeddedValkey() as valkey:
        environment = clean_environment(
            {
                "TAILRACE_REDIS_URL": valkey.url,
                "OPENAI_API_KEY": "none",
                "OPENAI_BASE_URL": "http://127.0.0.1:9/v1",  # not used before the first request
            }
        )
        cpu_ms: list[float] = []
        ways: dict[str, Callable[[], float]] = {
            PYTHON: partial(_to_its_end_ms, ["-c", "pass"], environment),
            HELP: partial(_to_its_end_ms, ["-m", "tailrace", "--help"], environment),
            SDK: partial(_to_its_end_ms, ["-c", "import openai"], environment),
            WORKER: partial(_ready_ms, environment, cpu_ms),
        }
        report.progress("each once, to fill the page cache")
        interleaved(ways, 1)
        cpu_ms.clear()
        rounds = QUICK_ROUNDS if quick else ROUNDS
        report.progress(f"{rounds} rounds")
        took_ms = {name: median(values) for name, values in interleaved(ways, rounds).items()}
    floors = {name: took_ms[name] for name in (PYTHON, SDK)}
    report.figure("start-up", HELP, took_ms[HELP], "ms", beside={PYTHON: took_ms[PYTHON]}, at_most=HELP_MS)
    report.figure("start-up", WORKER, took_ms[WORKER], "ms", beside=floors, at_most=WORKER_MS)
    report.figure("start-up", f"{WORKER}, CPU", median(cpu_ms), "ms")


def _to_its_end_ms(arguments: list[str], environment: Mapping[str, str]) -> float:
    began = monotonic()
    subprocess.run(  # noqa: S603 -- this interpreter, with arguments made here
        [sys.executable, *arguments], env=environment, stdout=subprocess.DEVNULL, check=True, timeout=_WITHIN_S
    )
    return (monotonic() - began) * 1000


def _ready_ms(environment: Mapping[str, str], cpu_ms: list[float]) -> float:
    with Fleet() as workers:
        began = monotonic()
        worker = workers.start("tailrace worker", ["-m", "tailrace", "worker"], environment)
        workers.wait_for_lines(1, _WITHIN_S, "workers ready")
        took_ms = (monotonic() - began) * 1000
        cpu_ms.append(cpu_s(worker.popen.pid) * 1000)
    return took_ms
