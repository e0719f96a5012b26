"""The tables of `tailrace top`: an overview as rows of plain text. Pure: no terminal, no Redis."""

from collections.abc import Sequence
from typing import NamedTuple

from tailrace.producers.cli.show import visible
from tailrace.producers.queue.dead_letters import DeadLetter
from tailrace.producers.queue.overview import Overview, Run, SeenWorker, WaitingLane

CELL_MAX = 120
"""The most characters of a cell. Ids, tenants and messages are untrusted and may be long."""


class Row(NamedTuple):
    """A row of a table; `key` identifies it in its table across refreshes."""

    key: str
    cells: tuple[str, ...]


WORKER_COLUMNS = ("worker", "running", "starts/s", "last renewal", "last seen", "note")
LANE_COLUMNS = ("priority", "tenant", "waiting", "oldest")
RUN_COLUMNS = ("request", "attempt", "state", "age", "deltas/s", "model", "tenant", "note")
DEAD_COLUMNS = ("died", "request", "error", "attempt", "crashes", "message")


class Rates:
    """The current rate of each request, between two refreshes. `Run.entries_per_s` is the attempt's average."""

    def __init__(self) -> None:
        self._at_ms = 0
        self._before: dict[str, tuple[int, int]] = {}
        self._rates: dict[str, float] = {}

    def update(self, overview: Overview) -> None:
        """Computes the rates from the next overview."""
        passed_s = (overview.at_ms - self._at_ms) / 1000
        for run in overview.runs:
            attempt, entries = self._before.get(run.id, (run.attempt, 0))
            if run.id in self._before and attempt == run.attempt and passed_s > 0:
                self._rates[run.id] = max(run.entries - entries, 0) / passed_s
            else:
                self._rates[run.id] = run.entries_per_s
        self._at_ms = overview.at_ms
        self._before = {run.id: (run.attempt, run.entries) for run in overview.runs}
        self._rates = {request_id: self._rates[request_id] for request_id in self._before}

    def entries_per_s(self, run: Run) -> float:
        """The rate of a request of the last overview."""
        return self._rates.get(run.id, run.entries_per_s)


def summary(overview: Overview, rates: Rates) -> str:
    """The line above the tables."""
    running = sum(worker.report.running for worker in overview.workers)
    slots = sum(worker.report.max_jobs for worker in overview.workers)
    silent = sum(worker.is_silent for worker in overview.workers)
    retrying = sum(run.state == "retrying" for run in overview.runs)
    written = sum(rates.entries_per_s(run) for run in overview.runs)
    partial = " (of those shown)" if len(overview.runs) < overview.begun else ""
    return (
        f"workers {len(overview.workers)}{f', {silent} silent' if silent else ''} · slots {running} of {slots} · "
        f"waiting {overview.waiting}, oldest {age(overview.oldest_s)} · deferred {overview.deferred} · "
        f"in progress {overview.begun} · retrying {retrying}{partial} · deltas/s {written:,.0f}{partial} · "
        f"dead letters {overview.dead}"
        f"{f' · outbox {overview.outbox}, oldest {age(overview.outbox_oldest_s)}' if overview.outbox else ''}"
        f"{f' · rejected by the database {overview.outbox_refused}' if overview.outbox_refused else ''}"
    )


def workers(seen: Sequence[SeenWorker]) -> list[Row]:
    """The rows of the table of workers."""
    return [_row(worker.name, *_worker_cells(worker)) for worker in seen]


def lanes(seen: Sequence[WaitingLane]) -> list[Row]:
    """The rows of the table of waiting requests, by priority and tenant."""
    return [
        _row(
            f"{lane.priority}:{lane.tenant or ''}",
            lane.priority,
            lane.tenant or "-",
            f"{lane.waiting:,}",
            age(lane.oldest_s),
        )
        for lane in seen
    ]


def runs(seen: Sequence[Run], rates: Rates) -> list[Row]:
    """The rows of the table of requests in progress."""
    return [_row(run.id, *_run_cells(run, rates.entries_per_s(run))) for run in seen]


def dead(seen: Sequence[DeadLetter]) -> list[Row]:
    """The rows of the table of dead letters."""
    return [
        _row(
            letter.id,
            letter.died_at[:19].replace("T", " "),
            letter.id,
            letter.error.code,
            str(letter.attempt),
            str(letter.crashes),
            letter.error.message,
        )
        for letter in seen
    ]


def age(seconds: float) -> str:
    """A duration in at most two units: `9.4s`, `3m07s`, `2h05m`, `4d03h`."""
    if seconds < 60:
        return f"{seconds:.1f}s"
    minutes, hours, days = int(seconds // 60), int(seconds // 3_600), int(seconds // 86_400)
    if hours == 0:
        return f"{minutes}m{int(seconds % 60):02}s"
    return f"{hours}h{minutes % 60:02}m" if days == 0 else f"{days}d{hours % 24:02}h"


def _worker_cells(worker: SeenWorker) -> tuple[str, ...]:
    report = worker.report
    return (
        f"{report.host}:{report.pid}",
        f"{report.running}/{report.max_jobs}",
        f"{report.starts_per_s:.1f}",
        f"{age(report.renewed_ago_s)} ago",
        f"{age(worker.silent_s)} ago",
        "silent" if worker.is_silent else "draining" if report.draining else "",
    )


def _run_cells(run: Run, per_s: float) -> tuple[str, ...]:
    pause = f"{run.why} until {run.until}" if run.why else ""
    counts = [f"{run.failures} failed" * bool(run.failures), f"{run.crashes} crashed" * bool(run.crashes)]
    return (
        run.id,
        str(run.attempt),
        run.state.replace("_", " "),
        age(run.age_s),
        f"{per_s:,.1f}",
        run.model,
        run.tenant or "-",
        ", ".join(part for part in (pause, *counts) if part),
    )


def _row(key: str, *cells: str) -> Row:
    return Row(key, tuple(visible(cell, None).replace("\n", " ").replace("\t", " ")[:CELL_MAX] for cell in cells))
