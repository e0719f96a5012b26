"""Writes the database of outcomes. Owns the engine, the upsert and the translation of the database's errors.

No text of a request gets into an error or a log line: parameters are hidden, and an error about a row is reported by
its type alone, because its message may quote the row. Knows nothing of Redis.
"""

import asyncio
import sqlite3
from collections.abc import AsyncGenerator, Mapping, Sequence
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, NamedTuple

from sqlalchemy import and_, delete, event, false, func, or_, select
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.exc import DBAPIError, SQLAlchemyError, StatementError
from sqlalchemy.ext.asyncio import AsyncConnection, create_async_engine

from tailrace.schemas.errors import ResultsUnavailable, SettingsError
from tailrace.schemas.results import SCHEMA_VERSION, SQL_MISSING, results_place
from tailrace.schemas.results_table import engine_options, results
from tailrace.worker.results import migrations

Row = Mapping[str, Any]

PRUNE_BATCH = 1_000
CLOSE_S = 2.0
_ROW_ERROR_CLASSES = ("22", "23", "54")
"""PostgreSQL's classes of errors about values: data, integrity, program limits (PostgreSQL's appendix A)."""


class Refused(NamedTuple):
    """A row that the database cannot accept. `why` is the type of the error, without any value."""

    request_id: str
    why: str


class _RowError(Exception):
    """The database works, but cannot accept a row."""


class Database:
    """The tables of one database.

    Args:
        url: `postgresql+asyncpg://...` or `sqlite+aiosqlite:///...`.
        timeout_s: how long a batch may take, including the time to connect.

    Raises:
        SettingsError: the driver for the URL is missing, or the URL cannot be used.
    """

    def __init__(self, url: str, *, timeout_s: float) -> None:
        self.place = results_place(url)
        self._timeout_s = timeout_s
        self._is_checked = False  # whether the tables were checked and nothing has failed since
        try:
            self._engine = create_async_engine(url, **engine_options(url, timeout_s=timeout_s, connections=1))
        except ImportError as error:
            raise SettingsError(SQL_MISSING) from error
        except (SQLAlchemyError, ValueError, TypeError):
            raise SettingsError(
                "TAILRACE_RESULTS_URL: cannot be used as it is"
            ) from None  # the cause may quote the URL
        if self._engine.dialect.name == "sqlite":
            event.listen(self._engine.sync_engine, "connect", _keep_a_write_ahead_log)
            event.listen(self._engine.sync_engine, "begin", _begin_at_once)
            insert: Any = sqlite.insert(results)
        else:
            insert = postgresql.insert(results)
        self._upsert = _newest_wins(insert)
        self._empty_upsert = _newest_wins(insert.from_select(list(results.c), select(results).where(false())))

    async def close(self) -> None:
        """Closes every connection. Does not wait for one that hangs."""
        closing = asyncio.wait_for(self._engine.dispose(), CLOSE_S)
        await asyncio.gather(closing, return_exceptions=True)

    async def check(self) -> None:
        """Checks that the database can be written to. Creates nothing, not even the file of an SQLite database.

        Raises:
            ResultsUnavailable: it cannot be reached, lacks the tables of this version, or the user may not write.
        """
        if self._is_file_missing():
            raise ResultsUnavailable(self._mismatch(0))
        async with self._transaction() as connection:
            await self._check(connection)
            await connection.execute(self._empty_upsert)

    async def migrate(self, within_s: float | None = None) -> tuple[int, int]:
        """Creates the tables or updates them.

        Args:
            within_s: the time limit, instead of that of a batch.

        Returns:
            The version before and after.

        Raises:
            ResultsUnavailable: the database cannot be reached, refuses, or has tables of a newer Tailrace.
        """
        async with self._transaction(within_s) as connection:
            before, after = await migrations.migrate(connection)
        if after > SCHEMA_VERSION:
            raise ResultsUnavailable(self._mismatch(after))
        return before, after

    async def write(self, rows: Sequence[Row]) -> list[Refused]:
        """Writes rows in one transaction. An existing row is replaced unless it is newer.

        Returns:
            The rows that can never be written. All others are committed.

        Raises:
            ResultsUnavailable: possibly no row was written.
        """
        try:
            await self._write(rows)
        except _RowError as error:
            if len(rows) == 1:
                await self.check()
                return [Refused(rows[0]["request_id"], str(error))]
            return [refused for row in rows for refused in await self.write([row])]
        return []

    async def prune(self, older_than: timedelta, *, at_most: int = PRUNE_BATCH) -> int:
        """Deletes up to `at_most` outcomes of that age, the oldest first. Returns how many."""
        oldest = (
            select(results.c.request_id)
            .where(results.c.finished_at < _before(older_than))
            .order_by(results.c.finished_at)
            .limit(at_most)
        )
        async with self._transaction() as connection:
            await self._check(connection)
            done = await connection.execute(delete(results).where(results.c.request_id.in_(oldest)))
        return done.rowcount

    async def count(self, older_than: timedelta | None = None) -> int:
        """The number of outcomes, or of those of that age."""
        wanted = select(func.count()).select_from(results)
        if older_than is not None:
            wanted = wanted.where(results.c.finished_at < _before(older_than))
        async with self._transaction() as connection:
            await self._check(connection)
            return (await connection.execute(wanted)).scalar_one()

    def _is_file_missing(self) -> bool:
        file = self._engine.url.database
        return self._engine.dialect.name == "sqlite" and file is not None and not Path(file).exists()

    async def _write(self, rows: Sequence[Row]) -> None:
        was_checked, self._is_checked = self._is_checked, False
        async with self._transaction() as connection:
            if not was_checked:
                await self._check(connection)
            await connection.execute(self._upsert, [dict(row) for row in rows])
        self._is_checked = True

    async def _check(self, connection: AsyncConnection) -> None:
        found = await migrations.version_of(connection)
        if found != SCHEMA_VERSION:
            raise ResultsUnavailable(self._mismatch(found))

    def _mismatch(self, found: int) -> str:
        if found > SCHEMA_VERSION:
            return f"{self.place} has tables of a newer Tailrace (version {found}; here {SCHEMA_VERSION}): upgrade here"
        what = f"tables of version {found}, not {SCHEMA_VERSION}" if found else "no tables of Tailrace"
        return f"{self.place} has {what}: run `tailrace results migrate`"

    @asynccontextmanager
    async def _transaction(self, within_s: float | None = None) -> AsyncGenerator[AsyncConnection]:
        is_open = False
        limit_s = within_s or self._timeout_s
        try:
            async with asyncio.timeout(limit_s), self._engine.begin() as connection:
                is_open = True
                yield connection
        except TimeoutError as error:
            raise ResultsUnavailable(f"{self.place} did not answer within {limit_s:g} s") from error
        except (SQLAlchemyError, OSError, ValueError, TypeError, OverflowError) as error:
            raise self._translated(error, is_open) from None  # the cause may quote a row or the URL

    def _translated(self, error: Exception, is_open: bool) -> Exception:
        kind, state = _kind_of(error)
        if is_open and _is_about_values(error, state):
            return _RowError(kind)
        said = str(getattr(error, "orig", None) or error).splitlines()
        return ResultsUnavailable(f"{self.place}: {said[0] if said else kind}")


