"""The worker on a real server, in this process: when jobs start, how they end, what a drain does."""

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import pytest
from arq.connections import ArqRedis
from arq.worker import Retry, RetryJob, func

from tailrace.broker import keys
from tailrace.worker.queue.leases import Lease, Stop
from tailrace.worker.queue.queue_store import QueueStore
from tests.queue_rig import DEADLINE_S, Death, left_behind, plain_client, running, wake
from tests.until import until

NEVER_S = 50.0
"""Longer than any test: what happens within a test did not wait for it."""


class Gate:
    """A job function that records its calls; each waits until the gate is opened or its lease is stopped."""

    def __init__(self) -> None:
        self.leases: list[Lease] = []
        self.contexts: list[dict[Any, Any]] = []
        self.stops: list[Stop] = []
        self.running = self.most = 0
        self.open = asyncio.Event()

    async def generate(self, ctx: dict[Any, Any], *args: Any) -> None:
        lease: Lease = ctx["lease"]
        self.leases.append(lease)
        self.contexts.append(ctx)
        self.running += 1
        self.most = max(self.most, self.running)
        try:
            opened = asyncio.ensure_future(self.open.wait())
            await asyncio.wait({opened, lease.stopped}, return_when=asyncio.FIRST_COMPLETED)
            opened.cancel()
            if lease.stopped.done():
                self.stops.append(lease.stopped.result())
                raise RetryJob
        finally:
            self.running -= 1

    def started(self, jobs: int) -> bool:
        """Whether at least so many calls have begun."""
        return len(self.leases) >= jobs


@pytest.fixture
async def client(redis_url: str) -> AsyncIterator[ArqRedis]:
    async with plain_client(redis_url) as client:
        yield client


async def nothing_left(client: ArqRedis) -> bool:
    return await left_behind(client) == set()


async def test_a_wake_up_token_starts_a_job_without_a_poll(redis_url: str, client: ArqRedis) -> None:
    # given an idle worker that hardly polls, if a job comes with a token, expect it to start and end
    gate = Gate()
    gate.open.set()
    async with running(redis_url, gate.generate, poll_s=NEVER_S):
        await until(lambda: listeners(client, 1))
        for job_id in "ab":
            await client.enqueue_job("generate", job_id, _job_id=job_id)
            await wake(client)
            await until(lambda: nothing_left(client))
    assert [lease.request_id for lease in gate.leases] == ["a", "b"]


async def test_a_plain_enqueue_is_found_by_the_slow_poll(redis_url: str, client: ArqRedis) -> None:
    # given no wake-up token at all, if arq's own client enqueues, expect the job to start, with arq's context
    gate = Gate()
    gate.open.set()
    async with running(redis_url, gate.generate):
        await client.enqueue_job("generate", "x", _job_id="a")
        await until(lambda: nothing_left(client))
    (context,) = gate.contexts
    assert (context["job_id"], context["job_try"], context["lease"].why) == ("a", 1, "first")
    assert context["score"] > 0
    assert isinstance(context["redis"], ArqRedis)


async def test_a_worker_without_free_slots_wakes_another(redis_url: str, client: ArqRedis) -> None:
    # given two workers of one slot each that do not poll, if two jobs come with one token, expect both to run at once
    gate = Gate()
    async with (
        running(redis_url, gate.generate, poll_s=NEVER_S, max_jobs=1),
        running(redis_url, gate.generate, poll_s=NEVER_S, max_jobs=1),
    ):
        await until(lambda: listeners(client, 2))
        async with client.pipeline() as together:
            for job_id in "ab":
                await client.enqueue_job("generate", _job_id=job_id)
            together.lpush(keys.WAKE, 1)
            await together.execute()
        await until(lambda: gate.running == 2)


async def listeners(client: ArqRedis, count: int) -> bool:
    return [peer["cmd"] for peer in await client.client_list()].count("blpop") == count


async def test_no_more_jobs_than_slots(redis_url: str, client: ArqRedis) -> None:
    # given ten jobs and three slots, if they run, expect at most three at once, and all ten in the end
    gate = Gate()
    for number in range(10):
        await client.enqueue_job("generate", _job_id=f"j{number}")
    async with running(redis_url, gate.generate, max_jobs=3, poll_s=NEVER_S):
        await until(lambda: gate.running == 3)
        gate.open.set()
        await until(lambda: nothing_left(client))
    assert gate.most == 3
    assert len(gate.leases) == 10


