"""Quarantine: which jobs begin together, which have to wait, and which one is blamed for a crash."""

from collections.abc import AsyncIterator
from typing import Any

import pytest
from arq.connections import ArqRedis

from tailrace.broker import keys
from tailrace.worker.queue.leases import Stop
from tailrace.worker.queue.queue_store import QueueStore
from tests.integration.test_queue_verbs import one
from tests.integration.test_queue_worker import Gate
from tests.queue_rig import Death, left_behind, plain_client, running, wake
from tests.until import until

NEVER_S = 50.0
"""A quarantine that is longer than any test."""


@pytest.fixture
async def client(redis_url: str) -> AsyncIterator[ArqRedis]:
    async with plain_client(redis_url) as client:
        yield client


async def enqueue_crashed(client: ArqRedis, job_id: str, crashes: int = 2, **more: Any) -> None:
    """Enqueues a job with a crash count; by default that of a first quarantine. `more`: fields of its state."""
    await client.hset(keys.queue_state_key(job_id), mapping={"attempt": crashes, "crashes": crashes, "held": 0, **more})
    await client.enqueue_job("generate", _job_id=job_id)


async def noted(client: ArqRedis, job_id: str) -> bytes | None:
    """What is noted about the job's quarantine."""
    return await client.hget(keys.queue_state_key(job_id), "quarantine")


async def not_noted(client: ArqRedis, job_id: str) -> bool:
    return await noted(client, job_id) is None


async def nothing_left(client: ArqRedis) -> bool:
    return await left_behind(client) == set()


@pytest.mark.parametrize(("quarantine_s", "crashes"), [(NEVER_S, 2), (0.01, 15)])
async def test_nothing_begins_beside_a_quarantined_job(
    redis_url: str, client: ArqRedis, quarantine_s: float, crashes: int
) -> None:
    # given a job that began alone in a quarantine, which is long by its setting or by the number of crashes, if another
    # job comes, expect only another worker to claim it; once the first job has ended, expect this worker to go on
    first, second = Gate(), Gate()
    async with running(redis_url, first.generate, quarantine_s=quarantine_s):
        await enqueue_crashed(client, "a", crashes)
        await until(lambda: first.started(1))
        assert await noted(client, "a") == b"alone"
        await client.enqueue_job("generate", _job_id="b")
        await wake(client)
        async with running(redis_url, second.generate, max_jobs=1):
            await wake(client)
            await until(lambda: second.started(1))
            await client.enqueue_job("generate", _job_id="c")
            await wake(client)
            first.open.set()
            await until(lambda: first.started(2))
            second.open.set()
            await until(lambda: nothing_left(client))
    assert [lease.request_id for lease in first.leases] == ["a", "c"]
    assert [lease.request_id for lease in second.leases] == ["b"]


async def test_a_job_that_outlives_its_quarantine_is_not_blamed(redis_url: str, client: ArqRedis) -> None:
    # given a job that began alone, if its quarantine is over, expect no note on it, and another job beside it
    gate = Gate()
    async with running(redis_url, gate.generate, quarantine_s=0.05):
        await enqueue_crashed(client, "a")
        await client.enqueue_job("generate", _job_id="b")
        await wake(client)
        await until(lambda: gate.started(2))
        await until(lambda: not_noted(client, "a"))
        gate.open.set()
        await until(lambda: nothing_left(client))


async def test_a_quarantine_waits_for_jobs_that_began_just_before(redis_url: str, client: ArqRedis) -> None:
    # given a job that has just begun, if a quarantined one is claimed, expect it to begin when the first has ended
    gate = Gate()
    async with running(redis_url, gate.generate, quarantine_s=NEVER_S):
        await client.enqueue_job("generate", _job_id="a")
        await wake(client)
        await until(lambda: gate.started(1))
        await enqueue_crashed(client, "b")
        await wake(client)
        await until(lambda: leases(client, 2))
        assert not gate.started(2)
        gate.open.set()
        await until(lambda: nothing_left(client))
    assert [lease.request_id for lease in gate.leases] == ["a", "b"]


async def test_a_longer_quarantine_waits_for_the_job_of_a_shorter_one(redis_url: str, client: ArqRedis) -> None:
    # given a job whose short quarantine is over, if one with more crashes is claimed, expect it to wait for longer
    gate = Gate()
    async with running(redis_url, gate.generate, quarantine_s=0.01):
        await enqueue_crashed(client, "a")
        await until(lambda: gate.started(1))
        await until(lambda: not_noted(client, "a"))
        await enqueue_crashed(client, "b", 15)
        await wake(client)
        await until(lambda: leases(client, 2))
        assert await noted(client, "b") is None
        gate.open.set()
        await until(lambda: nothing_left(client))
    assert [lease.request_id for lease in gate.leases] == ["a", "b"]


@pytest.mark.parametrize("why", [Stop.CANCELLED, Stop.DRAINED])
async def test_a_job_that_waits_for_its_quarantine_can_be_stopped(redis_url: str, client: ArqRedis, why: Stop) -> None:
    # given a job that waits for its quarantine, if it is cancelled, expect its function called at once; if the worker
    # drains, expect the job handed back
    gate = Gate()
    async with running(redis_url, gate.generate, quarantine_s=NEVER_S, drain_s=0.1) as worker:
        await client.enqueue_job("generate", _job_id="a")
        await wake(client)
        await until(lambda: gate.started(1))
        await enqueue_crashed(client, "b")
        await wake(client)
        await until(lambda: leases(client, 2))
        if why is Stop.CANCELLED:
            await client.publish(keys.CANCEL_CHANNEL, "b")
            await until(lambda: gate.started(2))
            await until(lambda: gate.stops == [Stop.CANCELLED])
        await worker.drained()
    assert [lease.request_id for lease in gate.leases].count("b") == (why is Stop.CANCELLED)
    assert await client.hmget(keys.queue_state_key("b"), ["held", "crashes"]) == [b"0", b"2"]


