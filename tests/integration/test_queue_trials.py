"""What may have killed its workers begins in small company: who waits for whom, and who is to blame."""

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
"""A trial that no test outlives."""


@pytest.fixture
async def client(redis_url: str) -> AsyncIterator[ArqRedis]:
    async with plain_client(redis_url) as client:
        yield client


async def suspect(client: ArqRedis, job_id: str, crashes: int = 2, **more: Any) -> None:
    """A job whose workers have died so many times."""
    await client.hset(keys.queue_state_key(job_id), mapping={"attempt": crashes, "crashes": crashes, "held": 0, **more})
    await client.enqueue_job("generate", _job_id=job_id)


async def trial(client: ArqRedis, job_id: str) -> bytes | None:
    return await client.hget(keys.queue_state_key(job_id), "trial")


async def blameless(client: ArqRedis, job_id: str) -> bool:
    return await trial(client, job_id) is None


async def gone(client: ArqRedis) -> bool:
    return await left_behind(client) == set()


@pytest.mark.parametrize(("trial_s", "crashes"), [(NEVER_S, 2), (0.01, 15)])
async def test_beside_one_on_trial_nothing_begins(
    redis_url: str, client: ArqRedis, trial_s: float, crashes: int
) -> None:
    # given a suspect that has begun alone, whose trial is long from the first, or because it crashed so often, if
    # another job comes, expect only another worker to take it; once the trial is over, this one too
    first, second = Gate(), Gate()
    async with running(redis_url, first.generate, trial_s=trial_s):
        await suspect(client, "a", crashes)
        await until(lambda: first.started(1))
        assert await trial(client, "a") == b"alone"
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
            await until(lambda: gone(client))
    assert [lease.request_id for lease in first.leases] == ["a", "c"]
    assert [lease.request_id for lease in second.leases] == ["b"]


async def test_who_outlives_its_trial_is_not_to_blame(redis_url: str, client: ArqRedis) -> None:
    # given a suspect that begins alone, if its trial is over, expect it to run on without blame, others beside it
    gate = Gate()
    async with running(redis_url, gate.generate, trial_s=0.05):
        await suspect(client, "a")
        await client.enqueue_job("generate", _job_id="b")
        await wake(client)
        await until(lambda: gate.started(2))
        await until(lambda: blameless(client, "a"))
        gate.open.set()
        await until(lambda: gone(client))


async def test_a_trial_waits_until_those_before_it_are_proven(redis_url: str, client: ArqRedis) -> None:
    # given a job that has begun a moment ago, if a suspect comes, expect it held, not begun, until that job has ended
    gate = Gate()
    async with running(redis_url, gate.generate, trial_s=NEVER_S):
        await client.enqueue_job("generate", _job_id="a")
        await wake(client)
        await until(lambda: gate.started(1))
        await suspect(client, "b")
        await wake(client)
        await until(lambda: leases(client, 2))
        assert not gate.started(2)
        gate.open.set()
        await until(lambda: gone(client))
    assert [lease.request_id for lease in gate.leases] == ["a", "b"]


async def test_who_outlived_a_short_trial_is_not_proven_for_a_long_one(redis_url: str, client: ArqRedis) -> None:
    # given a suspect whose short trial is over, if one comes that has crashed more often, expect it to wait for longer
    gate = Gate()
    async with running(redis_url, gate.generate, trial_s=0.01):
        await suspect(client, "a")
        await until(lambda: gate.started(1))
        await until(lambda: blameless(client, "a"))
        await suspect(client, "b", 15)
        await wake(client)
        await until(lambda: leases(client, 2))
        assert await trial(client, "b") is None
        gate.open.set()
        await until(lambda: gone(client))
    assert [lease.request_id for lease in gate.leases] == ["a", "b"]