async def test_a_running_job_keeps_its_lease(redis_url: str, client: ArqRedis) -> None:
    # given a job that runs for several leases, and an idle worker, expect one attempt that keeps its lease
    gate = Gate()
    lease_s = 1.5  # a renewal on a busy machine may take a third of that
    async with running(redis_url, gate.generate, lease_s=lease_s), running(redis_url, gate.generate, lease_s=lease_s):
        await client.enqueue_job("generate", _job_id="a")
        await until(lambda: gate.started(1))
        first = gate.leases[0].ends_at
        await until(lambda: gate.leases[0].ends_at > first + 3 * lease_s)
        assert gate.leases[0].holds()
        gate.open.set()
        await until(lambda: nothing_left(client))
    assert [lease.attempt for lease in gate.leases] == [1]


async def test_deferred_jobs_start_when_due_and_not_before(redis_url: str, client: ArqRedis) -> None:
    # given a worker that does not poll, if a job is deferred and later retried with a delay, expect both delays kept
    starts: list[tuple[float, str]] = []

    async def generate(ctx: dict[Any, Any]) -> None:
        seconds, microseconds = await client.time()
        starts.append((seconds * 1000 + microseconds / 1000 - ctx["score"], ctx["lease"].why))
        if len(starts) == 1:
            raise Retry(defer=0.3)

    async with running(redis_url, generate, poll_s=NEVER_S):
        await client.enqueue_job("generate", _job_id="a", _defer_by=0.3)
        await wake(client)
        await until(lambda: nothing_left(client))
    assert [why for _, why in starts] == ["first", "retry"]
    assert all(late_ms >= 0 for late_ms, _ in starts)


@pytest.mark.parametrize("code", ["job_expired", "job_unreadable", "job_unknown", "job_failed"])
async def test_on_dead_is_called_for_a_job_that_cannot_be_run(redis_url: str, client: ArqRedis, code: str) -> None:
    # given a job that cannot be run, if a worker claims it, expect on_dead before its entry goes, and nothing left
    async def generate(ctx: dict[Any, Any]) -> None:
        raise ValueError("a bug")

    await client.enqueue_job("no_such" if code == "job_unknown" else "generate", _job_id="a")
    if code == "job_expired":
        await client.delete(keys.job_key("a"))
    if code == "job_unreadable":
        await client.set(keys.job_key("a"), b"\x80\x04N.", ex=60)
    async with running(redis_url, generate) as worker:
        await until(lambda: nothing_left(client))
    assert worker.deaths == [Death("a", code, queued=True)]


async def test_a_job_that_kills_its_workers_is_ended(redis_url: str, client: ArqRedis) -> None:
    # given a job whose second lease expired while it ran alone, if the limit is two, expect it dead, and no call
    gate = Gate()
    await client.enqueue_job("generate", _job_id="a")
    await client.hset(keys.queue_state_key("a"), mapping={"attempt": 2, "crashes": 1, "held": 1, "quarantine": "alone"})
    async with running(redis_url, gate.generate, max_crashes=2) as worker:
        await until(lambda: nothing_left(client))
    assert worker.deaths == [Death("a", "job_crashed", queued=True)]
    assert gate.leases == []


async def test_an_on_dead_that_raises_is_called_again(
    redis_url: str, client: ArqRedis, monkeypatch: pytest.MonkeyPatch
) -> None:
    # given an on_dead that raises twice, if a dead job is claimed, expect three calls, and the worker to run other jobs
    monkeypatch.setattr("tailrace.worker.queue.job_endings.DEAD_RETRY_S", 0.01)
    calls: list[str] = []

    async def on_dead(job_id: str, lease: Lease, code: str, message: str) -> None:
        calls.append(code)
        if len(calls) < 3:
            raise ValueError("a bug")

    async def generate(ctx: dict[Any, Any]) -> None: ...

    async with running(redis_url, generate, on_dead=on_dead):
        await client.enqueue_job("no_such", _job_id="a")
        await until(lambda: nothing_left(client))
        await client.enqueue_job("generate", _job_id="b")
        await until(lambda: nothing_left(client))
    assert calls == ["job_unknown"] * 3


