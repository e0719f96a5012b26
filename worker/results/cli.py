"""The commands `sink` and `results`: write outcomes, create their tables, delete old rows. Read arguments and print.

SQLAlchemy is imported only when a database is used.
"""

import argparse
import asyncio
import os
import re
import signal
import sys
from collections.abc import Awaitable, Callable, Sequence
from datetime import timedelta
from typing import TYPE_CHECKING

from tailrace.broker.keys import OUTBOX
from tailrace.command_line import CommandParser
from tailrace.schemas.errors import StoreError
from tailrace.schemas.redis_url import parse_redis_url
from tailrace.schemas.results import SCHEMA_VERSION
from tailrace.schemas.settings import Settings
from tailrace.telemetry.logging import log_to
from tailrace.worker.results.run_sink import make_database, make_sink

if TYPE_CHECKING:
    from tailrace.worker.results.database import Database

MIGRATE_TIMEOUT_S = 600.0
"""Building an index on a large table takes a long time."""

_UNITS = {"d": "days", "h": "hours", "m": "minutes"}


def results(argv: Sequence[str]) -> int:
    """`tailrace results`: maintains the database of outcomes, and lists outcomes that it could not accept."""
    parser = CommandParser(
        "results",
        description="Maintains the database of outcomes, TAILRACE_RESULTS_URL (docs/results.md).\n"
        "migrate: creates its tables or updates them. prune: deletes old outcomes.\n"
        "refused: lists the outcomes that it could not accept; Redis keeps them for a week.",
        example="tailrace results migrate\ntailrace results prune --older-than 90d --dry-run\n"
        "tailrace results refused --again",
    )
    parser.add_argument("action", choices=("migrate", "prune", "refused"))
    parser.add_argument(
        "--older-than", type=_age, metavar="AGE", help="prune: delete what ended so long ago, such as 90d, 36h or 30m"
    )
    parser.add_argument(
        "--again", action="store_true", help="refused: put the outcomes back into the outbox to be written again"
    )
    parser.add_argument("--dry-run", action="store_true", help="prune: only count the outcomes")
    given = parser.parse_args(argv)
    if (given.action == "prune") != (given.older_than is not None) or (given.again and given.action != "refused"):
        parser.error("use: migrate, prune --older-than AGE, or refused [--again]")
    match given.action:
        case "migrate":
            return asyncio.run(_with_database(_migrate))
        case "prune":
            return asyncio.run(_with_database(_prune(given.older_than, given.dry_run)))
        case _:
            return asyncio.run(_refused(again=given.again))


def sink(argv: Sequence[str]) -> int:
    """`tailrace sink`: writes outcomes until a signal stops it."""
    parser = CommandParser(
        "sink",
        description="Writes outcomes from Redis into the database TAILRACE_RESULTS_URL, as a worker with that setting "
        "does.\nUse it if workers must not reach the database. Several can run. SIGTERM stops it after its batch.",
        example="TAILRACE_RESULTS_URL=postgresql+asyncpg://user@host/database tailrace sink",
    )
    parser.add_argument(
        "--check", action="store_true", help="only check that a sink can work: the database, its tables and the outbox"
    )
    given = parser.parse_args(argv)
    from tailrace.worker.event_loop import run_on_uvloop

    settings = Settings.from_environment(os.environ)
    log_to(sys.stderr, settings.log_format, settings.log_level)
    run_on_uvloop(_check(settings) if given.check else _sink(settings))
    return 0


async def _check(settings: Settings) -> None:
    """The health check of a sink. Raises a TailraceError that names what is missing."""
    from tailrace.broker.clients import asking
    from tailrace.worker.wiring import redis_client

    database, queue = make_database(settings), redis_client(settings.queue_url)
    try:
        await database.check()
        async with asking(queue):
            is_open = bool(await queue.exists(OUTBOX))
    finally:
        await database.close()
        await queue.aclose(close_connection_pool=True)
    if not is_open:
        raise StoreError("Redis has no outbox: no sink has run yet")
    print(f"good: {database.place} accepts outcomes")


async def _sink(settings: Settings) -> None:
    from tailrace.worker.wiring import redis_client

    database = make_database(settings)
    queue, records = redis_client(settings.queue_url), redis_client(settings.log_url)
    try:
        running = await make_sink(settings, queue, records, database)
        for number in (signal.SIGTERM, signal.SIGINT):
            asyncio.get_running_loop().add_signal_handler(number, running.stop)
        place = parse_redis_url(settings.queue_url).place
        print(f"ready: pid {os.getpid()}, from {place} to {database.place}", flush=True)
        await running.run()
        print(f"stopped: {running.written:,} outcomes written", flush=True)
    finally:
        await database.close()
        for redis in (queue, records):
            await redis.aclose(close_connection_pool=True)


async def _with_database(work: "Callable[[Database], Awaitable[int]]") -> int:
    database = make_database(Settings.from_environment(os.environ))
    try:
        return await work(database)
    finally:
        await database.close()


async def _migrate(database: "Database") -> int:
    before, after = await database.migrate(within_s=MIGRATE_TIMEOUT_S)
    done = f"migrated from version {before} to {after}" if before != after else f"up to date, version {SCHEMA_VERSION}"
    print(f"{database.place}: {done}")
    return 0


async def _refused(*, again: bool) -> int:
    from tailrace.worker.results.outbox import OutcomeOutbox
    from tailrace.worker.wiring import redis_client

    redis = redis_client(Settings.from_environment(os.environ).queue_url)
    try:
        outbox = OutcomeOutbox(redis, redis, claim_s=0)
        refused = await outbox.refused()
        for request_id, why in refused.items():
            print(f"{request_id}  {why}")
        if again and refused:
            await outbox.put_back(list(refused))
            print(f"{len(refused):,} put back into the outbox", file=sys.stderr)
    finally:
        await redis.aclose(close_connection_pool=True)
    return 0


def _prune(older_than: timedelta, is_dry: bool) -> "Callable[[Database], Awaitable[int]]":
    async def prune(database: "Database") -> int:
        wanted = await database.count(older_than)
        if is_dry:
            print(f"{database.place}: {wanted:,} outcomes would be deleted")
            return 0
        deleted = 0
        while done := await database.prune(older_than):
            deleted += done
            print(f"deleted {deleted:,} of {max(wanted, deleted):,}", file=sys.stderr, flush=True)
        print(f"{database.place}: {deleted:,} outcomes deleted")
        return 0

    return prune


def _age(text: str) -> timedelta:
    found = re.fullmatch(r"([1-9][0-9]{0,5})([dhm])", text)
    if found is None:
        raise argparse.ArgumentTypeError(f"{text!r} is not an age; give for example 90d, 36h or 30m")
    return timedelta(**{_UNITS[found[2]]: int(found[1])})
