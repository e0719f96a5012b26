"""The path of a delta from the feeder to Valkey, through `tailrace worker`, the naive worker or the floor.

A `Setup` is a Valkey, a feeder, and worker processes of one of these ways, with running answers. `window` measures what
they do in some seconds. Knows nothing of results.
"""

from contextlib import ExitStack
from itertools import pairwise
from time import monotonic, sleep
from types import TracebackType
from typing import NamedTuple, Self

import msgspec

from bench import naive
from bench.broker import Broker
from bench.feeder import FeederState, Plan
from bench.figures import BenchError
from bench.floor import Work
from bench.log_reader import Lateness
from bench.programs import Fleet, Program, cpu_s
from tailrace.broker import keys
from tailrace.demo.parts import clean_environment
from tailrace.producers.client import Client

OURS, HTTPX = "tailrace worker", "tailrace worker over httpx"
NAIVE, FLOOR = "the naive worker", "the floor"
_TRANSPORTS = {OURS: "tailrace", HTTPX: "httpx"}
SPARE_JOBS = 10
FOLLOWED = 20
"""Logs that are read to measure latency; the others have no readers."""

READY_WITHIN_S = 60.0
LATEST_S = 20.0
_MESSAGES = [{"role": "user", "content": "What is a tailrace?"}]


class Counts(NamedTuple):
    """Totals since the start, CPU in seconds; and the largest delay of the feeder since it was last asked."""

    at_s: float
    deltas: int
    worker_s: float
    server_s: float
    feeder_s: float
    sent: int
    late_ms: float


class Window(NamedTuple):
    """What was done in a measured window.

    Attributes:
        seconds: the length of the window.
        deltas: entries written to logs.
        sent: chunks the feeder sent.
        worker_s: CPU seconds of all worker processes.
        server_s: CPU seconds of Valkey.
        feeder_s: CPU seconds of the feeder.
        feeder_late_ms: the largest delay with which the feeder sent a chunk.
        lateness: the time from sending to reading in the followed logs; None without `follow`.
    """

    seconds: float
    deltas: int
    sent: int
    worker_s: float
    server_s: float
    feeder_s: float
    feeder_late_ms: float
    lateness: Lateness | None

    @property
    def worker_us(self) -> float:
        """Microseconds of the workers' CPU per delta."""
        return self.worker_s / self.deltas * 1e6

    @property
    def server_us(self) -> float:
        """Microseconds of Valkey's CPU per delta."""
        return self.server_s / self.deltas * 1e6

    @property
    def deltas_per_s(self) -> float:
        """Deltas per second."""
        return self.deltas / self.seconds


