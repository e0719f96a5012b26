"""`bench queue`: start latency of a job, start rate of many, takeover after a crash, and the cost of an idle worker.

Stock arq and our `LeasedWorker` run the same job function on the same Valkey, one after the other in each round, so
that they do not share the cores. Each side has its default settings (arq: poll 0.5 s, time limit of a job 300 s; ours:
lease 5 s, poll 1 s), except that it may run all jobs of a case at once.
"""

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from random import Random
from time import monotonic, sleep
from typing import NamedTuple

from bench import queue_path
from bench.broker import Broker
from bench.figures import Report
from bench.programs import Fleet, OutputLine, Program, cpu_s
from bench.statistics import flatness, median, percentile
from tailrace.demo.parts import clean_environment

RUNNING = 500
QUEUED = 1_000
FLEETS = (1, 2, 4)
HELD_FOR_TAKEOVER = 10
LEASE_S = 5.0
HOLD_S = 3_600.0
START_WITHIN_S = 30.0

PEER, OURS = "stock", "leased"
NAMES = {PEER: "arq 0.28", OURS: "LeasedWorker"}
_PAUSES_S = 0.3


class Effort(NamedTuple):
    """How much is measured: `--quick` or not."""

    rounds: int
    samples: int
    path_samples: int
    window_s: float
    peer_takeover_s: float


FULL = Effort(rounds=3, samples=12, path_samples=15, window_s=3.4, peer_takeover_s=20.0)
QUICK = Effort(rounds=1, samples=4, path_samples=3, window_s=1.0, peer_takeover_s=2.0)


class Start(NamedTuple):
    """The start of a job: the time, by the machine's monotonic clock, and the program."""

    job_id: str
    at_s: float
    program: Program


class Cost(NamedTuple):
    """What a fleet costs while it is idle: commands a second, and CPU in percent of one core."""

    sent_per_s: float
    with_scripts_per_s: float
    cpu_percent: float
    server_cpu_percent: float


@dataclass
class Side:
    """The measurements of one side over all rounds."""

    start_ms: dict[str, list[float]] = field(default_factory=dict[str, list[float]])
    cost: dict[str, list[Cost]] = field(default_factory=dict[str, list[Cost]])
    starts_per_s: dict[int, list[float]] = field(default_factory=dict[int, list[float]])
    takeover_s: list[float] = field(default_factory=list[float])
    ttl_s: list[float] = field(default_factory=list[float])
    gave_up: bool = False


class Bench:
    """One run of the benchmark."""

    def __init__(self, report: Report, broker: Broker, effort: Effort) -> None:
        self._report, self._broker, self._effort = report, broker, effort
        self._dice = Random(1)  # noqa: S311 -- pauses, no secrets
        self._ids = _ids()

    def waiting(self, name: str, side: Side) -> None:
        """Measures start latency and cost of an idle worker, then of one with running jobs."""
        with self._fleet(name, 1, RUNNING + 100) as fleet:
            self._wait_and_start(f"{name}, idle", name, fleet, "idle", side)
            self._report.progress(f"{name}: starting {RUNNING} long jobs")
            self._submit_many(name, RUNNING)
            fleet.wait_for_lines(RUNNING, START_WITHIN_S, "jobs started")
            self._wait_and_start(f"{name}, {RUNNING} running", name, fleet, f"{RUNNING} running", side)

    def _wait_and_start(self, label: str, name: str, fleet: Fleet, case: str, side: Side) -> None:
        self._report.progress(f"{label}: start latency")
        side.start_ms.setdefault(case, []).extend(self._start_ms(name, fleet) for _ in range(self._effort.samples))
        self._report.progress(f"{label}: commands and CPU")
        side.cost.setdefault(case, []).append(self._cost(fleet))

    def _start_ms(self, name: str, fleet: Fleet) -> float:
        sleep(self._dice.uniform(0, _PAUSES_S))  # so that samples are not in step with a poll
        began = self._broker.submit(next(self._ids), 0.0, wake=name == OURS)
        (start,) = _starts(fleet.wait_for_lines(1, START_WITHIN_S, "jobs started"))
        return (start.at_s - began) * 1000

    def _cost(self, fleet: Fleet) -> Cost:
        window_s, server = self._effort.window_s, self._broker.valkey.pid
        began, used_s, server_used_s = monotonic(), fleet.cpu_s(), cpu_s(server)
        sleep(window_s)  # CPU is measured first, because MONITOR costs the server CPU
        took_s = monotonic() - began
        percent = (fleet.cpu_s() - used_s) / took_s * 100
        server_percent = (cpu_s(server) - server_used_s) / took_s * 100
        commands = self._broker.listen(window_s)
        return Cost(commands.sent / window_s, commands.with_scripts / window_s, percent, server_percent)

    def starting(self, name: str, side: Side, workers: int) -> None:
        """Measures how fast many queued jobs start; they keep running."""
        self._report.progress(f"{name}: {QUEUED} queued jobs, {workers} workers")
        with self._fleet(name, workers, QUEUED) as fleet:
            self._submit_many(name, QUEUED)
            times = [start.at_s for start in _starts(fleet.wait_for_lines(QUEUED, START_WITHIN_S, "jobs started"))]
            side.starts_per_s.setdefault(workers, []).append((QUEUED - 1) / (max(times) - min(times)))

    def takeover(self, name: str, side: Side) -> None:
        """Measures the time from SIGKILL of a worker to the start of its jobs in another one, up to a limit."""
        bound_s = self._effort.peer_takeover_s if name == PEER else 2 * LEASE_S
        self._report.progress(f"{name}: takeover after SIGKILL (waiting {bound_s:g} s at most)")
        with self._fleet(name, 2, HELD_FOR_TAKEOVER) as fleet:
            ids = self._submit_many(name, HELD_FOR_TAKEOVER)
            starts = _starts(fleet.wait_for_lines(len(ids), START_WITHIN_S, "jobs started"))
            ((victim, count),) = Counter(start.program for start in starts).most_common(1)
            sleep(self._dice.uniform(0, LEASE_S / 2))  # so that crashes are not in step with renewals
            orphan = next(start.job_id for start in starts if start.program is victim)
            killed_at = monotonic()
            fleet.kill(victim)
            side.ttl_s.append(self._broker.lease_ttl_s(orphan))
            again = _starts(fleet.read_within(count, bound_s))
            side.takeover_s.append(max((start.at_s - killed_at for start in again), default=bound_s))
            side.gave_up |= len(again) < count

    def _submit_many(self, name: str, count: int) -> list[str]:
        ids = [next(self._ids) for _ in range(count)]
        self._broker.submit_at_once(dict.fromkeys(ids, HOLD_S), wake=name == OURS)
        return ids

    def _fleet(self, name: str, workers: int, max_jobs: int) -> Fleet:
        """Starts workers of one side on an empty Valkey and waits until they are ready."""
        self._broker.clear()
        fleet = Fleet()
        try:
            for _ in range(workers):
                arguments = ["-m", "bench.queue_worker", name, self._broker.url, str(max_jobs)]
                fleet.start(f"the {name} worker", arguments, clean_environment({}))
            fleet.wait_for_lines(workers, START_WITHIN_S, "workers ready")
        except BaseException:  # the caller does not have it yet
            fleet.close()
            raise
        return fleet


