"""The way of a delta under measurement, from the feeder to Valkey, by `tailrace worker`, naive worker or floor.

One `Plant` is a Valkey, a feeder, and worker processes of one of these ways with answers running; `window` says what
they did in a time. Knows nothing of figures.
"""

from contextlib import ExitStack
from itertools import pairwise
from time import monotonic, sleep
from types import TracebackType
from typing import NamedTuple, Self

import msgspec

from bench import naive
from bench.broker import Broker
from bench.feeder import Plan, Told
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
"""Logs that are read to see how late deltas come; the others cost Redis no readers."""

READY_WITHIN_S = 60.0
LATEST_S = 20.0
_MESSAGES = [{"role": "user", "content": "What is a tailrace?"}]


class Counts(NamedTuple):
    """What has been done since all began, CPU in seconds; and how late the feeder was since it was last asked."""

    at_s: float
    deltas: int
    worker_s: float
    server_s: float
    feeder_s: float
    sent: int
    late_ms: float


class Window(NamedTuple):
    """What was done in a time.

    Attributes:
        seconds: how long it was.
        deltas: entries that came into logs.
        sent: chunks the feeder sent.
        worker_s: CPU seconds of all worker processes.
        server_s: of Valkey.
        feeder_s: of the feeder.
        feeder_late_ms: the longest that the feeder sent something after its time.
        lateness: from sending to reading, of the logs that are followed, where that was asked.
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
        """Microseconds of the workers' CPU a delta."""
        return self.worker_s / self.deltas * 1e6

    @property
    def server_us(self) -> float:
        """Microseconds of Valkey's CPU a delta."""
        return self.server_s / self.deltas * 1e6

    @property
    def deltas_per_s(self) -> float:
        """How many came in a second."""
        return self.deltas / self.seconds


class Plant:
    """A context manager: everything runs inside, and nothing is left behind.

    Args:
        way: OURS (with our own transport), HTTPX (with that of the SDK), NAIVE or FLOOR.
        streams: answers that are to run at once, on all workers together.
        workers: processes.
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
            self.workers.hear(len(self._shares), READY_WITHIN_S, "workers ready")
            self._stack = self._stack.pop_all()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._stack.close()

    def open(self, feed: Plan, prefix: str = "bench-", count: int | None = None) -> None:
        """Asks for answers, for all unless told how many; returns when the feeder has each and holds it back."""
        count = self._streams if count is None else count
        self._feeder.say("hold")
        if self._way == FLOOR:
            self._ask_the_floor(feed, prefix, count)
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
        """Lets the answers come."""
        self._before_go = self.broker.calls_of("xadd")  # logs have been begun
        self._feeder.say("go")

    def follow(self, prefix: str = "bench-") -> None:
        """From now on windows say how late deltas come."""
        followed = range(0, self._streams, max(1, self._streams // FOLLOWED))
        logs = [self.log(f"{prefix}{number}") for number in followed]
        arguments = ["-m", "bench.log_reader", str(self.broker.valkey.port), *logs]
        self._reader = self._helpers.start("the reader", arguments, clean_environment({}))
        self._heard(self._helpers)

    def log(self, request_id: str) -> str:
        """The key of an answer's deltas."""
        return naive.log_key(request_id) if self._way == NAIVE else keys.log_key(request_id)

    def entries(self, request_id: str) -> list[bytes]:
        """What stands in an answer's log."""
        return self.broker.entries(self.log(request_id))

    def warm_up(self, seconds: float) -> None:
        """Lets so many seconds pass after the first delta.

        Raises:
            BenchError: none comes.
        """
        deadline = monotonic() + READY_WITHIN_S
        while self.broker.calls_of("xadd") <= self._before_go:
            if monotonic() > deadline:
                raise BenchError(f"{self._way}: no delta came into the logs")
            sleep(0.05)
        sleep(seconds)

    def window(self, seconds: float) -> Window:
        """What is done in so many seconds from now on.

        Raises:
            BenchError: nothing was written, or a program has ended.
        """
        lateness = None
        before = self._counts()
        if self._reader is None:
            sleep(seconds)
        else:
            self._reader.say(str(seconds))
            lateness = msgspec.json.decode(self._heard(self._helpers), type=Lateness)
        after = self._counts()
        spent = [late - early for late, early in zip(after, before, strict=True)]
        if after.deltas <= before.deltas:
            raise BenchError(f"{self._way}: no delta came into the logs")
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
        """Returns when so many answers are asked for and have not ended.

        Raises:
            BenchError: it does not come to it.
        """
        deadline = monotonic() + READY_WITHIN_S
        while (told := self._tell()).running != count:
            if monotonic() > deadline:
                raise BenchError(f"{self._way}: {told.running} answers run and not {count}")
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
            environment["TAILRACE_MAX_LOG_ENTRIES"] = "100000000"  # answers without end are not to end
        self.workers.start(self._way, arguments, clean_environment(environment))

    def _ask_the_floor(self, feed: Plan, prefix: str, count: int) -> None:
        for program, (first, share) in zip(self.workers.programs, _shares(count, len(self._shares)), strict=True):
            program.say(msgspec.json.encode(Work(prefix, first, share, feed)).decode())

    async def _submit(self, ids: list[str], request: dict[str, object]) -> None:
        async with Client(self.broker.url) as client:
            for request_id in ids:
                await client.submit({**request, "id": request_id})

    def _counts(self) -> Counts:
        server, feeder = self.broker.valkey.pid, self._feeder.popen.pid
        deltas = self.broker.calls_of("xadd")
        told = self._tell()
        return Counts(monotonic(), deltas, self.workers.cpu_s(), cpu_s(server), cpu_s(feeder), told.sent, told.late_ms)

    def _tell(self) -> Told:
        self._feeder.say("tell")
        return msgspec.json.decode(self._heard(self._helpers), type=Told)

    def _heard(self, fleet: Fleet) -> str:
        ((_, line),) = fleet.hear(1, LATEST_S, "answers")
        return line


def _shares(count: int, workers: int) -> list[tuple[int, int]]:
    """The first of each worker's answers, and how many it has."""
    bounds = [count * number // workers for number in range(workers + 1)]
    return [(first, end - first) for first, end in pairwise(bounds)]
