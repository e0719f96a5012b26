"""The sink: every outcome is written once, and waits while the database is unavailable."""

import asyncio
from collections.abc import AsyncGenerator, Sequence
from contextlib import asynccontextmanager, suppress
from pathlib import Path

import pytest
from redis.asyncio import Redis
from sqlalchemy import text

from tailrace.broker import keys
from tailrace.broker.backoff import Backoff
from tailrace.producers.client import Client
from tailrace.producers.options import ClientOptions
from tailrace.producers.store import ProducerStore
from tailrace.schemas.codec import encode_entry, encode_outcome
from tailrace.schemas.deltas import Cancelled
from tailrace.schemas.errors import StoreError
from tailrace.schemas.outcome import UNFILLED, Outcome
from tailrace.worker.attempt.request_store import Store
from tailrace.worker.results.database import Database, Refused, Row
from tailrace.worker.results.outbox import OutcomeOutbox, Taken
from tailrace.worker.results.sink import Sink
from tests.postgres import EmbeddedPostgres
from tests.results_rig import engine_of, migrated_database, stored_outcomes
from tests.rig import WAIT_S, Rig, request_for, rig
from tests.until import until

SLOW = {"steps": [{"kind": "text", "chunks": 2000}], "pace": {"chunks_per_s": 20}}
REFUSED = {"faults": [{"kind": "error", "status": 400}]}
RETENTION_S = 60.0


async def settled(redis: Redis) -> bool:
    """Whether no job is queued or running, and the outbox is empty."""
    async with redis.pipeline(transaction=True) as at_once:
        at_once.zcard(keys.QUEUE)
        at_once.xlen(keys.OUTBOX)
        return await at_once.execute() == [0, 0]


@asynccontextmanager
async def running_sink(redis: Redis, database: Database, claim_s: float = 30.0) -> AsyncGenerator[Sink]:
    """Runs a sink in this process."""
    outbox = OutcomeOutbox(redis, redis, claim_s=claim_s)
    sink = Sink(outbox, database, unsettled_s=claim_s / 3)
    task = asyncio.create_task(sink.run())
    try:
        yield sink
    finally:
        sink.stop()
        async with asyncio.timeout(WAIT_S):
            await task


async def of_every_kind(at: Rig) -> list[str]:
    """Submits requests that end in every way; returns their ids."""
    done = await at.submit({"steps": [{"kind": "text", "chunks": 3}]}, tenant="acme", metadata={"k": "v"})
    failed = await at.submit(REFUSED)
    stopped = await at.submit(SLOW, priority="low")
    await until(lambda: _runs(at, stopped))
    await at.client.cancel(stopped)
    late = await at.submit(timeout_s=0.001)
    return [done, failed, stopped, late]


async def _runs(at: Rig, request_id: str) -> bool:
    return (await at.client.status(request_id)).status == "running"


async def test_outcomes_of_every_kind_are_written(redis_url: str, redis: Redis, results_url: str) -> None:
    # given requests that complete, fail, are cancelled and expire, expect each in the database as in Redis, an empty
    # outbox, and records with their usual lifetime
    async with migrated_database(results_url), engine_of(results_url) as engine:
        async with rig(redis_url, results_url=results_url, retention_s=RETENTION_S) as at:
            ids = await of_every_kind(at)
            outcomes = {request_id: await at.outcome(request_id) for request_id in ids}
            await until(lambda: settled(redis))
            found = await stored_outcomes(engine)
    assert {request_id: stored.outcome for request_id, stored in found.items()} == outcomes
    assert {stored.outcome.status for stored in found.values()} == {"completed", "failed", "cancelled"}
    done = found[ids[0]]
    assert (done.tenant, done.priority, done.outcome.metadata) == ("acme", "normal", {"k": "v"})
    assert done.outcome.started_at
    assert done.outcome.first_delta_at
    assert done.outcome.started_at <= done.outcome.first_delta_at <= (done.outcome.finished_at or "")
    assert found[ids[2]].priority == "low"
    for request_id in ids:
        assert 0 < await redis.pttl(keys.rec_key(request_id)) <= 3_600_000
    assert 0 < await redis.ttl(keys.OUTBOX) <= keys.OUTBOX_LIFETIME_S


async def test_a_request_cancelled_while_it_waits_is_written(redis_url: str, redis: Redis, results_url: str) -> None:
    # given a sink and no worker, and a request in a lane and one in the queue that are cancelled, expect both written
    async with (
        migrated_database(results_url) as database,
        engine_of(results_url) as engine,
        running_sink(redis, database),
    ):
        await until(lambda: _is_open(redis))
        async with Client(redis_url) as client:
            for request in (request_for(tenant="acme"), request_for()):
                submitted = await client.submit(request)
                assert (await client.cancel(submitted.id)).verdict == "ended"
                await until(lambda: settled(redis))
                stored = (await stored_outcomes(engine))[submitted.id]
                assert stored.outcome == await client.result(submitted.id)
                assert stored.outcome.status == "cancelled"


