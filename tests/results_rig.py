"""Databases of outcomes for tests, and a reader of them that shares no code with the writer."""

from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager

from sqlalchemy import select
from sqlalchemy.ext.asyncio import AsyncEngine, create_async_engine

from tailrace.schemas.results import Stored, stored_of
from tailrace.schemas.results_table import engine_options, results
from tailrace.worker.results.database import Database


@asynccontextmanager
async def migrated_database(url: str) -> AsyncGenerator[Database]:
    """A database with tables."""
    database = Database(url, timeout_s=10)
    await database.migrate()
    try:
        yield database
    finally:
        await database.close()


@asynccontextmanager
async def engine_of(url: str) -> AsyncGenerator[AsyncEngine]:
    """An engine to read the database with."""
    engine = create_async_engine(url, **engine_options(url, timeout_s=10, connections=1))
    try:
        yield engine
    finally:
        await engine.dispose()


async def stored_outcomes(engine: AsyncEngine) -> dict[str, Stored]:
    """All outcomes in the database, by request id."""
    async with engine.connect() as connection:
        rows = (await connection.execute(select(results))).mappings().all()
    return {row["request_id"]: stored_of(dict(row)) for row in rows}