@pytest.mark.parametrize(("crashes", "together"), [(2, 6), (3, 4), (4, 1)])
async def test_groups_are_smaller_the_more_crashes_a_job_has(
    redis_url: str, client: ArqRedis, crashes: int, together: int
) -> None:
    # given six quarantined jobs, expect as many to begin together as their crashes allow, a note only on one that is
    # alone, and the others back in the queue without another crash
    gate = Gate()
    for number in range(6):
        await enqueue_crashed(client, f"j{number}", crashes)
    async with running(redis_url, gate.generate, quarantine_s=NEVER_S):
        await until(lambda: gate.started(together))
        await until(lambda: leases(client, together))
        notes = [await noted(client, lease.request_id) for lease in gate.leases]
        assert notes == ([b"alone"] if together == 1 else [None] * together)
        for number in range(6):
            if f"j{number}" not in {lease.request_id for lease in gate.leases}:
                state = await client.hmget(keys.queue_state_key(f"j{number}"), ["held", "crashes"])
                assert state == [b"0", b"%d" % crashes]


async def leases(client: ArqRedis, count: int) -> bool:
    return len(await client.keys("arq:in-progress:*")) == count


async def test_a_drain_ends_a_quarantine_without_blame(redis_url: str, client: ArqRedis) -> None:
    # given a job that began alone, if its worker drains, expect it handed back, and no note on it
    gate = Gate()
    async with running(redis_url, gate.generate, quarantine_s=NEVER_S, drain_s=0.1) as worker:
        await enqueue_crashed(client, "a")
        await until(lambda: gate.started(1))
        await worker.drained()
    assert await client.hmget(keys.queue_state_key("a"), ["held", "quarantine", "crashes"]) == [b"0", None, b"2"]


async def test_crashes_without_blame_do_not_end_a_job(redis_url: str, client: ArqRedis) -> None:
    # given a job with more crashes than the limit, none while it was alone, expect it to run
    gate = Gate()
    gate.open.set()
    await enqueue_crashed(client, "a", crashes=9, held=1)
    async with running(redis_url, gate.generate) as worker:
        await until(lambda: nothing_left(client))
        assert worker.deaths == []
    assert [lease.crashes for lease in gate.leases] == [10]


async def test_a_blamed_job_stays_blamed_when_on_dead_raises(
    redis_url: str, client: ArqRedis, monkeypatch: pytest.MonkeyPatch
) -> None:
    # given a job that was alone when its worker died, if on_dead raises at first, expect a second call, and no run
    monkeypatch.setattr("tailrace.worker.queue.job_endings.DEAD_RETRY_S", 0.01)
    gate, codes = Gate(), list[str]()

    async def on_dead(job_id: str, lease: Any, code: str, message: str) -> None:
        codes.append(code)
        if len(codes) == 1:
            raise ValueError("a bug")

    await enqueue_crashed(client, "a", held=1, quarantine="alone")
    async with running(redis_url, gate.generate, on_dead=on_dead):
        await until(lambda: nothing_left(client))
    assert (codes, gate.leases) == (["job_crashed"] * 2, [])


async def test_with_a_limit_of_one_there_is_no_quarantine(redis_url: str, client: ArqRedis) -> None:
    # given a limit of one, if a job's worker died, expect the job dead, whatever was the cause
    gate = Gate()
    await enqueue_crashed(client, "a", crashes=0, held=1)
    async with running(redis_url, gate.generate, max_crashes=1) as worker:
        await until(lambda: nothing_left(client))
        assert worker.deaths == [Death("a", "job_crashed", queued=True)]
    assert gate.leases == []


# What is noted in Redis


async def test_claims_report_blame_until_an_outage_turns_out_to_be_the_cause(client: ArqRedis, redis_url: str) -> None:
    # given a job that was alone when its lease expired, expect the next claim to report it as blamed, also when that
    # claim is repeated; if the first owner reports that it was cut off, expect the blame taken back
    short = QueueStore(redis_url, lease_s=0.05, poll_s=1.0)
    long = QueueStore(redis_url, lease_s=60.0, poll_s=1.0)
    try:
        await client.enqueue_job("generate", _job_id="a")
        job, lease = await one(short, "t")
        assert not job.blamed
        assert await short.note_quarantine(lease, alone=True)
        heir, _ = await one(long, "u")
        again = (await long.claim(1, "u", is_repeat=True)).jobs
        assert (heir.blamed, [job.blamed for job in again]) == (True, [True])
        assert not await short.note_quarantine(lease, alone=True)
        assert await noted(client, "a") == b"blamed"
        lease.cut_off = True
        assert not await short.hand_back(lease, delay_ms=0, why="lease_expired")
        assert await client.hmget(keys.queue_state_key("a"), ["crashes", "quarantine"]) == [b"0", None]
    finally:
        await short.close()
        await long.close()