async def _is_open(redis: Redis) -> bool:
    return bool(await redis.exists(keys.OUTBOX))


async def test_a_client_that_dies_during_a_cancel_loses_nothing(redis_url: str, redis: Redis, results_url: str) -> None:
    # given a client that ends a request and dies before its next step, expect the worker that claims it to go on
    async with migrated_database(results_url), engine_of(results_url) as engine, Client(redis_url) as client:
        submitted = await client.submit(request_for())
        outcome = Outcome(
            status="cancelled", request_id=submitted.id, submitted_at=UNFILLED, finished_at=UNFILLED, model="sim"
        )
        store = ProducerStore(redis_url, timeout_s=5.0)  # the first of two steps alone
        verdict = await store.cancel(submitted.id, terminal=encode_entry(Cancelled(0)), outcome=encode_outcome(outcome))
        await store.close()
        assert verdict.status == "ended"
        async with rig(redis_url, results_url=results_url):
            await until(lambda: _stands(engine, submitted.id))


async def _stands(engine: object, request_id: str) -> bool:
    return request_id in await stored_outcomes(engine)  # pyright: ignore[reportArgumentType] - an engine


async def test_without_a_database_there_is_no_outbox(redis_url: str, redis: Redis) -> None:
    # given no database, expect no outbox, and records with their usual lifetime
    async with rig(redis_url, retention_s=RETENTION_S) as at:
        request_id = await at.submit()
        await at.outcome(request_id)
        waiting = await at.client.submit(request_for(priority="low", timeout_s=900))
        with suppress(StoreError):
            await at.client.cancel(waiting.id)
        await until(lambda: _unqueued(redis))
    assert not await redis.exists(keys.OUTBOX)
    assert await redis.pttl(keys.rec_key(request_id)) <= 3_600_000


async def _unqueued(redis: Redis) -> bool:
    return not await redis.zcard(keys.QUEUE)


async def test_workers_run_on_while_the_database_is_unavailable(
    redis_url: str, redis: Redis, postgres: EmbeddedPostgres, caplog: pytest.LogCaptureFixture
) -> None:
    # given a database that stops, if more requests are submitted, expect them to complete, their outcomes kept in Redis
    # for a week, and few log lines; given it starts again, expect all written once, and their usual lifetime
    postgres.ask("DROP TABLE IF EXISTS tailrace_results, tailrace_schema")
    async with migrated_database(postgres.url), engine_of(postgres.url) as engine:
        async with rig(redis_url, results_url=postgres.url, retention_s=RETENTION_S, results_timeout_s=1) as at:
            first = await at.submit()
            await at.outcome(first)
            await until(lambda: settled(redis))
            postgres.stop()
            try:
                ids = [await at.submit() for _ in range(20)]
                outcomes = [await at.outcome(request_id) for request_id in ids]
                await until(lambda: _waits(redis, 20))
                await until(lambda: "cannot write outcomes" in caplog.text)
                week_ms = keys.OUTBOX_LIFETIME_S * 1000
                for request_id in ids:
                    assert week_ms - 100_000 < await redis.pttl(keys.rec_key(request_id)) <= week_ms
                said = caplog.text.count("cannot write outcomes")
            finally:
                postgres.start()
            await until(lambda: settled(redis), 60)
            found = await stored_outcomes(engine)
            for request_id in ids:
                assert await redis.pttl(keys.rec_key(request_id)) <= 3_600_000
    assert said <= 3, caplog.text
    assert {request_id: found[request_id].outcome for request_id in ids} == dict(zip(ids, outcomes, strict=True))
    assert len(found) == 21


async def _waits(redis: Redis, count: int) -> bool:
    return await redis.xlen(keys.OUTBOX) == count


async def test_a_sink_waits_for_missing_tables(
    redis_url: str, redis: Redis, results_url: str, caplog: pytest.LogCaptureFixture
) -> None:
    # given a database without tables, expect the worker to run, to log what to do, and to write once the tables exist
    async with rig(redis_url, results_url=results_url) as at:
        request_id = await at.submit()
        await at.outcome(request_id)
        await until(lambda: "run `tailrace results migrate`" in caplog.text)
        async with migrated_database(results_url), engine_of(results_url) as engine:
            await until(lambda: settled(redis), 40)
            assert list(await stored_outcomes(engine)) == [request_id]


