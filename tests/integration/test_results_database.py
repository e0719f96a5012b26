"""The database of outcomes, on PostgreSQL and SQLite: tables, upsert, invalid rows, pruning."""

import asyncio
import threading
import time
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from msgspec.structs import replace
from sqlalchemy import Connection, inspect, text
from sqlalchemy.ext.asyncio import AsyncEngine

from tailrace.schemas.deltas import ErrorInfo, Usage
from tailrace.schemas.errors import ResultsUnavailable, SettingsError
from tailrace.schemas.outcome import Outcome, ToolCall
from tailrace.schemas.results import NUL_NOTE, Stored, row_of, stored_of
from tailrace.schemas.results_table import results
from tailrace.worker.results.database import Database
from tests.results_rig import engine_of, migrated_database, stored_outcomes
from tests.until import until

DEADLINE_MS = 1_767_226_500_000

WHOLE = Outcome(
    status="failed",
    request_id="one",
    attempt=3,
    submitted_at="2026-01-01T00:00:00.001Z",
    started_at="2026-01-01T00:00:01.002Z",
    first_delta_at="2026-01-01T00:00:02.003Z",
    finished_at="2026-01-01T00:00:03.004Z",
    failures=2,
    crashes=1,
    drains=4,
    retry_of="zero",
    finish_reason="tool_calls",
    content='Hello \N{GRINNING FACE} "you"',
    refusal="no",
    reasoning="because",
    reasoning_source="reasoner_model",
    tool_calls=(
        ToolCall("call_1", "search", '{"q": "x", "q": "y"}', complete=False),
        ToolCall(None, "t", "", True, "custom"),
    ),
    usage=Usage(input_tokens=3, output_tokens=4, cached_tokens=1, reasoning_tokens=2),
    api="responses",
    model="gpt-x",
    upstream_id="resp_1",
    upstream_sequence=17,
    error=ErrorInfo("upstream_429", "slow down", "provider"),
    items=({"type": "reasoning", "encrypted_content": "abc", "n": [1, 2.5, None]},),
    notes=("it contradicted itself",),
    metadata={"user": "u1", "deep": {"er": [True]}},
)
STORED = Stored(outcome=WHOLE, tenant="acme", priority="high", deadline_ms=DEADLINE_MS)
LEAST = Stored(
    outcome=Outcome(
        status="cancelled",
        request_id="least",
        attempt=1,
        submitted_at="2026-01-01T00:00:00.000Z",
        finished_at="2026-01-01T00:00:00.000Z",
    ),
    tenant=None,
    priority="normal",
    deadline_ms=DEADLINE_MS,
)


@pytest.fixture
async def database(results_url: str) -> AsyncIterator[Database]:
    """A database with tables."""
    async with migrated_database(results_url) as opened:
        yield opened


@pytest.fixture
async def engine(results_url: str) -> AsyncIterator[AsyncEngine]:
    """An engine to read the database with."""
    async with engine_of(results_url) as opened:
        yield opened


async def test_an_outcome_is_read_as_it_was_written(database: Database, engine: AsyncEngine) -> None:
    # given an outcome with every field and one with few, expect both read back unchanged
    assert await database.write([row_of(STORED), row_of(LEAST)]) == []
    assert await stored_outcomes(engine) == {"one": STORED, "least": LEAST}


async def test_a_request_has_one_row_and_the_newest_outcome_wins(database: Database, engine: AsyncEngine) -> None:
    # given the same outcome twice, an older attempt, a later one, and a later run under the same id, expect the newest
    def of(**changes: object) -> Stored:
        return replace(STORED, outcome=replace(WHOLE, **changes))

    later_run = of(attempt=1, submitted_at="2026-02-01T00:00:00.000Z")
    for given, wanted in (
        ([STORED, STORED], STORED),
        ([of(attempt=2)], STORED),
        ([of(attempt=4)], of(attempt=4)),
        ([of(attempt=9), STORED], of(attempt=9)),
        ([of(attempt=9, content="mended")], of(attempt=9, content="mended")),
        ([later_run], later_run),
        ([of(attempt=10)], later_run),
    ):
        assert await database.write([row_of(one) for one in given]) == []
        assert await stored_outcomes(engine) == {"one": wanted}


async def test_characters_that_databases_cannot_store_are_replaced(database: Database, engine: AsyncEngine) -> None:
    # given NUL and lone surrogates in text, arguments and metadata, expect U+FFFD in their place, and a note
    odd = replace(
        WHOLE, content="a\0b", metadata={"k\0": ["\ud800", 1]}, tool_calls=(ToolCall("c", "t", "\0", complete=True),)
    )
    assert await database.write([row_of(replace(STORED, outcome=odd))]) == []
    found = (await stored_outcomes(engine))["one"].outcome
    assert (found.content, found.metadata, found.tool_calls[0].arguments) == (
        "a\ufffdb",
        {"k\ufffd": ["\ufffd", 1]},
        "\ufffd",
    )
    assert found.notes == (*WHOLE.notes, NUL_NOTE)


async def test_a_refused_row_does_not_block_others(database: Database, engine: AsyncEngine) -> None:
    # given a row that the database refuses among others, expect the others written, and its id returned without text
    bad = {**row_of(LEAST), "request_id": "bad", "attempt": 2**70, "content": "a secret text"}
    worse = {**row_of(LEAST), "request_id": "worse", "model": None, "status": None, "content": "a secret text"}
    refused = await database.write([row_of(STORED), bad, worse, row_of(LEAST)])
    assert sorted(one.request_id for one in refused) == ["bad", "worse"]
    assert "secret" not in str(refused)
    assert await stored_outcomes(engine) == {"one": STORED, "least": LEAST}


