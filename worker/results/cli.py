"""The command `results`: makes the tables of the database of outcomes, and takes old rows out. Reads arguments, prints.

SQLAlchemy is imported only once there is something to do with it.
"""

import argparse
import asyncio
import os
import re
import sys
from collections.abc import Awaitable, Callable, Sequence
from datetime import timedelta
from typing import TYPE_CHECKING

from schemas.command_line import CommandParser
from schemas.errors import SettingsError
from schemas.results import SCHEMA_VERSION, SQL_MISSING
from schemas.settings import Settings

if TYPE_CHECKING:
    from worker.results.database import Database

MIGRATE_TIMEOUT_S = 600.0
"""An index on a large table takes its time."""

_UNITS = {"d": "days", "h": "hours", "m": "minutes"}


def results(argv: Sequence[str]) -> int:
    """`tailrace results`: looks after the database of outcomes."""
    parser = CommandParser(
        "results",
        description="Looks after the database of outcomes, TAILRACE_RESULTS_URL (docs/results.md).\n"
        "migrate: makes its tables, or brings them up to date. prune: deletes what ended long ago.",
        example="tailrace results migrate\ntailrace results prune --older-than 90d --dry-run",
    )
    parser.add_argument("verb", choices=("migrate", "prune"))
    parser.add_argument("--older-than", type=_age, metavar="AGE", help="of prune: such as 90d, 36h or 30m")
    parser.add_argument("--dry-run", action="store_true", help="of prune: only count")
    given = parser.parse_args(argv)
    if (given.verb == "prune") != (given.older_than is not None):
        parser.error("use: migrate, or prune --older-than AGE")
    return asyncio.run(_with_database(_migrate if given.verb == "migrate" else _prune(given.older_than, given.dry_run)))


def database_of(settings: Settings) -> "Database":
    """The database of the settings.

    Raises:
        SettingsError: none is set, or it cannot be used, or the extra for it is not installed.
    """
    url = settings.results_url.get_secret_value()
    if not url:
        raise SettingsError(
            "TAILRACE_RESULTS_URL: is not set; give for example postgresql+asyncpg://user@host/database"
        )
    try:
        from worker.results.database import Database
    except ImportError as error:
        raise SettingsError(SQL_MISSING) from error
    return Database(url, timeout_s=settings.results_timeout_s)


async def _with_database(work: "Callable[[Database], Awaitable[int]]") -> int:
    database = database_of(Settings.from_environment(os.environ))
    try:
        return await work(database)
    finally:
        await database.close()


async def _migrate(database: "Database") -> int:
    before, after = await database.migrate(within_s=MIGRATE_TIMEOUT_S)
    done = f"brought from version {before} to {after}" if before != after else f"up to date, version {SCHEMA_VERSION}"
    print(f"{database.place}: {done}")
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