async def test_a_refused_outcome_does_not_block_others(
    redis_url: str, redis: Redis, results_url: str, caplog: pytest.LogCaptureFixture
) -> None:
    # given three outcomes, one that cannot be read and one that the database refuses, expect the third written, and the
    # two listed as refused without their text; repaired and put back, expect them written too
    async with migrated_database(results_url) as database, engine_of(results_url) as engine:
        outbox = OutcomeOutbox(redis, redis, claim_s=30)
        await outbox.open()
        async with rig(redis_url) as at:
            ids = [await at.submit() for _ in range(3)]
            good = [await at.outcome(request_id) for request_id in ids]
            await until(lambda: _waits(redis, 3))
        beginning = '{"kind":"outcome","status":"completed","content":"a secret text",'
        broken = (
            beginning,
            beginning
            + f'"attempt":{2**62},"submitted_at":"2026-01-01T00:00:00.000Z","finished_at":"2026-01-01T00:00:00.000Z"}}',
        )
        for request_id, outcome in zip(ids, broken, strict=False):
            await redis.hset(keys.rec_key(request_id), "outcome", outcome)
        async with running_sink(redis, database):
            await until(lambda: settled(redis))
            refused = await outbox.refused()
            expected = set(ids[:1] if results_url.startswith("sqlite") else ids[:2])
            assert set(refused) == expected
            assert (await outbox.waiting()).refused == len(expected)
            assert ids[2] in await stored_outcomes(engine)
            assert "secret" not in caplog.text + str(refused)
            for request_id, outcome in zip(ids, good, strict=True):
                await redis.hset(keys.rec_key(request_id), "outcome", encode_outcome(outcome))
            await outbox.put_back(ids)
            await until(lambda: settled(redis))
            assert (await outbox.waiting()).refused == 0
            assert expected < set(await stored_outcomes(engine))


async def test_several_sinks_share_the_work(redis_url: str, redis: Redis, results_url: str) -> None:
    # given more outcomes than a batch and two sinks, one of which is stopped, expect each outcome once
    async with (
        migrated_database(results_url) as first,
        migrated_database(results_url) as second,
        engine_of(results_url) as engine,
    ):
        await OutcomeOutbox(redis, redis, claim_s=30).open()
        async with rig(redis_url) as at:
            wanted = {await at.submit() for _ in range(250)}
            await until(lambda: _waits(redis, 250), WAIT_S)
        async with running_sink(redis, first, claim_s=0.5):
            async with running_sink(redis, second, claim_s=0.5):
                await until(lambda: _written(engine, 1))
            await until(lambda: settled(redis), WAIT_S)
        assert set(await stored_outcomes(engine)) == wanted


async def _written(engine: object, at_least: int) -> bool:
    return len(await stored_outcomes(engine)) >= at_least  # pyright: ignore[reportArgumentType] - an engine


async def test_a_lost_outbox_is_created_again(redis_url: str, redis: Redis, results_url: str) -> None:
    # given a Redis that lost the outbox, as after a failover, expect it created again, and later outcomes written
    async with migrated_database(results_url), engine_of(results_url) as engine:
        async with rig(redis_url, results_url=results_url) as at:
            await redis.delete(keys.OUTBOX)
            await until(lambda: _is_open(redis))
            request_id = await at.submit()
            outcome = await at.outcome(request_id)
            await until(lambda: _stands(engine, request_id))
            assert (await stored_outcomes(engine))[request_id].outcome == outcome


async def test_entries_without_an_outcome_are_removed(redis_url: str, redis: Redis, results_url: str) -> None:
    # given the ids of a request whose end was lost and of no request, expect them removed, and nothing written
    async with (
        migrated_database(results_url) as database,
        engine_of(results_url) as engine,
        running_sink(redis, database),
    ):
        await until(lambda: _is_open(redis))
        await redis.hset(keys.rec_key("undone"), mapping={"status": "running", "attempt": 1})
        for request_id in ("undone", "nothing"):
            await redis.xadd(keys.OUTBOX, {"id": request_id})
        await until(lambda: settled(redis))
        assert await stored_outcomes(engine) == {}
        assert await redis.hlen(keys.OUTBOX_REFUSED) == 0


async def test_processes_older_than_the_outbox_use_it(redis_url: str, redis: Redis) -> None:
    # given a worker and a web tier that started before there was an outbox, expect the first requests that they end to
    # wait in it, with records that are kept for the database
    async with rig(redis_url, retention_s=RETENTION_S) as at:
        await OutcomeOutbox(redis, redis, claim_s=30).open()
        ran = await at.submit()
        await at.outcome(ran)
        await until(lambda: _waits(redis, 1))
    async with Client(redis_url, ClientOptions(retention_s=RETENTION_S)) as client:
        waited = await client.submit(request_for(timeout_s=60))
        assert (await client.cancel(waited.id)).verdict == "ended"
    assert await _waits(redis, 2)
    for request_id in (ran, waited.id):
        assert await redis.ttl(keys.rec_key(request_id)) > keys.OUTBOX_LIFETIME_S - 100