def _newest_wins(insert: Any) -> Any:
    """An insert that replaces an existing row, unless the row is of a later run or a later attempt of the same run."""
    new, old = insert.excluded, results.c
    newer = or_(
        new.submitted_at > old.submitted_at,
        and_(new.submitted_at == old.submitted_at, new.attempt >= old.attempt),
    )
    others = {column.name: new[column.name] for column in results.c if not column.primary_key}
    return insert.on_conflict_do_update(index_elements=["request_id"], set_=others, where=newer)


def _before(older_than: timedelta) -> datetime:
    return datetime.now(UTC) - older_than


def _kind_of(error: Exception) -> tuple[str, str]:
    """The type of the driver's error, and PostgreSQL's code for it if there is one."""
    cause = getattr(error, "orig", None) or error
    state = str(getattr(cause, "sqlstate", None) or "")
    kind = type(cause.__cause__ or cause).__name__
    return (f"{kind} ({state})" if state else kind), state


def _is_about_values(error: Exception, state: str) -> bool:
    if state:
        return state[:2] in _ROW_ERROR_CLASSES
    if isinstance(error, DBAPIError):
        cause: Any = error.orig
        return isinstance(cause.__cause__, ValueError) or type(cause).__name__ in ("DataError", "IntegrityError")
    return isinstance(error, StatementError | ValueError | TypeError | OverflowError)


def _keep_a_write_ahead_log(connection: Any, record: object) -> None:
    """With a write-ahead log readers do not wait for a writer. Commits are on disk (synchronous stays FULL)."""
    cursor = connection.cursor()
    try:
        cursor.execute("PRAGMA journal_mode=WAL")
    except sqlite3.OperationalError as error:
        if "locked" not in str(error):
            raise
        # Another process is switching the file, which SQLite does not wait for. The switch is permanent.
    finally:
        cursor.close()


def _begin_at_once(connection: Any) -> None:
    """Takes the write lock at BEGIN: a transaction that reads first may be refused the lock later."""
    connection.exec_driver_sql("BEGIN IMMEDIATE")