class Setup:
    """The processes of a measurement; a context manager that ends them all.

    Args:
        way: OURS (with Tailrace's transport), HTTPX (with the SDK's), NAIVE or FLOOR.
        streams: answers that run at once, over all workers.
        workers: how many worker processes.
    """

    def __init__(self, way: str, streams: int, workers: int = 1) -> None:
        self._way, self._streams = way, streams
        self._shares = _shares(streams, workers)
        self._stack = ExitStack()
        self._reader: Program | None = None
        self._before_go = 0

    def __enter__(self) -> Self:
        with self._stack:
            self.broker = self._stack.enter_context(Broker())
            self._helpers = self._stack.enter_context(Fleet())
            self.workers = self._stack.enter_context(Fleet())
            self._feeder = self._helpers.start("the feeder", ["-m", "bench.feeder"], clean_environment({}))
            self.port = int(self._heard(self._helpers))
            for _, share in self._shares:
                self._start_worker(share)
            self.workers.wait_for_lines(len(self._shares), READY_WITHIN_S, "workers ready")
            self._stack = self._stack.pop_all()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._stack.close()

    def open(self, feed: Plan, prefix: str = "bench-", count: int | None = None) -> None:
        """Requests `count` answers, or all; returns when the feeder has received and holds all of them."""
        count = self._streams if count is None else count
        self._feeder.send_line("hold")
        if self._way == FLOOR:
            self._request_from_floor(feed, prefix, count)
        else:
            ids = [f"{prefix}{number}" for number in range(count)]
            request: dict[str, object] = {
                "model": "m",
                "messages": _MESSAGES,
                "extra_body": {"feed": msgspec.to_builtins(feed)},
            }
            if self._way in _TRANSPORTS:
                self.broker.run(self._submit(ids, request))
            else:
                self.broker.submit_at_once(dict.fromkeys(ids, request), wake=False)
        self.until_running(count)

    def go(self) -> None:
        """Lets the answers begin."""
        self._before_go = self.broker.calls_of("xadd")  # the first entries of the logs
        self._feeder.send_line("go")

    def follow(self, prefix: str = "bench-") -> None:
        """Makes later windows measure latency, too."""
        followed = range(0, self._streams, max(1, self._streams // FOLLOWED))
        logs = [self.log(f"{prefix}{number}") for number in followed]
        arguments = ["-m", "bench.log_reader", str(self.broker.valkey.port), *logs]
        self._reader = self._helpers.start("the reader", arguments, clean_environment({}))
        self._heard(self._helpers)

    def log(self, request_id: str) -> str:
        """The key of an answer's log."""
        return naive.log_key(request_id) if self._way == NAIVE else keys.log_key(request_id)

    def entries(self, request_id: str) -> list[bytes]:
        """The entries of an answer's log."""
        return self.broker.entries(self.log(request_id))

    def warm_up(self, seconds: float) -> None:
        """Waits until so many seconds have passed since the first delta.

        Raises:
            BenchError: no delta arrives.
        """
        deadline = monotonic() + READY_WITHIN_S
        while self.broker.calls_of("xadd") <= self._before_go:
            if monotonic() > deadline:
                raise BenchError(f"{self._way}: no delta was written to the logs")
            sleep(0.05)
        sleep(seconds)

    def window(self, seconds: float) -> Window:
        """Measures for so many seconds.

        Raises:
            BenchError: nothing was written, or a program has ended.
        """
        lateness = None
        before = self._counts()
        if self._reader is None:
            sleep(seconds)
        else:
            self._reader.send_line(str(seconds))
            lateness = msgspec.json.decode(self._heard(self._helpers), type=Lateness)
        after = self._counts()
        spent = [late - early for late, early in zip(after, before, strict=True)]
        if after.deltas <= before.deltas:
            raise BenchError(f"{self._way}: no delta was written to the logs")
        return Window(
            seconds=spent[0],
            deltas=int(spent[1]),
            sent=int(spent[5]),
            worker_s=spent[2],
            server_s=spent[3],
            feeder_s=spent[4],
            feeder_late_ms=after.late_ms,
            lateness=lateness,
        )

    def until_running(self, count: int) -> None:
        """Waits until exactly `count` answers are running.

        Raises:
            BenchError: they are not in time.
        """
        deadline = monotonic() + READY_WITHIN_S
        while (state := self._feeder_state()).running != count:
            if monotonic() > deadline:
                raise BenchError(f"{self._way}: {state.running} answers are running instead of {count}")
            sleep(0.05)

    def _start_worker(self, streams: int) -> None:
        url = self.broker.url
        environment = {"OPENAI_API_KEY": "none", "OPENAI_BASE_URL": f"http://127.0.0.1:{self.port}/v1"}
        if self._way == NAIVE:
            arguments = ["-m", "bench.naive", url, str(streams + SPARE_JOBS)]
        elif self._way == FLOOR:
            arguments = ["-m", "bench.floor", str(self.broker.valkey.port), str(self.port)]
        else:
            arguments = ["-m", "tailrace", "worker", "--max-jobs", str(streams)]
            environment["TAILRACE_REDIS_URL"] = url
            environment["TAILRACE_UPSTREAM_TRANSPORT"] = _TRANSPORTS[self._way]
            environment["TAILRACE_MAX_LOG_ENTRIES"] = "100000000"  # so that endless answers do not end
        self.workers.start(self._way, arguments, clean_environment(environment))

    def _request_from_floor(self, feed: Plan, prefix: str, count: int) -> None:
        for program, (first, share) in zip(self.workers.programs, _shares(count, len(self._shares)), strict=True):
            program.send_line(msgspec.json.encode(Work(prefix, first, share, feed)).decode())

    async def _submit(self, ids: list[str], request: dict[str, object]) -> None:
        async with Client(self.broker.url) as client:
            for request_id in ids:
                await client.submit({**request, "id": request_id})

    def _counts(self) -> Counts:
        server, feeder = self.broker.valkey.pid, self._feeder.popen.pid
        deltas = self.broker.calls_of("xadd")
        state = self._feeder_state()
        return Counts(
            monotonic(), deltas, self.workers.cpu_s(), cpu_s(server), cpu_s(feeder), state.sent, state.late_ms
        )

    def _feeder_state(self) -> FeederState:
        self._feeder.send_line("tell")
        return msgspec.json.decode(self._heard(self._helpers), type=FeederState)

    def _heard(self, fleet: Fleet) -> str:
        ((_, line),) = fleet.wait_for_lines(1, LATEST_S, "answers")
        return line


def _shares(count: int, workers: int) -> list[tuple[int, int]]:
    """For each worker, the number of its first answer and how many answers it gets."""
    bounds = [count * number // workers for number in range(workers + 1)]
    return [(first, end - first) for first, end in pairwise(bounds)]