async def test_a_record_is_kept_if_another_attempt_replaced_its_outcome(redis_url: str, redis: Redis) -> None:
    # given an outcome that was written while, after a failover, the request runs or has ended once more, expect its
    # record to stay: the outcome that counts is not in the database yet
    store = Store(redis, patience_s=0)
    record = {"status": "completed", "attempt": 2, "finished_ms": 1, "retention_ms": 1000}
    for changed, attempt, word in (
        ({"status": "running"}, 2, "kept"),
        ({}, 1, "kept"),
        ({}, 2, "released"),
    ):
        await redis.hset(keys.rec_key("one"), mapping={**record, **changed})
        await redis.expire(keys.rec_key("one"), keys.OUTBOX_LIFETIME_S)
        assert (await store.stored("one", attempt)).status == word
        assert (await redis.ttl(keys.rec_key("one")) > 1000) == (word == "kept")


async def test_an_outbox_lives_as_long_as_somebody_looks_at_it(
    redis_url: str, redis: Redis, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # given an outbox near its end, and a sink whose database has no tables, then has them, then loses them with an
    # outcome in hand, expect it to live on in each of these
    monkeypatch.setattr("tailrace.worker.results.sink.RETRY", Backoff(base_s=0.05, cap_s=0.1))

    async def lives_on() -> bool:
        return await redis.ttl(keys.OUTBOX) > keys.OUTBOX_LIFETIME_S - 100

    url = f"sqlite+aiosqlite:///{tmp_path}/results.db"
    database = Database(url, timeout_s=10)
    async with running_sink(redis, database, claim_s=0.3), engine_of(url) as engine:
        for _ in range(2):
            await until(lives_on)
            await redis.expire(keys.OUTBOX, 1_000)
        await database.migrate()
        for _ in range(3):
            await until(lives_on)
            await redis.expire(keys.OUTBOX, 1_000)
        async with engine.begin() as connection:
            for table in ("tailrace_schema", "tailrace_results"):
                await connection.execute(text(f"DROP TABLE {table}"))
        async with rig(redis_url) as at:
            await at.outcome(await at.submit())
        await until(lambda: _pending(redis))
        for _ in range(2):
            await redis.expire(keys.OUTBOX, 1_000)
            await until(lives_on)
    await database.close()


async def _pending(redis: Redis) -> bool:
    answer = await redis.execute_command("XPENDING", keys.OUTBOX, keys.OUTBOX_GROUP)
    return answer["pending"] == 1


async def test_many_bytes_are_read_and_written_in_parts(redis: Redis, monkeypatch: pytest.MonkeyPatch) -> None:
    # given outcomes of which two are more than a part may have, expect parts in order, each below that or one alone
    monkeypatch.setattr("tailrace.worker.results.outbox.PART_BYTES", 100)
    for name, size in {"a": 40, "b": 60, "c": 10, "d": 500, "e": 0}.items():
        await redis.hset(keys.rec_key(name), mapping={"status": "completed", "outcome": "x" * size})
    parts = await OutcomeOutbox(redis, redis, claim_s=30).parts([Taken(b"1-1", name) for name in "abcde"])
    assert ["".join(one.request_id for one in part) for part in parts] == ["ab", "c", "d", "e"]


async def test_a_fault_of_ours_ends_no_sink(
    redis_url: str, redis: Redis, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    # given a fault in the midst of writing, whose message quotes a text, expect its kind and place logged, and the
    # outcome written after a while
    faults = iter([KeyError("a secret text")])
    write = Database.write

    async def at_first_faulty(database: Database, rows: Sequence[Row]) -> list[Refused]:
        for fault in faults:
            raise fault
        return await write(database, rows)

    monkeypatch.setattr(Database, "write", at_first_faulty)
    monkeypatch.setattr("tailrace.worker.results.sink.RETRY", Backoff(base_s=0.05, cap_s=0.1))
    url = f"sqlite+aiosqlite:///{tmp_path}/results.db"
    async with migrated_database(url) as database, engine_of(url) as engine, running_sink(redis, database, claim_s=0.3):
        await until(lambda: _is_open(redis))
        async with rig(redis_url) as at:
            request_id = await at.submit()
            await at.outcome(request_id)
        await until(lambda: _stands(engine, request_id))
    assert "error=KeyError place=" in caplog.text
    assert "secret" not in caplog.text