def run(report: Report, *, quick: bool) -> None:
    """Measures round by round and prints the results, and then those of the whole path."""
    effort = QUICK if quick else FULL
    sides = {PEER: Side(), OURS: Side()}
    with Broker() as broker:
        bench = Bench(report, broker, effort)
        for number in range(effort.rounds):
            report.progress(f"round {number + 1} of {effort.rounds}")
            for name, side in sides.items():
                bench.waiting(name, side)
            for workers in FLEETS:
                for name, side in sides.items():
                    bench.starting(name, side, workers)
            bench.takeover(OURS, sides[OURS])
        bench.takeover(PEER, sides[PEER])  # once: it only shows that there is none within the limit
        _report(report, sides[OURS], sides[PEER])
        queue_path.run(report, broker, effort.path_samples)


def _report(report: Report, ours: Side, peer: Side) -> None:
    for case, values in ours.start_ms.items():
        beside, limit = peer.start_ms[case], 10.0 if case != "idle" else None
        what = f"{NAMES[OURS]}, submit to job function"
        report.figure(case, what, median(values), "ms", beside={NAMES[PEER]: median(beside)}, at_most=limit)
        report.figure(case, f"{what}, 90 %", percentile(values, 90), "ms", beside={NAMES[PEER]: percentile(beside, 90)})
    for workers in FLEETS:
        report.figure(
            f"{QUEUED} queued, {workers} workers",
            f"{NAMES[OURS]}, starts",
            median(ours.starts_per_s[workers]),
            "1/s",
            beside={NAMES[PEER]: median(peer.starts_per_s[workers])},
        )
    for side, name, limit in ((ours, NAMES[OURS], 1.0), (peer, NAMES[PEER], None)):
        slower = 1 / flatness({workers: median(values) for workers, values in side.starts_per_s.items()})
        case = f"{QUEUED} queued"
        report.figure(case, f"{name}, {FLEETS[-1]} workers slower than 1", slower, "times", at_most=limit)
    _report_takeover(report, ours, peer)
    _report_cost(report, ours, peer)


def _report_takeover(report: Report, ours: Side, peer: Side) -> None:
    what, limit = f"{NAMES[OURS]}, takeover", LEASE_S + 1
    ttl_s = median(peer.ttl_s)
    report.figure("SIGKILL", what, median(ours.takeover_s), "s", beside={f"{NAMES[PEER]}, its key's ttl": ttl_s},
                  at_most=limit, bounded=ours.gave_up)  # fmt: skip
    note = f"its in-progress key lives for {ttl_s:.0f} s more; no worker can take the job before"
    report.figure("SIGKILL", f"{NAMES[PEER]}, takeover", median(peer.takeover_s), "s", bounded=peer.gave_up, note=note)


def _report_cost(report: Report, ours: Side, peer: Side) -> None:
    for case, costs in ours.cost.items():
        mine, other = _middle(costs), _middle(peer.cost[case])
        limit = 6.0 if case == "idle" else None
        what = f"{NAMES[OURS]}, commands sent"
        report.figure(case, what, mine.sent_per_s, "1/s", beside={NAMES[PEER]: other.sent_per_s}, at_most=limit)
        what = f"{NAMES[OURS]}, commands with those of scripts"
        report.figure(case, what, mine.with_scripts_per_s, "1/s", beside={NAMES[PEER]: other.with_scripts_per_s})
        what = f"{NAMES[OURS]}, CPU of one core"
        report.figure(case, what, mine.cpu_percent, "%", beside={NAMES[PEER]: other.cpu_percent})
        what = f"{NAMES[OURS]}, Valkey's CPU of one core"
        report.figure(case, what, mine.server_cpu_percent, "%", beside={NAMES[PEER]: other.server_cpu_percent})


def _middle(costs: list[Cost]) -> Cost:
    return Cost(*(median(values) for values in zip(*costs, strict=True)))


def _starts(lines: list[OutputLine]) -> list[Start]:
    pairs = ((one.program, one.line.split(" ")) for one in lines)
    return [Start(job_id, int(at_ns) / 1e9, program) for program, (job_id, at_ns) in pairs]


def _ids() -> Iterator[str]:
    number = 0
    while True:
        number += 1
        yield f"bench-{number}"