async def test_a_schema_mismatch_is_an_outage(database: Database, engine: AsyncEngine) -> None:
    # given tables that are missing or of another version, expect no row refused, and one line with advice
    async with engine.begin() as connection:
        await connection.execute(text("UPDATE tailrace_schema SET version = 99"))
    with pytest.raises(ResultsUnavailable, match=r"newer Tailrace \(version 99"):
        await database.write([row_of(STORED)])
    with pytest.raises(ResultsUnavailable, match="newer Tailrace"):
        await database.migrate()
    async with engine.begin() as connection:
        for table in ("tailrace_schema", "tailrace_results"):
            await connection.execute(text(f"DROP TABLE {table}"))
    with pytest.raises(ResultsUnavailable, match=r"no tables of Tailrace: run `tailrace results migrate`$"):
        await database.write([row_of(STORED)])


async def test_a_table_dropped_between_two_batches_is_an_outage(database: Database, engine: AsyncEngine) -> None:
    # given a batch that was written, if the tables are dropped, expect an outage, and success once they exist again
    await database.write([row_of(STORED)])
    async with engine.begin() as connection:
        for table in ("tailrace_schema", "tailrace_results"):
            await connection.execute(text(f"DROP TABLE {table}"))
    with pytest.raises(ResultsUnavailable):
        await database.write([row_of(LEAST)])
    assert await database.migrate() == (0, 1)
    assert await database.write([row_of(LEAST)]) == []


async def test_the_sql_files_match_the_table_definition(database: Database, engine: AsyncEngine) -> None:
    # given tables made by the SQL files, expect the columns, nullability, key and indexes of the definition
    def compare(connection: Connection) -> None:
        seen = inspect(connection)
        columns = {column["name"]: column["nullable"] for column in seen.get_columns(results.name)}
        assert columns == {column.name: column.nullable for column in results.c}
        assert seen.get_pk_constraint(results.name)["constrained_columns"] == ["request_id"]
        made = {index["name"]: index["column_names"] for index in seen.get_indexes(results.name)}
        assert made == {index.name: [column.name for column in index.columns] for index in results.indexes}

    async with engine.connect() as connection:
        await connection.run_sync(compare)


async def test_concurrent_migrations_create_the_tables_once(results_url: str) -> None:
    # given an empty database and five concurrent migrations, expect one to create the tables, and all to succeed
    several = [Database(results_url, timeout_s=20) for _ in range(5)]
    try:
        done = await asyncio.gather(*(one.migrate() for one in several))
        assert sorted(done) == [(0, 1), *[(1, 1)] * 4]
        await several[0].check()
    finally:
        for one in several:
            await one.close()


async def test_concurrent_opening_of_an_sqlite_file_succeeds(tmp_path: Path) -> None:
    # given new files, each opened by eight at once that all switch it to a write-ahead log, expect all to succeed
    for number in range(20):
        several = [Database(f"sqlite+aiosqlite:///{tmp_path}/{number}.db", timeout_s=20) for _ in range(8)]
        try:
            done = await asyncio.gather(*(one.migrate() for one in several))
        finally:
            for one in several:
                await one.close()
        assert sorted(done) == [(0, 1), *[(1, 1)] * 7]


async def test_pruning_deletes_old_outcomes_the_oldest_first(database: Database, engine: AsyncEngine) -> None:
    # given outcomes of different ages, expect the old ones counted, then deleted batch by batch, and the others kept
    now = datetime.now(UTC)
    for number, age_days in enumerate((200, 100, 91, 89, 1)):
        at = (now - timedelta(days=age_days)).isoformat()
        outcome = replace(LEAST.outcome, request_id=f"r{number}", finished_at=at)
        await database.write([row_of(replace(LEAST, outcome=outcome))])
    limit = timedelta(days=90)
    assert (await database.count(limit), await database.count()) == (3, 5)
    assert await database.prune(limit, at_most=1) == 1
    assert sorted(await stored_outcomes(engine)) == ["r1", "r2", "r3", "r4"]
    assert [await database.prune(limit) for _ in range(2)] == [2, 0]
    assert sorted(await stored_outcomes(engine)) == ["r3", "r4"]


async def test_an_unavailable_database_is_named_without_its_password(tmp_path: Path) -> None:
    # given URLs of servers and files that do not exist, expect an error with the place and without the password
    for url in (
        "postgresql+asyncpg://user:hidden-word@127.0.0.1:1/db?application_name=hidden-word",
        f"sqlite+aiosqlite:///{tmp_path}/no/folder.db",
        "postgresql+asyncpg://user:hidden-word@/db?host=/nowhere",
    ):
        away = Database(url, timeout_s=5)
        with pytest.raises(ResultsUnavailable) as raised:
            await away.write([row_of(STORED)])
        assert "hidden-word" not in str(raised.value)
        assert "Hello" not in f"{raised.value!r} {raised.value.__cause__!r}"
        await away.close()
    # the driver's thread of a failed connection calls the event loop once more, so the loop must still run then
    await until(lambda: not any("_connection_worker_thread" in thread.name for thread in threading.enumerate()))


def test_an_invalid_url_is_refused() -> None:
    with pytest.raises(SettingsError, match="TAILRACE_RESULTS_URL"):
        Database("nonsense+driver://user:hidden-word@/x", timeout_s=1)


def test_times_without_a_zone_are_read_as_utc(monkeypatch: pytest.MonkeyPatch) -> None:
    # given a row from SQLite, which has no zones, and a reader in another zone, expect the times that were written
    row = {name: at.replace(tzinfo=None) if isinstance(at, datetime) else at for name, at in row_of(STORED).items()}
    monkeypatch.setenv("TZ", "America/New_York")
    time.tzset()
    try:
        assert stored_of(row) == STORED
    finally:
        monkeypatch.undo()
        time.tzset()