async def test_a_function_that_returns_without_its_lease_is_not_acknowledged(redis_url: str, client: ArqRedis) -> None:
    # given a function that returns after its lease was lost, expect the job back in the queue for the next attempt
    gate = Gate()
    attempts: list[tuple[int, str, Stop | None]] = []
    held: list[bool] = []

    async def generate(ctx: dict[Any, Any]) -> None:
        lease: Lease = ctx["lease"]
        if lease.attempt == 1:
            await client.set(keys.lease_key("a"), "another", px=500)
            attempts.append((1, lease.why, await lease.stopped))
            held.append(lease.holds())
        else:
            attempts.append((lease.attempt, lease.why, None))
            await gate.generate(ctx)

    async with running(redis_url, generate):
        await client.enqueue_job("generate", _job_id="a")
        await until(lambda: gate.started(1))
        gate.open.set()
        await until(lambda: nothing_left(client))
    assert attempts == [(1, "first", Stop.LEASE_LOST), (2, "lease_expired", None)]
    assert held == [False]


async def test_any_registered_function_is_called_and_leaves_no_result(redis_url: str, client: ArqRedis) -> None:
    # given another function, registered with keep_result, expect a call with its arguments, and no key left
    sums: list[int] = []

    async def add(ctx: dict[Any, Any], a: int, b: int) -> int:
        sums.append(a + b)
        return a + b

    async with running(redis_url, func(add, name="add", keep_result=60)):
        await client.enqueue_job("add", 1, b=2, _job_id="a")
        await until(lambda: nothing_left(client))
    assert sums == [3]


async def test_a_cancel_stops_the_attempt(redis_url: str, client: ArqRedis) -> None:
    # given leases that are hardly renewed, if a cancel is published, expect that attempt stopped, and no other
    gate = Gate()
    async with running(redis_url, gate.generate, lease_s=NEVER_S):
        for job_id in "ab":
            await client.enqueue_job("generate", _job_id=job_id)
        await until(lambda: gate.started(2))
        await until(lambda: subscribed(client))
        await client.publish(keys.CANCEL_CHANNEL, "b")
        by_id = {lease.request_id: lease for lease in gate.leases}
        async with asyncio.timeout(DEADLINE_S):
            assert await by_id["b"].stopped is Stop.CANCELLED
        assert not by_id["a"].stopped.done()
        assert by_id["b"].holds()


async def subscribed(client: ArqRedis) -> bool:
    return (await client.pubsub_numsub(keys.CANCEL_CHANNEL))[0][1] == 1


async def test_a_cancel_during_a_cut_connection_is_found(redis_url: str, client: ArqRedis) -> None:
    # given a cancel while the subscription is cut, if the worker has subscribed again, expect the attempt stopped
    gate = Gate()
    async with running(redis_url, gate.generate, lease_s=NEVER_S):
        await client.enqueue_job("generate", _job_id="a")
        await until(lambda: gate.started(1))
        await until(lambda: subscribed(client))
        await client.hset(keys.rec_key("a"), "cancel", 1)
        await client.client_kill_filter(_type="pubsub")
        async with asyncio.timeout(DEADLINE_S):
            assert await gate.leases[0].stopped is Stop.CANCELLED
        await until(lambda: subscribed(client))
        await client.delete(keys.rec_key("a"))


async def test_a_cancel_whose_message_was_lost_is_looked_up(redis_url: str, client: ArqRedis) -> None:
    # given a cancel that only the record has, expect the attempt stopped
    gate = Gate()
    async with running(redis_url, gate.generate):
        await client.enqueue_job("generate", _job_id="a")
        await until(lambda: gate.started(1))
        await until(lambda: subscribed(client))
        await client.hset(keys.rec_key("a"), "cancel", 1)
        async with asyncio.timeout(DEADLINE_S):
            assert await gate.leases[0].stopped is Stop.CANCELLED
        await client.delete(keys.rec_key("a"))


async def test_a_drain_lets_jobs_finish_in_the_grace_period(redis_url: str, client: ArqRedis) -> None:
    # given a running job and a grace period, if the worker drains, expect no new claim, and the job to finish
    gate = Gate()
    async with running(redis_url, gate.generate, drain_s=NEVER_S) as worker:
        await client.enqueue_job("generate", _job_id="a")
        await until(lambda: gate.started(1))
        worker.worker.drain()
        await client.enqueue_job("generate", _job_id="b")
        await wake(client)
        gate.open.set()
        async with asyncio.timeout(DEADLINE_S):
            await worker.task
    assert [lease.request_id for lease in gate.leases] == ["a"]
    assert await client.zrange(keys.QUEUE, 0, -1) == [b"b"]
    assert gate.stops == []


