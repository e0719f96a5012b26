"""A server that restarts, hangs, cuts connections or loses replies: no job is lost or run twice."""

import asyncio
import os
import signal
import time
from collections.abc import AsyncIterator, Iterator
from typing import Any

import pytest
from arq.connections import ArqRedis

from tailrace.broker import keys, scripts
from tailrace.broker.script import Script
from tailrace.broker.scripts import ClaimedJob
from tailrace.demo.valkey import EmbeddedValkey
from tailrace.schemas.errors import StoreUnavailable
from tailrace.worker.queue.leases import Lease, Stop
from tailrace.worker.queue.queue_store import QueueStore
from tests.proxy import Proxy
from tests.queue_rig import DEADLINE_S, lease_of, left_behind, plain_client, running
from tests.until import until

LONG_S = 60.0
JOB = ClaimedJob("a", attempt=1, why="first", crashes=0, blamed=False, score=0, envelope=b"")


class Jobs:
    """A job function that runs until `go` is set or its lease is stopped; it always returns as if it had finished."""

    def __init__(self) -> None:
        self.leases: list[Lease] = []
        self.ends: list[str] = []
        self.go = asyncio.Event()

    async def generate(self, ctx: dict[Any, Any]) -> None:
        lease: Lease = ctx["lease"]
        self.leases.append(lease)
        go = asyncio.ensure_future(self.go.wait())
        await asyncio.wait({go, lease.stopped}, return_when=asyncio.FIRST_COMPLETED)
        go.cancel()
        self.ends.append(lease.stopped.result().value if lease.stopped.done() else "finished")

    def attempts(self) -> list[tuple[str, int]]:
        """Job and attempt of every call."""
        return [(lease.request_id, lease.attempt) for lease in self.leases]


@pytest.fixture
def lasting() -> Iterator[EmbeddedValkey]:
    """A server for one test, with an append-only file."""
    with EmbeddedValkey(appendonly=True, options={"appendfsync": "always"}) as valkey:
        yield valkey


@pytest.fixture
async def client(redis_url: str) -> AsyncIterator[ArqRedis]:
    async with plain_client(redis_url) as client:
        yield client


async def nothing_left(client: ArqRedis) -> bool:
    return await left_behind(client) == set()


async def test_a_job_survives_a_restart_that_is_shorter_than_its_lease(lasting: EmbeddedValkey) -> None:
    # given a running job and a long lease, if the server is killed and started again, expect the attempt acknowledged,
    # and the worker ready for the next job
    jobs = Jobs()
    async with plain_client(lasting.url) as client, running(lasting.url, jobs.generate, lease_s=LONG_S):
        await client.enqueue_job("generate", _job_id="a")
        await until(lambda: len(jobs.leases) == 1)
        lasting.kill()
        jobs.go.set()
        await until(lambda: jobs.ends == ["finished"])
        await asyncio.to_thread(lasting.start)
        await until(lambda: nothing_left(client))
        await client.enqueue_job("generate", _job_id="b")
        await until(lambda: nothing_left(client))
    assert jobs.attempts() == [("a", 1), ("b", 1)]


async def test_a_lease_ends_by_the_clock_while_the_server_is_away(lasting: EmbeddedValkey) -> None:
    # given a running job and a short lease, if the server stays down, expect the attempt stopped, and another one when
    # the server is back
    jobs = Jobs()
    async with plain_client(lasting.url) as client, running(lasting.url, jobs.generate, lease_s=0.5):
        await client.enqueue_job("generate", _job_id="a")
        await until(lambda: len(jobs.leases) == 1)
        lasting.kill()
        async with asyncio.timeout(DEADLINE_S):
            assert await jobs.leases[0].stopped is Stop.LEASE_LOST
        assert not jobs.leases[0].holds()
        await asyncio.to_thread(lasting.start)
        await until(lambda: len(jobs.leases) == 2)
        jobs.go.set()
        await until(lambda: nothing_left(client))
    assert jobs.ends == ["lease_lost", "finished"]
    assert jobs.leases[1].attempt > 1


