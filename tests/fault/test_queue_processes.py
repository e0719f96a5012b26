"""Real processes and signals: killed workers are replaced, hung ones are fenced off, drained ones leave nothing."""

import asyncio
import os
import random
import signal
import subprocess
from collections import Counter
from collections.abc import AsyncIterator, Iterator
from functools import partial

import pytest
from arq.connections import ArqRedis

from tailrace.broker import keys
from tests.fault.queue_program import EVENTS
from tests.fault.queue_workers import LEASE_S, Start, events, queue_workers
from tests.queue_rig import left_behind, plain_client, wake
from tests.until import until

LONG_S = 60.0


@pytest.fixture
async def client(redis_url: str) -> AsyncIterator[ArqRedis]:
    async with plain_client(redis_url) as client:
        yield client


@pytest.fixture
def start(redis_url: str) -> Iterator[Start]:
    with queue_workers(redis_url) as start:
        yield start


async def seen(client: ArqRedis, event: str, times: int) -> bool:
    return [entry["event"] for entry in await events(client)].count(event) >= times


async def ended(worker: subprocess.Popen[bytes]) -> int:
    await until(lambda: worker.poll() is not None, 20.0)
    return worker.returncode


async def submit(client: ArqRedis, job_id: str, runs_s: float) -> None:
    await client.enqueue_job("generate", runs_s, _job_id=job_id)
    await wake(client)


async def test_a_killed_worker_is_replaced(client: ArqRedis, start: Start) -> None:
    # given a job whose worker is killed, if another worker is idle, expect it to begin the next attempt
    victim = start()
    await submit(client, "a", LONG_S)
    await until(lambda: seen(client, "started", 1))
    heir = start()
    await until(lambda: idle_workers(client, 2))
    victim.kill()
    await until(lambda: seen(client, "started", 2), LEASE_S + 5)
    entry = (await events(client))[-1]
    assert (entry["pid"], entry["attempt"], entry["why"], entry["crashes"]) == (heir.pid, 2, "lease_expired", 1)


async def test_a_backlog_does_not_delay_a_takeover(client: ArqRedis, start: Start) -> None:
    # given a job whose worker is killed, and thousands of jobs that are due for longer, expect its next attempt to
    # begin while most of them still wait
    victim = start(max_jobs=1)
    await submit(client, "a", LONG_S)
    await until(lambda: seen(client, "started", 1))
    victim.kill()
    for number in range(3_000):
        await client.enqueue_job("generate", 0.05, _job_id=f"j{number}")
    await client.zadd(keys.QUEUE, {f"j{number}": number + 1 for number in range(3_000)})
    start(max_jobs=5)
    await until(lambda: attempts_of(client, "a", 2), LEASE_S + 10)
    assert await client.zcount(keys.QUEUE, 1, 3_000) > 1_500


async def attempts_of(client: ArqRedis, job: str, count: int) -> bool:
    return [entry["job"] for entry in await events(client) if entry["event"] == "started"].count(job) >= count


async def idle_workers(client: ArqRedis, count: int) -> bool:
    return [peer["cmd"] for peer in await client.client_list()].count("blpop") >= count


async def test_a_worker_that_hung_cannot_end_its_job(client: ArqRedis, start: Start) -> None:
    # given a stopped worker whose job was taken over, if it continues, expect its lease lost, and its end refused
    hung = start()
    await submit(client, "a", LONG_S)
    await until(lambda: seen(client, "started", 1))
    heir = start()
    os.kill(hung.pid, signal.SIGSTOP)
    await until(lambda: seen(client, "started", 2))
    token = await client.get(keys.lease_key("a"))
    os.kill(hung.pid, signal.SIGCONT)
    await until(lambda: seen(client, "lease_lost", 1))
    hung.terminate()
    assert await ended(hung) == 0
    assert await client.get(keys.lease_key("a")) == token
    assert await client.exists(keys.job_key("a")) == 1
    assert [(entry["event"], entry["pid"], entry["attempt"]) for entry in await events(client)] == [
        ("started", hung.pid, 1),
        ("started", heir.pid, 2),
        ("lease_lost", hung.pid, 1),
    ]


@pytest.mark.parametrize("by", [signal.SIGTERM, signal.SIGINT])
async def test_a_drained_worker_leaves_no_lease(client: ArqRedis, start: Start, by: signal.Signals) -> None:
    # given a worker that claims, runs and ends jobs, if it gets a signal at a random moment, expect no lease left, each
    # job either finished or due at once, and no crash counted; eight times
    dice = random.Random(by)  # noqa: S311 - the same moments in every run
    for round_ in range(8):
        worker = start(max_jobs=20, lease_s=LONG_S)
        for number in range(60):
            await client.enqueue_job("generate", dice.choice([0.0, 0.05, LONG_S]), _job_id=f"t{round_}-{number}")
        await until(lambda: seen(client, "started", 1))
        await asyncio.sleep(dice.random() * 0.1)
        worker.send_signal(by)
        assert await ended(worker) == 0
        assert await client.keys("arq:in-progress:*") == []
        waiting = [job.decode() for job in await client.zrange(keys.QUEUE, 0, -1)]
        seconds, _ = await client.time()
        assert await client.zcount(keys.QUEUE, "-inf", (seconds + 1) * 1000) == len(waiting)
        finished = Counter(entry["job"] for entry in await events(client) if entry["event"] == "finished")
        assert set(finished) == {f"t{round_}-{number}" for number in range(60)} - set(waiting)
        assert set(finished.values()) == {1}
        for job in waiting:
            state = await client.hgetall(keys.queue_state_key(job))
            assert (state.get(b"held", b"0"), state.get(b"crashes", b"0")) == (b"0", b"0")
        await client.flushall()


async def test_a_second_signal_hurries(client: ArqRedis, start: Start) -> None:
    # given a long grace period, if a second signal comes, expect the job handed back and the worker ended
    worker = start(drain_s=LONG_S)
    await submit(client, "a", LONG_S)
    await until(lambda: seen(client, "started", 1))
    worker.send_signal(signal.SIGTERM)
    worker.send_signal(signal.SIGINT)  # a different one: two of the same kind, sent at once, arrive as one
    assert await ended(worker) == 0
    assert [entry["event"] for entry in await events(client)] == ["started", "drained"]
    assert await client.hmget(keys.queue_state_key("a"), ["held", "why"]) == [b"0", b"drained"]


async def test_a_rolling_restart_finishes_every_job_once(client: ArqRedis, start: Start) -> None:
    # given three workers under load, if one after the other is drained and replaced, expect every job finished exactly
    # once, nothing left, no crash counted, and one start per job and drain
    fleet = [start(max_jobs=10, drain_s=0.05, lease_s=LONG_S) for _ in range(3)]
    for number in range(300):
        await submit(client, f"j{number}", 0.1)
    for place in range(3):
        await until(partial(seen, client, "finished", 60 * (place + 1)), 30.0)
        fleet[place].terminate()
        assert await ended(fleet[place]) == 0
        fleet[place] = start(max_jobs=10, lease_s=LONG_S)
    await until(lambda: nothing_left(client), 30.0)
    noted = await events(client)
    finished = Counter(entry["job"] for entry in noted if entry["event"] == "finished")
    assert finished == Counter({f"j{number}": 1 for number in range(300)})
    assert [entry for entry in noted if entry["crashes"] or entry["event"] == "lease_lost"] == []
    started = Counter(entry["event"] for entry in noted)
    assert started["started"] == 300 + started["drained"]


async def nothing_left(client: ArqRedis) -> bool:
    return await left_behind(client) == {EVENTS.encode()}
