"""Creates the tables and updates older ones: numbered SQL files, each applied once, in order.

Several processes may migrate at once: the second waits for the first and then has nothing left to do.
"""

import re
from collections.abc import Iterator
from functools import cache
from importlib.resources import files

from sqlalchemy import delete, insert, inspect, select, text
from sqlalchemy.ext.asyncio import AsyncConnection

from tailrace.schemas.results import SCHEMA_VERSION
from tailrace.schemas.results_table import version

_LOCK = 7_245_722_352
"""The number of the advisory lock in PostgreSQL that a migration takes."""


async def version_of(connection: AsyncConnection) -> int:
    """The version of the existing tables; 0 if there are none."""
    if not await connection.run_sync(lambda plain: inspect(plain).has_table(version.name)):
        return 0
    return (await connection.execute(select(version.c.version))).scalar_one_or_none() or 0


async def migrate(connection: AsyncConnection) -> tuple[int, int]:
    """Applies the missing steps in the transaction of `connection`.

    Returns:
        The version before and after.
    """
    if connection.dialect.name == "postgresql":
        await connection.execute(text("SELECT pg_advisory_xact_lock(:lock)"), {"lock": _LOCK})
    before = await version_of(connection)
    if before == 0:
        await connection.run_sync(lambda plain: version.create(plain, checkfirst=True))
    for number in range(before + 1, SCHEMA_VERSION + 1):
        for statement in statements(number, connection.dialect.name):
            await connection.execute(text(statement))
    if before < SCHEMA_VERSION:
        await connection.execute(delete(version))
        await connection.execute(insert(version).values(version=SCHEMA_VERSION))
    return before, max(before, SCHEMA_VERSION)


def statements(number: int, dialect: str) -> Iterator[str]:
    """The SQL statements of one step."""
    source = re.sub(r"^--.*\n", "", _source(number, dialect), flags=re.MULTILINE)
    return (statement.strip() for statement in source.split(";\n") if statement.strip())


@cache
def _source(number: int, dialect: str) -> str:
    return (files("tailrace.worker.results") / "sql" / f"{number:04}.{dialect}.sql").read_text()
