"""Makes a sink and runs it with the other work of a process. Imports a database library only if a database is set."""

import asyncio
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

from redis.asyncio import Redis

from tailrace.broker.clients import asking
from tailrace.broker.keys import OUTBOX
from tailrace.schemas.errors import SettingsError
from tailrace.schemas.results import SQL_MISSING
from tailrace.schemas.settings import Settings
from tailrace.worker.queue.outbox_state import OutboxState

if TYPE_CHECKING:
    from tailrace.worker.results.database import Database
    from tailrace.worker.results.sink import Sink


@asynccontextmanager
async def run_sink(settings: Settings, queue: Redis, records: Redis, outbox_state: OutboxState) -> AsyncGenerator[None]:
    """Inside the context, outcomes are written to the database, if the settings name one.

    Args:
        settings: those of this process.
        queue: a client of the Redis with the queue.
        records: a client of the Redis with the records.
        outbox_state: is set to whether there is an outbox.

    Raises:
        SettingsError: the database cannot be used, or the extra for it is not installed.
        StoreError: Redis does not answer, or refuses.
    """
    if not settings.results_url.get_secret_value():
        async with asking(queue):
            outbox_state.exists = bool(await queue.exists(OUTBOX))
        yield
        return
    database = make_database(settings)
    sink = await make_sink(settings, queue, records, database)
    outbox_state.exists = True
    running = asyncio.create_task(sink.run(), name="sink")
    try:
        yield
    finally:
        sink.stop()
        await asyncio.wait({running}, timeout=settings.results_timeout_s)
        running.cancel()
        await asyncio.wait({running})
        await database.close()


async def make_sink(settings: Settings, queue: Redis, records: Redis, database: "Database") -> "Sink":
    """A sink for this database. Creates the outbox if there is none.

    Raises:
        StoreError: Redis does not answer, or refuses.
    """
    from tailrace.worker.results.outbox import OutcomeOutbox
    from tailrace.worker.results.sink import CLAIMS_PER_TIMEOUT, Sink

    claim_s = CLAIMS_PER_TIMEOUT * settings.results_timeout_s
    outbox = OutcomeOutbox(queue, records, claim_s=claim_s)
    await outbox.open()
    return Sink(outbox, database, unsettled_s=claim_s / 3)


def make_database(settings: Settings) -> "Database":
    """The database of the settings.

    Raises:
        SettingsError: none is set, it cannot be used, or the extra for it is not installed.
    """
    url = settings.results_url.get_secret_value()
    if not url:
        raise SettingsError(
            "TAILRACE_RESULTS_URL: is not set; give for example postgresql+asyncpg://user@host/database"
        )
    try:
        from tailrace.worker.results.database import Database
    except ImportError as error:
        raise SettingsError(SQL_MISSING) from error
    return Database(url, timeout_s=settings.results_timeout_s)