async def test_a_drain_hands_back_the_rest(redis_url: str, client: ArqRedis) -> None:
    # given jobs that outlast the grace period, if the worker drains, expect them due at once, without lease or crash
    gate = Gate()
    async with running(redis_url, gate.generate, drain_s=0.1) as worker:
        for job_id in "abc":
            await client.enqueue_job("generate", _job_id=job_id)
        await until(lambda: gate.started(3))
        await worker.drained()
        assert gate.stops == [Stop.DRAINED] * 3
        assert await client.keys("arq:in-progress:*") == []
    second = Gate()
    second.open.set()
    async with running(redis_url, second.generate):
        await until(lambda: nothing_left(client))
    assert {(lease.attempt, lease.why, lease.crashes) for lease in second.leases} == {(2, "drained", 0)}


async def test_jobs_claimed_while_the_drain_begins_are_handed_back(redis_url: str, client: ArqRedis) -> None:
    # given a claim whose reply is pending, if the worker drains, expect its jobs handed back, and none begun
    gate = Gate()
    await client.enqueue_job("generate", _job_id="a")
    await client.client_pause(60_000, all=False)
    async with running(redis_url, gate.generate, drain_s=NEVER_S) as worker:
        await until(lambda: claiming(client))
        worker.worker.drain()
        await client.client_unpause()
        await worker.drained()
    assert gate.leases == []
    assert await client.exists(keys.lease_key("a")) == 0
    assert await client.hmget(keys.queue_state_key("a"), ["attempt", "held", "why"]) == [b"1", b"0", b"first"]


async def claiming(client: ArqRedis) -> bool:
    return "evalsha" in [peer["cmd"] for peer in await client.client_list()]


async def test_a_second_drain_ends_the_grace_period(redis_url: str, client: ArqRedis) -> None:
    # given a long grace period, if drain is called twice, expect the jobs handed back at once
    gate = Gate()
    async with running(redis_url, gate.generate, drain_s=NEVER_S) as worker:
        await client.enqueue_job("generate", _job_id="a")
        await until(lambda: gate.started(1))
        worker.worker.drain()
        await worker.drained()
    assert gate.stops == [Stop.DRAINED]


async def test_a_function_that_ignores_its_lease_is_cancelled_by_a_third_drain(
    redis_url: str, client: ArqRedis
) -> None:
    # given a function that ignores its lease, if drain is called three times, expect it cancelled, its job handed back
    started = asyncio.Event()

    async def generate(ctx: dict[Any, Any]) -> None:
        started.set()
        await asyncio.Event().wait()

    async with running(redis_url, generate, drain_s=NEVER_S) as worker:
        await client.enqueue_job("generate", _job_id="a")
        await started.wait()
        worker.worker.drain()
        worker.worker.drain()
        await worker.drained()
    assert await client.exists(keys.lease_key("a")) == 0
    assert await client.hmget(keys.queue_state_key("a"), ["held", "why"]) == [b"0", b"drained"]


async def test_a_cancelled_worker_hands_its_jobs_back(redis_url: str, client: ArqRedis) -> None:
    # given a running job, if the worker's own task is cancelled, expect the job handed back
    gate = Gate()
    async with running(redis_url, gate.generate, drain_s=NEVER_S) as worker:
        await client.enqueue_job("generate", _job_id="a")
        await until(lambda: gate.started(1))
        worker.task.cancel()
        await asyncio.wait({worker.task}, timeout=DEADLINE_S)
        assert worker.task.cancelled()
        assert await client.exists(keys.lease_key("a")) == 0
        worker.task = asyncio.create_task(asyncio.sleep(0))


async def test_an_idle_worker_sends_few_commands(redis_url: str, client: ArqRedis) -> None:
    # given 200 jobs that run elsewhere, if a worker is idle for two seconds, expect at most six commands a second,
    # those of scripts included
    elsewhere = QueueStore(redis_url, lease_s=NEVER_S, poll_s=1.0)
    for number in range(200):
        await client.enqueue_job("generate", _job_id=f"j{number}")
    assert len((await elsewhere.claim(200, "t", is_repeat=False)).jobs) == 200
    await elsewhere.close()
    async with running(redis_url, Gate().generate, poll_s=1.0):
        await until(lambda: listeners(client, 1))
        await client.config_resetstat()
        await asyncio.sleep(2)
        assert (await client.info("stats"))["total_commands_processed"] <= 2 * 6
