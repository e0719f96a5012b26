"""Limits of tenants with real workers that are killed, hang or drain: no slot leaks, none is given twice."""

import asyncio
import os
import random
import signal
from collections import Counter
from collections.abc import AsyncIterator, Iterator

import pytest
from arq.connections import ArqRedis

from tailrace.broker import keys
from tests.fault.queue_program import EVENTS
from tests.fault.queue_workers import LEASE_S, Start, events, queue_workers
from tests.lanes_rig import Lanes, lane_keys, lanes_at
from tests.queue_rig import left_behind, plain_client
from tests.until import until

LONG_S = 60.0
LIMIT = 2


@pytest.fixture
async def client(redis_url: str) -> AsyncIterator[ArqRedis]:
    async with plain_client(redis_url) as client:
        yield client


@pytest.fixture
async def lanes(redis_url: str, client: ArqRedis) -> AsyncIterator[Lanes]:
    async with lanes_at(redis_url, client) as lanes:
        yield lanes


@pytest.fixture
def start(redis_url: str) -> Iterator[Start]:
    with queue_workers(redis_url, tenant_limit=LIMIT, max_crashes=1_000) as start:
        yield start


async def happened(client: ArqRedis, event: str) -> list[str]:
    return [entry["job"] for entry in await events(client) if entry["event"] == event]


@pytest.mark.parametrize("by", [signal.SIGKILL, signal.SIGSTOP])
async def test_a_lost_worker_leaks_no_slot(client: ArqRedis, lanes: Lanes, start: Start, by: signal.Signals) -> None:
    # given a tenant at its limit, if its worker is killed or hangs, expect the same requests to hold its slots before
    # and after the takeover, and no other request of it to start until they have ended
    victim = start()
    for number in range(1, 4):
        await lanes.enqueue(f"a-{number}", "normal:a", LONG_S if number < 3 else 0.01)

    async def begun() -> bool:
        assert await lanes.running("a") <= {"a-1", "a-2"}
        return len(await happened(client, "started")) == 2

    await until(begun)
    heir = start()
    os.kill(victim.pid, by)

    async def taken_over() -> bool:
        assert await lanes.running("a") == {"a-1", "a-2"}
        return len(await happened(client, "started")) == 4

    await until(taken_over, LEASE_S + 10)
    assert [entry for entry in await events(client) if entry["event"] == "started" and entry["job"] == "a-3"] == []
    later = (await events(client))[2:]
    assert {(entry["job"], entry["pid"], entry["attempt"], entry["crashes"]) for entry in later} == {
        ("a-1", heir.pid, 2, 1),
        ("a-2", heir.pid, 2, 1),
    }
    await lanes.enqueue("b-1", "normal:b", 0.01)  # another tenant is not affected
    await until(lambda: ended(client, "b-1"))
    assert await lanes.running("a") == {"a-1", "a-2"}
    # given that both are handed back and then cancelled, expect the third one to run, and nothing left
    heir.send_signal(signal.SIGTERM)
    await until(lambda: heir.poll() is not None)
    assert await lanes.running("a") == set()
    for request_id in ("a-1", "a-2"):
        await lanes.producer.queue.unqueue(request_id, "normal:a")
    start()
    await until(lambda: ended(client, "a-3"))
    await until(lambda: nothing_left(client))
    if by is signal.SIGSTOP:
        os.kill(victim.pid, signal.SIGCONT)
        victim.terminate()
        await until(lambda: victim.poll() is not None, 20.0)
        assert await lane_keys(client) == set()


async def ended(client: ArqRedis, request_id: str) -> bool:
    return request_id in await happened(client, "finished")


async def nothing_left(client: ArqRedis) -> bool:
    return await left_behind(client) == {EVENTS.encode()}


async def test_limits_hold_while_workers_die(client: ArqRedis, lanes: Lanes, start: Start) -> None:
    # given three tenants with many requests, if three workers are killed and drained at random, expect no tenant to
    # ever exceed its limit, every request to finish, and no key left
    dice = random.Random(4)  # noqa: S311 - the same faults in every run
    fleet = [start() for _ in range(3)]
    wanted: list[str] = []
    for number in range(40):
        for tenant, priority in (("a", "high"), ("b", "normal"), ("c", "low")):
            wanted.append(f"{tenant}-{number}")
            await lanes.enqueue(wanted[-1], f"{priority}:{tenant}", 0.05 + dice.random() * 0.1)

    async def all_finished() -> bool:
        leases = Counter(key.decode().rpartition(":")[2][0] for key in await client.keys("arq:in-progress:*"))
        slots = Counter({tenant: len(await lanes.running(tenant)) for tenant in "abc"})
        assert max(leases.values(), default=0) <= LIMIT, leases
        assert max(slots.values()) <= LIMIT, slots
        return set(await happened(client, "finished")) == set(wanted)

    async def disturb() -> None:
        for number in range(8):
            place = dice.randrange(3)
            await until(lambda goal=10 * number: finished_so_many(client, goal), 60.0)
            fleet[place].send_signal(dice.choice([signal.SIGKILL, signal.SIGTERM]))
            await asyncio.to_thread(fleet[place].wait)
            fleet[place] = start()

    async with asyncio.TaskGroup() as tasks:
        tasks.create_task(disturb())
        tasks.create_task(until(all_finished, 90.0))
    await until(lambda: nothing_left(client), 30.0)
    assert await client.zcard(keys.QUEUE) == 0


async def finished_so_many(client: ArqRedis, count: int) -> bool:
    return len(set(await happened(client, "finished"))) >= count