@pytest.mark.parametrize("why", [Stop.CANCELLED, Stop.DRAINED])
async def test_who_waits_for_its_trial_can_be_stopped(redis_url: str, client: ArqRedis, why: Stop) -> None:
    # given a suspect that waits for its trial, if it is cancelled, expect its function told at once; if the worker
    # drains, expect it handed back
    gate = Gate()
    async with running(redis_url, gate.generate, trial_s=NEVER_S, drain_s=0.1) as worker:
        await client.enqueue_job("generate", _job_id="a")
        await wake(client)
        await until(lambda: gate.started(1))
        await suspect(client, "b")
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
async def test_suspects_begin_in_company_the_smaller_the_more_they_crashed(
    redis_url: str, client: ArqRedis, crashes: int, together: int
) -> None:
    # given six suspects, expect as many to begin together as their crashes allow, nobody to blame unless alone, and the
    # others back in the queue, at no cost
    gate = Gate()
    for number in range(6):
        await suspect(client, f"j{number}", crashes)
    async with running(redis_url, gate.generate, trial_s=NEVER_S):
        await until(lambda: gate.started(together))
        await until(lambda: leases(client, together))
        noted = [await trial(client, lease.request_id) for lease in gate.leases]
        assert noted == ([b"alone"] if together == 1 else [None] * together)
        for number in range(6):
            if f"j{number}" not in {lease.request_id for lease in gate.leases}:
                state = await client.hmget(keys.queue_state_key(f"j{number}"), ["held", "crashes"])
                assert state == [b"0", b"%d" % crashes]


async def leases(client: ArqRedis, count: int) -> bool:
    return len(await client.keys("arq:in-progress:*")) == count


async def test_a_drain_ends_a_trial_without_blame(redis_url: str, client: ArqRedis) -> None:
    # given a suspect that has begun alone, if its worker drains, expect it handed back, and no blame left behind
    gate = Gate()
    async with running(redis_url, gate.generate, trial_s=NEVER_S, drain_s=0.1) as worker:
        await suspect(client, "a")
        await until(lambda: gate.started(1))
        await worker.drained()
    assert await client.hmget(keys.queue_state_key("a"), ["held", "trial", "crashes"]) == [b"0", None, b"2"]


async def test_many_crashes_without_blame_kill_nobody(redis_url: str, client: ArqRedis) -> None:
    # given a job whose workers died more often than is allowed, never while it was alone, expect it to run
    gate = Gate()
    gate.open.set()
    await suspect(client, "a", crashes=9, held=1)
    async with running(redis_url, gate.generate) as worker:
        await until(lambda: gone(client))
        assert worker.deaths == []
    assert [lease.crashes for lease in gate.leases] == [10]


async def test_blame_outlives_a_hook_that_fails(
    redis_url: str, client: ArqRedis, monkeypatch: pytest.MonkeyPatch
) -> None:
    # given a job that was alone when its worker died, if on_dead fails at first, expect it told again, the job not run
    monkeypatch.setattr("tailrace.worker.queue.job_endings.DEAD_RETRY_S", 0.01)
    gate, told = Gate(), list[str]()

    async def on_dead(job_id: str, lease: Any, code: str, message: str) -> None:
        told.append(code)
        if len(told) == 1:
            raise ValueError("a bug")

    await suspect(client, "a", held=1, trial="alone")
    async with running(redis_url, gate.generate, on_dead=on_dead):
        await until(lambda: gone(client))
    assert (told, gate.leases) == (["job_crashed"] * 2, [])


async def test_where_one_crash_is_too_many_there_are_no_trials(redis_url: str, client: ArqRedis) -> None:
    # given a limit of one, if a job's worker died, expect it dead, whoever was the cause
    gate = Gate()
    await suspect(client, "a", crashes=0, held=1)
    async with running(redis_url, gate.generate, max_crashes=1) as worker:
        await until(lambda: gone(client))
        assert worker.deaths == [Death("a", "job_crashed", queued=True)]
    assert gate.leases == []


# What Redis notes


async def test_blame_is_given_out_until_an_outage_was_the_cause(client: ArqRedis, redis_url: str) -> None:
    # given a job alone when its lease ran out, expect whoever claims it next told, also where the answer was lost; if
    # the owner comes back and says that the server had not answered, expect no blame any more
    short = QueueStore(redis_url, lease_s=0.05, poll_s=1.0)
    long = QueueStore(redis_url, lease_s=60.0, poll_s=1.0)
    try:
        await client.enqueue_job("generate", _job_id="a")
        job, lease = await one(short, "t")
        assert not job.blamed
        assert await short.note_quarantine(lease, alone=True)
        heir, _ = await one(long, "u")
        again = (await long.claim(1, "u", again=True)).jobs
        assert (heir.blamed, [job.blamed for job in again]) == (True, [True])
        assert not await short.note_quarantine(lease, alone=True)
        assert await trial(client, "a") == b"blamed"
        lease.cut_off = True
        assert not await short.hand_back(lease, delay_ms=0, why="lease_expired")
        assert await client.hmget(keys.queue_state_key("a"), ["crashes", "trial"]) == [b"0", None]
    finally:
        await short.close()
        await long.close()
