"""`tailrace results` and `tailrace sink --check`: migration, pruning, and errors on one line."""

import asyncio
import os
import sys
from datetime import UTC, datetime, timedelta
from pathlib import Path

from msgspec.structs import replace
from redis.asyncio import Redis

from tailrace.broker.keys import OUTBOX
from tailrace.schemas.outcome import Outcome
from tailrace.schemas.results import Stored, row_of
from tailrace.worker.results.database import Database

TAILRACE = Path(sys.executable).with_name("tailrace")
ENDED = Outcome(status="completed", attempt=1, submitted_at="2026-01-01T00:00:00.000Z")


async def call(url: str, *arguments: str, command: str = "results", redis_url: str = "") -> tuple[int | None, str, str]:
    environment = {"PATH": os.environ["PATH"], "TAILRACE_RESULTS_URL": url}
    asked = await asyncio.create_subprocess_exec(
        *(TAILRACE, command, *arguments),
        env=environment | ({"TAILRACE_REDIS_URL": redis_url} if redis_url else {}),
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    out, err = await asked.communicate()
    return asked.returncode, out.decode(), err.decode()


async def test_tables_are_created_and_old_outcomes_deleted(tmp_path: Path) -> None:
    # given an empty database, expect its tables created once; given outcomes, expect old ones counted, then deleted
    url = f"sqlite+aiosqlite:///{tmp_path}/results.db"
    code, out, _ = await call(url, "migrate")
    assert (code, out) == (0, f"sqlite:///{tmp_path}/results.db: migrated from version 0 to 1\n")
    code, out, _ = await call(url, "migrate")
    assert "up to date, version 1" in out
    database = Database(url, timeout_s=10)
    for number, days in enumerate((100, 99, 1)):
        at = (datetime.now(UTC) - timedelta(days=days)).isoformat()
        outcome = replace(ENDED, request_id=f"r{number}", finished_at=at)
        stored = Stored(outcome=outcome, tenant=None, priority="normal", deadline_ms=1_767_226_500_000)
        assert await database.write([row_of(stored)]) == []
    code, out, _ = await call(url, "prune", "--older-than", "90d", "--dry-run")
    assert (code, "2 outcomes would be deleted" in out, await database.count()) == (0, True, 3)
    code, out, progress = await call(url, "prune", "--older-than", "90d")
    assert (code, "2 outcomes deleted" in out, await database.count()) == (0, True, 1)
    assert progress == "deleted 2 of 2\n"
    await database.close()


async def test_an_error_is_one_line(tmp_path: Path) -> None:
    # given no tables, no URL, an unsupported URL, and arguments that conflict, expect one line for each
    url = f"sqlite+aiosqlite:///{tmp_path}/results.db"
    for where, arguments, wanted in (
        (url, ("prune", "--older-than", "90d"), "run `tailrace results migrate`"),
        ("", ("migrate",), "TAILRACE_RESULTS_URL: is not set"),
        ("mysql://root:hidden-word@db/x", ("migrate",), "TAILRACE_RESULTS_URL: give postgresql+asyncpg://"),
        ("postgresql+asyncpg://root:hidden-word@127.0.0.1:1/x", ("migrate",), "postgresql://127.0.0.1:1/x: "),
        (url, ("prune",), "--older-than"),
        (url, ("prune", "--older-than", "90"), "is not an age"),
    ):
        code, out, err = await call(where, *arguments)
        assert (code != 0, out, len(err.splitlines())) == (True, "", 1), err
        assert wanted in err
        assert "hidden-word" not in err


async def test_the_check_of_a_sink(tmp_path: Path, redis_url: str, redis: Redis) -> None:
    # given no tables, then no outbox, then no Redis, expect the health check to fail with a message; given all, to pass
    url = f"sqlite+aiosqlite:///{tmp_path}/results.db"

    async def check(where: str) -> tuple[int | None, str]:
        code, out, err = await call(url, "--check", command="sink", redis_url=where)
        return code, out + err

    assert (await check(redis_url))[0] == 1
    await call(url, "migrate")
    code, message = await check(redis_url)
    assert (code, "no outbox" in message) == (1, True)
    await redis.xadd(OUTBOX, {"id": "x"})
    assert (await check(redis_url))[0] == 0
    code, message = await check("redis://127.0.0.1:1/0")
    assert (code, message.count("\n")) == (1, 1)