async def test_outages_do_not_count_as_crashes(lasting: EmbeddedValkey) -> None:
    # given a long job that two crashes would end, and two workers, if the server is down for longer than a lease three
    # times, expect the job to go on with no crash counted in the end
    jobs = Jobs()
    settings: dict[str, Any] = {"lease_s": 1.0, "max_crashes": 2}
    async with (
        plain_client(lasting.url) as client,
        running(lasting.url, jobs.generate, **settings) as first,
        running(lasting.url, jobs.generate, **settings) as second,
    ):
        await client.enqueue_job("generate", _job_id="a")
        for outage in range(1, 4):
            await until(lambda outage=outage: len(jobs.leases) == outage)
            await until(lambda: no_crash(client))
            lasting.kill()
            async with asyncio.timeout(DEADLINE_S):
                assert await jobs.leases[-1].stopped is Stop.LEASE_LOST
            assert jobs.leases[-1].cut_off
            await asyncio.to_thread(lasting.start)
        await until(lambda: len(jobs.leases) == 4)
        await until(lambda: no_crash(client))
        jobs.go.set()
        await until(lambda: nothing_left(client))
        assert first.deaths == second.deaths == []
    assert jobs.ends == ["lease_lost"] * 3 + ["finished"]


async def no_crash(client: ArqRedis) -> bool:
    return await client.hget(keys.queue_state_key("a"), "crashes") == b"0"


async def test_a_worker_that_hung_was_not_cut_off(lasting: EmbeddedValkey) -> None:
    # given a worker whose loop hangs for longer than its lease, expect its lease lost, and not by an outage
    jobs = Jobs()
    async with plain_client(lasting.url) as client, running(lasting.url, jobs.generate, lease_s=0.5):
        await client.enqueue_job("generate", _job_id="a")
        await until(lambda: len(jobs.leases) == 1)
        time.sleep(0.8)  # noqa: ASYNC251 - this is the fault
        async with asyncio.timeout(DEADLINE_S):
            assert await jobs.leases[0].stopped is Stop.LEASE_LOST
        assert not jobs.leases[0].cut_off
        jobs.go.set()
        await until(lambda: nothing_left(client))


async def test_a_lease_expires_while_the_server_hangs(lasting: EmbeddedValkey) -> None:
    # given a server that neither answers nor closes, if a lease expires, expect the attempt stopped
    jobs = Jobs()
    async with plain_client(lasting.url) as client, running(lasting.url, jobs.generate, lease_s=0.5):
        await client.enqueue_job("generate", _job_id="a")
        await until(lambda: len(jobs.leases) == 1)
        os.kill(lasting.pid, signal.SIGSTOP)
        try:
            async with asyncio.timeout(DEADLINE_S):
                assert await jobs.leases[0].stopped is Stop.LEASE_LOST
        finally:
            os.kill(lasting.pid, signal.SIGCONT)
        jobs.go.set()
        await until(lambda: nothing_left(client))


async def test_cut_connections_cost_no_attempt(redis_url: str, client: ArqRedis) -> None:
    # given a worker with running jobs, if every connection is cut several times, expect one attempt of each job
    jobs = Jobs()

    async def all_started() -> bool:
        return len(jobs.leases) == await client.zcard(keys.QUEUE)

    async with Proxy(redis_url) as proxy, running(proxy.url, jobs.generate, lease_s=6.0):
        for number in range(6):
            await client.enqueue_job("generate", _job_id=f"j{number}")
            await until(all_started)
            proxy.cut()
        jobs.go.set()
        await until(lambda: nothing_left(client))
    assert jobs.ends == ["finished"] * 6


@pytest.mark.parametrize(
    "script", [scripts.CLAIM, scripts.ACKNOWLEDGE, scripts.RENEW, scripts.HAND_BACK], ids=lambda script: script.name
)
async def test_a_lost_reply_neither_loses_nor_repeats_a_job(
    redis_url: str, client: ArqRedis, script: Script[Any]
) -> None:
    # given a script whose reply is lost, if the worker sends it again, expect each job to begin and end once; jobs that
    # are handed back are due, with no crash counted
    jobs = Jobs()
    async with Proxy(redis_url) as proxy:
        async with running(proxy.url, jobs.generate, lease_s=6.0) as worker:
            await client.enqueue_job("generate", _job_id="first")
            await until(lambda: len(jobs.leases) == 1)
            proxy.lose_reply(script.sha.encode())
            await client.enqueue_job("generate", _job_id="second")
            await until(lambda: len(jobs.leases) == 2)
            if script is scripts.HAND_BACK:
                worker.worker.drain()
            else:
                if script is scripts.RENEW:
                    await until(lambda: not proxy.fault_pending)
                jobs.go.set()
                await until(lambda: nothing_left(client))
        assert not proxy.fault_pending
    assert sorted(jobs.attempts()) == [("first", 1), ("second", 1)]
    if script is scripts.HAND_BACK:
        for job_id in ("first", "second"):
            assert await client.hmget(keys.queue_state_key(job_id), ["held", "crashes"]) == [b"0", b"0"]
            assert await client.exists(keys.lease_key(job_id)) == 0


