"""The command `stats`: how things stand, once, as a table or as JSON. Reads arguments and prints."""

import argparse
import asyncio
import os
import sys
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

from tailrace.command_line import CommandParser

if TYPE_CHECKING:
    from tailrace.producers.queue.overview import Overview, Run, SeenWorker


def stats(argv: Sequence[str]) -> int:
    """`tailrace stats`: workers, queue, running requests, dead letters."""
    parser = CommandParser(
        "stats",
        description="Says how things stand: workers, what waits by class and tenant, what runs, what died.\n"
        "Its Redis user has to see the queue: that of a worker does.",
        example="tailrace stats\ntailrace stats --json | jq .waiting",
    )
    parser.add_argument("--json", action="store_true", help="one JSON object")
    parser.add_argument("--runs", type=_count, default=20, metavar="N", help="requests that have begun to list (20)")
    given = parser.parse_args(argv)
    return asyncio.run(_ask(given.runs, as_json=given.json))


def _count(text: str) -> int:
    if not (text.isdecimal() and int(text) <= 10_000):
        raise argparse.ArgumentTypeError(f"{text!r} is not a number from 0 to 10000")
    return int(text)


async def _ask(runs_max: int, *, as_json: bool) -> int:
    import msgspec

    from tailrace.producers.cli.show import visible
    from tailrace.producers.client import Client
    from tailrace.schemas.settings import Settings

    async with await Client.from_settings(Settings.from_environment(os.environ)) as client:
        seen = await client.overview(runs_max=runs_max)
    if as_json:
        sys.stdout.buffer.write(msgspec.json.encode(seen) + b"\n")
        sys.stdout.buffer.flush()
    else:
        for line in lines(seen):
            print(visible(line, sys.stdout.encoding))
    return 0


def lines(seen: "Overview") -> Iterator[str]:
    """An overview for people."""
    running = sum(worker.report.running for worker in seen.workers)
    slots = sum(worker.report.max_jobs for worker in seen.workers)
    yield (
        f"{len(seen.workers)} workers run {running} of {slots}; "
        f"{seen.waiting} wait, the oldest for {seen.oldest_s:.0f} s; {seen.deferred} are due later; "
        f"{seen.begun} have begun; {seen.dead} dead letters"
    )
    if seen.outbox or seen.outbox_refused:
        yield (
            f"{seen.outbox} outcomes wait for the database, the oldest for {seen.outbox_oldest_s:.0f} s; "
            f"{seen.outbox_refused} refused by it (tailrace results refused)"
        )
    if seen.workers:
        yield ""
        yield "WORKER                          RUNNING  STARTS/S  RENEWED  SAID SO"
        yield from map(_worker, seen.workers)
    if seen.lanes:
        yield ""
        yield "CLASS   TENANT                  WAITING   OLDEST"
        for lane in seen.lanes:
            yield f"{lane.priority:<7} {lane.tenant or '-':<20} {lane.waiting:>10} {lane.oldest_s:>7.1f}s"
    if seen.runs:
        yield ""
        yield "REQUEST                           ATTEMPT  STATE        AGE      ENTRIES/S  TENANT"
        yield from map(_run, seen.runs)


def _worker(worker: "SeenWorker") -> str:
    report = worker.report
    place = f"{report.host}:{report.pid}"
    note = "silent" if worker.is_silent else "drains" if report.draining else ""
    running = f"{report.running:>4}/{report.max_jobs:<4}"
    ages = f"{report.renewed_ago_s:>7.1f}s {worker.silent_s:>7.1f}s"
    return f"{place:<30} {running} {report.starts_per_s:>7.1f} {ages}  {note}".rstrip()


def _run(run: "Run") -> str:
    why = f"{run.why} until {run.until}" if run.why else ""
    return (
        f"{run.id:<32} {run.attempt:>8}  {run.state:<11} {run.age_s:>6.1f}s {run.entries_per_s:>9.1f}  "
        f"{run.tenant or '-'}  {why}"
    ).rstrip()
