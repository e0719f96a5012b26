"""What stands in the tables of `tailrace top`: an overview as rows of plain text. Pure: no terminal, no Redis."""

from collections.abc import Sequence
from typing import NamedTuple

from tailrace.producers.cli.show import visible
from tailrace.producers.queue.dead_letters import DeadLetter
from tailrace.producers.queue.overview import Overview, Run, SeenWorker, WaitingLane

CELL_MAX = 120
"""Characters of a cell: ids, tenants and reasons come from others, and may be long."""


class Row(NamedTuple):
    """A row of a table; `key` tells it from all others of its table, from one look to the next."""

    key: str
    cells: tuple[str, ...]


WORKER_COLUMNS = ("worker", "running", "starts/s", "renewed", "said so", "")
LANE_COLUMNS = ("class", "tenant", "waiting", "oldest")
RUN_COLUMNS = ("request", "attempt", "state", "age", "deltas/s", "model", "tenant", "why")
DEAD_COLUMNS = ("died", "request", "error", "attempt", "crashes", "message")


class Rates:
    """How fast requests write just now: between two looks, where `Run.entries_per_s` is since the attempt began."""

    def __init__(self) -> None:
        self._at_ms = 0
        self._before: dict[str, tuple[int, int]] = {}
        self._now: dict[str, float] = {}

    def look(self, seen: Overview) -> None:
        """Takes the next look in."""
        passed_s = (seen.at_ms - self._at_ms) / 1000
        for run in seen.runs:
            attempt, entries = self._before.get(run.id, (run.attempt, 0))
            if run.id in self._before and attempt == run.attempt and passed_s > 0:
                self._now[run.id] = max(run.entries - entries, 0) / passed_s
            else:
                self._now[run.id] = run.entries_per_s
        self._at_ms = seen.at_ms
        self._before = {run.id: (run.attempt, run.entries) for run in seen.runs}
        self._now = {request_id: self._now[request_id] for request_id in self._before}

    def of(self, run: Run) -> float:
        """Entries a second of one that was in the last look."""
        return self._now.get(run.id, run.entries_per_s)


def summary(seen: Overview, rates: Rates) -> str:
    """The line above the tables."""
    running = sum(worker.report.running for worker in seen.workers)
    slots = sum(worker.report.max_jobs for worker in seen.workers)
    silent = sum(worker.is_silent for worker in seen.workers)
    retrying = sum(run.state == "retrying" for run in seen.runs)
    written = sum(rates.of(run) for run in seen.runs)
    more = " (of those shown)" if len(seen.runs) < seen.begun else ""
    return (
        f"workers {len(seen.workers)}{f', {silent} silent' if silent else ''} · running {running} of {slots} · "
        f"waiting {seen.waiting}, oldest {age(seen.oldest_s)} · due later {seen.deferred} · "
        f"begun {seen.begun} · retrying {retrying}{more} · deltas/s {written:,.0f}{more} · dead {seen.dead}"
        f"{f' · outbox {seen.outbox}, oldest {age(seen.outbox_oldest_s)}' if seen.outbox else ''}"
        f"{f' · refused by the database {seen.outbox_refused}' if seen.outbox_refused else ''}"
    )


def workers(seen: Sequence[SeenWorker]) -> list[Row]:
    """Who works: place, running of slots, starts a second, last renewal, last report."""
    return [_row(worker.name, *_worker_cells(worker)) for worker in seen]


def lanes(seen: Sequence[WaitingLane]) -> list[Row]:
    """What waits, by class and tenant."""
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
    """What has begun."""
    return [_row(run.id, *_run_cells(run, rates.of(run))) for run in seen]


def dead(seen: Sequence[DeadLetter]) -> list[Row]:
    """What could not be brought to a good end."""
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
    """A span of time in two units at most: `9.4s`, `3m07s`, `2h05m`, `4d03h`."""
    if seconds < 60:
        return f"{seconds:.1f}s"
    minutes, hours, days = int(seconds // 60), int(seconds // 3_600), int(seconds // 86_400)
    if hours == 0:
        return f"{minutes}m{int(seconds % 60):02}s"
    return f"{hours}h{minutes % 60:02}m" if days == 0 else f"{days}d{hours % 24:02}h"


def _worker_cells(worker: SeenWorker) -> tuple[str, ...]:
    report = worker.report
    note = "silent" if worker.is_silent else "drains" if report.draining else ""
    return (
        f"{report.host}:{report.pid}",
        f"{report.running}/{report.max_jobs}",
        f"{report.starts_per_s:.1f}",
        age(report.renewed_ago_s),
        age(worker.silent_s),
        note,
    )


def _run_cells(run: Run, per_s: float) -> tuple[str, ...]:
    why = f"{run.why} until {run.until}" if run.why else ""
    counts = [f"{run.failures} failed" * bool(run.failures), f"{run.crashes} crashed" * bool(run.crashes)]
    return (
        run.id,
        str(run.attempt),
        run.state.replace("_", " "),
        age(run.age_s),
        f"{per_s:,.1f}",
        run.model,
        run.tenant or "-",
        ", ".join(word for word in (why, *counts) if word),
    )


def _row(key: str, *cells: str) -> Row:
    return Row(key, tuple(visible(cell, None).replace("\n", " ").replace("\t", " ")[:CELL_MAX] for cell in cells))