async def test_a_renewal_has_one_time_limit_for_all_its_replies(redis_url: str) -> None:
    # given a link on which every reply comes within the limit, but those for a new connection and the renewal together
    # do not, if leases are renewed, expect an error, so that the renewal is repeated before the lease expires
    async with Proxy(redis_url) as proxy:
        store = QueueStore(proxy.url, lease_s=1.5, poll_s=LONG_S)
        proxy.delay_s = 0.2  # each way; a new connection needs several replies
        with pytest.raises(StoreUnavailable):
            await store.renew([lease_of(JOB, "token", store)])
        proxy.mend()
        assert await store.renew([lease_of(JOB, "token", store)]) == {"a"}
        await store.close()


async def test_a_silent_cancel_connection_is_replaced(
    redis_url: str, client: ArqRedis, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    # given a cancel connection that delivers nothing any more, not even its end, if the next check finds it, expect
    # another connection, and the cancel that came meanwhile found
    monkeypatch.setattr("tailrace.worker.queue.records.CHANNEL_CHECK_S", 0.1)
    jobs = Jobs()
    async with Proxy(redis_url) as proxy, running(proxy.url, jobs.generate, lease_s=LONG_S, poll_s=LONG_S):
        await client.enqueue_job("generate", _job_id="a")
        await client.lpush(keys.WAKE, 1)
        await until(lambda: len(jobs.leases) == 1)
        await until(lambda: subscribed(client))
        proxy.stall()
        await client.hset(keys.rec_key("a"), "cancel", 1)
        await until(lambda: "does not answer" in caplog.text)
        proxy.resume()
        async with asyncio.timeout(DEADLINE_S):
            assert await jobs.leases[0].stopped is Stop.CANCELLED
        await client.delete(keys.rec_key("a"))


async def subscribed(client: ArqRedis) -> bool:
    return (await client.pubsub_numsub(keys.CANCEL_CHANNEL))[0][1] == 1


async def test_a_drain_ends_while_the_server_is_down(lasting: EmbeddedValkey, monkeypatch: pytest.MonkeyPatch) -> None:
    # given a running job and no server, if the worker drains, expect it to end, and the job to stay in the queue
    monkeypatch.setattr("tailrace.worker.queue.leased_worker.HAND_BACK_S", 0.1)
    jobs = Jobs()
    async with plain_client(lasting.url) as client:
        async with running(lasting.url, jobs.generate, lease_s=0.5, drain_s=0.1) as worker:
            await client.enqueue_job("generate", _job_id="a")
            await until(lambda: len(jobs.leases) == 1)
            lasting.kill()
            await worker.drained()
        await asyncio.to_thread(lasting.start)
        assert await client.zrange(keys.QUEUE, 0, -1) == [b"a"]
        assert await client.exists(keys.job_key("a")) == 1


async def test_a_worker_waits_while_its_server_is_a_replica(redis_url: str, client: ArqRedis) -> None:
    # given a running job, if the server refuses writes for a while, expect the job acknowledged afterwards
    jobs = Jobs()
    async with running(redis_url, jobs.generate, lease_s=LONG_S):
        await client.enqueue_job("generate", _job_id="a")
        await until(lambda: len(jobs.leases) == 1)
        await client.execute_command("REPLICAOF", "127.0.0.1", "1")
        jobs.go.set()
        await until(lambda: len(jobs.ends) == 1)
        await client.execute_command("REPLICAOF", "NO", "ONE")
        await until(lambda: nothing_left(client))
    assert jobs.attempts() == [("a", 1)]
