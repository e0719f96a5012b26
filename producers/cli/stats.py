"""The command `stats`: workers, queue, requests in progress and dead letters, once, as tables or as JSON."""

import argparse
import asyncio
import os
import sys
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

from tailrace.command_line import CommandParser

if TYPE_CHECKING:
    from tailrace.producers.queue.overview import Overview, Run, SeenWorker, WaitingLane

_WORKER_COLUMNS = ("WORKER", "RUNNING", "STARTS/S", "LAST RENEWAL", "LAST SEEN", "")
_LANE_COLUMNS = ("PRIORITY", "TENANT", "WAITING", "OLDEST")
_RUN_COLUMNS = ("REQUEST", "ATTEMPT", "STATE", "AGE", "ENTRIES/S", "TENANT", "")
_RIGHT_ALIGNED = frozenset(
    ("RUNNING", "STARTS/S", "LAST RENEWAL", "LAST SEEN", "WAITING", "OLDEST", "ATTEMPT", "AGE", "ENTRIES/S")
)


def stats(argv: Sequence[str]) -> int:
    """`tailrace stats`: workers, queue, requests in progress, dead letters."""
    parser = CommandParser(
        "stats",
        description="Print the workers, the queue by priority and tenant, the requests in progress, and the number of\n"
        "dead letters. The Redis user needs the rights of a worker.",
        example="tailrace stats\ntailrace stats --json | jq .waiting",
    )
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    parser.add_argument("--runs", type=_count, default=20, metavar="N", help="requests in progress to list (20)")
    given = parser.parse_args(argv)
    return asyncio.run(_print_overview(given.runs, as_json=given.json))


def _count(text: str) -> int:
    if not (text.isdecimal() and int(text) <= 10_000):
        raise argparse.ArgumentTypeError(f"{text!r} is not a number from 0 to 10000")
    return int(text)


async def _print_overview(runs_max: int, *, as_json: bool) -> int:
    import msgspec

    from tailrace.producers.cli.show import visible
    from tailrace.producers.client import Client
    from tailrace.schemas.settings import Settings

    async with Client.from_settings(Settings.from_environment(os.environ)) as client:
        overview = await client.overview(runs_max=runs_max)
    if as_json:
        sys.stdout.buffer.write(msgspec.json.encode(overview) + b"\n")
        sys.stdout.buffer.flush()
    else:
        for line in lines(overview):
            print(visible(line, sys.stdout.encoding))
    return 0


def lines(overview: "Overview") -> Iterator[str]:
    """An overview as text."""
    running = sum(worker.report.running for worker in overview.workers)
    slots = sum(worker.report.max_jobs for worker in overview.workers)
    yield (
        f"{_plural(len(overview.workers), 'worker')}, {running} of {_plural(slots, 'slot')} in use; "
        f"{_plural(overview.waiting, 'request')} waiting{_oldest(overview.waiting, overview.oldest_s)}, "
        f"{overview.begun} in progress, {overview.deferred} deferred; {_plural(overview.dead, 'dead letter')}"
    )
    if overview.outbox or overview.outbox_refused:
        yield (
            f"{_plural(overview.outbox, 'outcome')} waiting for the database"
            f"{_oldest(overview.outbox, overview.outbox_oldest_s)}, "
            f"{overview.outbox_refused} rejected by it (see `tailrace results refused`)"
        )
    if overview.workers:
        yield from _table(_WORKER_COLUMNS, map(_worker_cells, overview.workers))
    if overview.lanes:
        yield from _table(_LANE_COLUMNS, map(_lane_cells, overview.lanes))
    if overview.runs:
        yield from _table(_RUN_COLUMNS, map(_run_cells, overview.runs))


def _worker_cells(worker: "SeenWorker") -> tuple[str, ...]:
    report = worker.report
    return (
        f"{report.host}:{report.pid}",
        f"{report.running}/{report.max_jobs}",
        f"{report.starts_per_s:.1f}",
        f"{report.renewed_ago_s:.1f}s ago",
        f"{worker.silent_s:.1f}s ago",
        "silent" if worker.is_silent else "draining" if report.draining else "",
    )


def _lane_cells(lane: "WaitingLane") -> tuple[str, ...]:
    return (lane.priority, lane.tenant or "-", str(lane.waiting), f"{lane.oldest_s:.1f}s")


def _run_cells(run: "Run") -> tuple[str, ...]:
    return (
        run.id,
        str(run.attempt),
        run.state.replace("_", " "),
        f"{run.age_s:.1f}s",
        f"{run.entries_per_s:.1f}",
        run.tenant or "-",
        f"{run.why} until {run.until}" if run.why else "",
    )


def _table(columns: Sequence[str], rows: Iterator[tuple[str, ...]]) -> Iterator[str]:
    """An empty line, the header, and the rows, aligned."""
    cells = [tuple(columns), *rows]
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    yield ""
    for row in cells:
        aligned = (
            cell.rjust(width) if name in _RIGHT_ALIGNED else cell.ljust(width)
            for cell, width, name in zip(row, widths, columns, strict=True)
        )
        yield "  ".join(aligned).rstrip()


def _plural(count: int, noun: str) -> str:
    return f"{count} {noun}" if count == 1 else f"{count} {noun}s"


def _oldest(count: int, oldest_s: float) -> str:
    return f" (oldest {oldest_s:.0f} s)" if count else ""
