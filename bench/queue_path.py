"""The part of `bench queue` that measures the whole path: from submit to the arrival at the model's server.

Ours is an ordinary `tailrace worker` and a `Client`; the peer is the naive worker (`bench/naive.py`). The model's
server is the simulator, which records when a request arrives, by the monotonic clock that all processes share.
"""

import json
from collections.abc import Callable, Generator
from contextlib import contextmanager
from random import Random
from time import monotonic, sleep
from typing import Any, NamedTuple
from urllib.request import urlopen

from bench.broker import Broker
from bench.figures import BenchError, Report
from bench.programs import Fleet
from bench.statistics import median
from tailrace.demo.parts import clean_environment
from tailrace.producers.client import Client

PEER, OURS = "arq 0.28 with the SDK", "tailrace worker"
RUNNING = 500
ARRIVES_WITHIN_S = 30.0
MAX_JOBS = RUNNING + 100
_LOOKS_EVERY_S = 0.1
_PAUSES_S = 0.3


class Seen(NamedTuple):
    """The arrival of a request at the simulator, by the machine's monotonic clock."""

    key: str
    at_s: float


class Path:
    """One run of this part.

    Args:
        report: receives progress.
        broker: the Valkey.
        samples: starts measured in each case.
    """

    def __init__(self, report: Report, broker: Broker, samples: int) -> None:
        self._report, self._broker, self._samples = report, broker, samples
        self._dice = Random(2)  # noqa: S311 -- pauses, no secrets

    def measure(self, name: str) -> dict[str, list[float]]:
        """Milliseconds from submit to the server, by case."""
        values: dict[str, list[float]] = {}
        with self._running(name) as (simulator, submit):
            self._report.progress(f"{name}, idle: submit to the model's server")
            self._latency_ms(simulator, submit, "warm-up")  # warm-up; also connects
            values["idle"] = [self._latency_ms(simulator, submit, f"idle-{n}") for n in range(self._samples)]
            self._report.progress(f"{name}: starting {RUNNING} long answers")
            for number in range(RUNNING):
                submit(f"long-{number}", _request(f"long-{number}", long=True))
            self._arrivals(simulator, RUNNING, "long-")
            case = f"{RUNNING} running"
            self._report.progress(f"{name}, {case}: submit to the model's server")
            values[case] = [self._latency_ms(simulator, submit, f"busy-{n}") for n in range(self._samples)]
        return values

    def _latency_ms(self, simulator: str, submit: Callable[[str, dict[str, Any]], float], key: str) -> float:
        sleep(self._dice.uniform(0, _PAUSES_S))  # so that samples are not in step with a poll
        began = submit(key, _request(key, long=False))
        (seen,) = self._arrivals(simulator, 1, key)
        return (seen.at_s - began) * 1000

    def _arrivals(self, simulator: str, count: int, prefix: str) -> list[Seen]:
        deadline = monotonic() + ARRIVES_WITHIN_S
        while monotonic() < deadline:
            sleep(_LOOKS_EVERY_S)
            # The simulator printed this address itself.
            with urlopen(simulator.removesuffix("/v1") + "/__sim/requests", timeout=5.0) as reply:  # noqa: S310
                entries = json.load(reply)["requests"]
            keys = ((str(entry["key"]), entry["started_s"]) for entry in entries)
            seen = [Seen(key, at_s) for key, at_s in keys if key.startswith(prefix)]
            if len(seen) >= count:
                return seen
        raise BenchError(f"not all of {count} requests arrived at the simulator within {ARRIVES_WITHIN_S:g} s")

    @contextmanager
    def _running(self, name: str) -> Generator[tuple[str, Callable[[str, dict[str, Any]], float]]]:
        """Runs a simulator and a worker on an empty Valkey; yields the simulator's URL and a function that submits."""
        self._broker.clear()
        with Fleet() as servers, Fleet() as workers:
            servers.start(
                "the simulator", ["-m", "tailrace.demo.simulator", "--port", "0", "--quiet"], clean_environment({})
            )
            ((_, line),) = servers.wait_for_lines(1, ARRIVES_WITHIN_S, "simulators ready")
            url = str(json.loads(line)["url"])
            environment = clean_environment(
                {"OPENAI_API_KEY": "none", "OPENAI_BASE_URL": url, "TAILRACE_REDIS_URL": self._broker.url}
            )
            if name == OURS:
                arguments = ["-m", "tailrace", "worker", "--max-jobs", str(MAX_JOBS)]
            else:
                arguments = ["-m", "bench.naive", self._broker.url, str(MAX_JOBS)]
            workers.start(name, arguments, environment)
            workers.wait_for_lines(1, ARRIVES_WITHIN_S, "workers ready")
            if name != OURS:
                yield url, lambda key, request: self._broker.submit(key, request, wake=False)
                return
            client = Client(self._broker.url)
            try:
                yield url, lambda key, request: self._submit(client, key, request)
            finally:
                self._broker.run(client.aclose())

    def _submit(self, client: Client, key: str, request: dict[str, Any]) -> float:
        began = monotonic()
        self._broker.run(client.submit({**request, "id": key}))
        return began


def _request(key: str, *, long: bool) -> dict[str, Any]:
    scenario = {"key": key, "name": "long-3600" if long else "text", "pace": {"chunks_per_s": 1 if long else 0}}
    return {
        "model": "sim",
        "messages": [{"role": "user", "content": "What is a tailrace?"}],
        "extra_body": {"simulator": scenario},
    }


def run(report: Report, broker: Broker, samples: int) -> None:
    """Measures both sides and prints the results."""
    path = Path(report, broker, samples)
    peer, ours = path.measure(PEER), path.measure(OURS)
    for case, values in ours.items():
        what = f"{OURS}, submit to the model's server"
        limit = 10.0 if case != "idle" else None
        report.figure(case, what, median(values), "ms", beside={PEER: median(peer[case])}, at_most=limit)
