"""Random walks over everything that can happen to requests of tenants: slots and lanes stay correct, nothing is left.

Each walk has a seed. After every step the keys in Redis are compared with a model that is built from replies alone.
"""

import random
from collections.abc import Awaitable, Callable

import pytest

from tailrace.broker import keys
from tailrace.broker.scripts import ClaimedJob
from tailrace.worker.queue.leases import Lease
from tailrace.worker.queue.queue_store import QueueStore
from tests.lanes_rig import Lanes, lanes_at
from tests.queue_rig import LONG_S, left_behind, plain_client

STEPS = 120
LIMITS = {"a": 1, "b": 3}
LANES = ["high:a", "normal:a", "low:a", "normal:b", "high:c", "low:c", "high:", "low:"]


class Walk:
    """A queue, and a model of it."""

    def __init__(self, seed: int, lanes: Lanes, store: QueueStore) -> None:
        self.dice = random.Random(seed)  # noqa: S311 - the same walk for the same seed
        self.lanes = lanes
        self.client = lanes.client
        self.store = store
        self.lane_of: dict[str, str | None] = {}
        self.leases: dict[str, Lease] = {}
        self.stale: list[Lease] = []
        self.crashed: set[str] = set()
        self.paused: set[str] = set()
        self.rested: set[str] = set()  # their pause is over, but perhaps no claim has seen it yet
        self.ended: list[str] = []

    async def step(self) -> None:
        steps: list[Callable[[], Awaitable[None]]] = [
            *([self.submit] * 4),
            *([self.claim] * 5),
            *([self.acknowledge] * 2),
            *(self.hand_back, self.pause, self.crash, self.cancel, self.wake_the_stale, self.end_a_pause),
        ]
        await self.dice.choice(steps)()

    async def submit(self) -> None:
        request_id = f"r{len(self.lane_of)}"
        lane = self.dice.choice([*LANES, None])
        self.lane_of[request_id] = lane
        if lane is None:
            await self.client.enqueue_job(keys.JOB_FUNCTION, request_id, _job_id=request_id)
        else:
            await self.lanes.enqueue(request_id, lane)

    async def claim(self) -> None:
        for job, lease in await self.lanes.claim(self.store, self.dice.choice([1, 2, 10])):
            self.check_claimed(job)
            self.leases[job.id] = lease

    def check_claimed(self, job: ClaimedJob) -> None:
        assert job.id not in self.ended
        assert job.envelope
        if job.id in self.leases:
            assert job.id in self.crashed
            assert job.why == "lease_expired"
            self.stale.append(self.leases[job.id])
        self.crashed.discard(job.id)
        self.paused.discard(job.id)
        self.rested.discard(job.id)

    def one(self) -> str | None:
        return self.dice.choice(sorted(self.leases)) if self.leases else None

    async def acknowledge(self) -> None:
        if request_id := self.one():
            assert await self.store.acknowledge(self.leases.pop(request_id))
            self.crashed.discard(request_id)
            self.ended.append(request_id)

    async def hand_back(self) -> None:
        if request_id := self.one():
            assert await self.store.hand_back(self.leases.pop(request_id), delay_ms=0, why="drained")
            self.crashed.discard(request_id)

    async def pause(self) -> None:
        if request_id := self.one():
            assert await self.store.hand_back(self.leases.pop(request_id), delay_ms=600_000, why="retry")
            self.crashed.discard(request_id)
            self.paused.add(request_id)

    async def end_a_pause(self) -> None:
        if self.paused:
            request_id = self.dice.choice(sorted(self.paused))
            await self.expire(request_id)
            await self.claim()

    async def expire(self, request_id: str) -> None:
        """Expires a lease or a pause."""
        await self.lanes.expire(request_id)
        if request_id in self.paused:
            self.paused.discard(request_id)
            self.rested.add(request_id)

    async def crash(self) -> None:
        if request_id := self.one():
            await self.lanes.expire(request_id)
            self.crashed.add(request_id)

    async def cancel(self) -> None:
        waiting = sorted(set(self.lane_of) - set(self.ended) - (set(self.leases) - self.crashed))
        if waiting:
            request_id = self.dice.choice(waiting)
            await self.lanes.producer.queue.unqueue(request_id, self.lane_of[request_id])
            self.leases.pop(request_id, None)
            self.crashed.discard(request_id)
            self.paused.discard(request_id)
            self.ended.append(request_id)

    async def wake_the_stale(self) -> None:
        """Lets an owner that was replaced act late."""
        if self.stale:
            lease = self.dice.choice(self.stale)
            if self.dice.random() < 0.5:
                await self.store.acknowledge(lease)
            else:
                await self.store.hand_back(lease, delay_ms=0, why="retry")

    async def check(self) -> None:
        """Compares places, slots, index and watch list with the model."""
        alive = set(self.lane_of) - set(self.ended)
        queued = {member.decode() for member in await self.client.zrange(keys.QUEUE, 0, -1)}
        places = sorted(queued)
        index = {member.decode() for member in await self.client.zrange(keys.LANES, 0, -1)} - {"normal:"}
        parked = {member.decode() for member in await self.client.zrange(keys.PARKED, 0, -1)}
        for lane in LANES:
            waiting = await self.lanes.waiting(lane)
            places += waiting
            tenant = lane.partition(":")[2]
            held = {
                request_id for request_id in self.leases if (self.lane_of[request_id] or ":").endswith(f":{tenant}")
            }
            assert await self.lanes.running(tenant) == (held if tenant else set())
            assert len(held) <= LIMITS.get(tenant, 1_000) or not tenant
            if waiting and lane not in index:
                assert len(held) >= LIMITS[tenant], f"{lane} is parked though there is a slot"
            assert waiting or lane not in index
            assert (lane in parked) == (bool(waiting) and lane not in index)
        assert sorted(places) == sorted(alive), "every request is in exactly one place"
        watched = await self.client.zrange(keys.WATCHED, 0, -1, withscores=True)
        begun = set(self.leases) | self.paused
        assert begun <= {member.decode() for member, _ in watched} <= begun | self.rested
        assert watched == [
            pair for pair in await self.client.zrange(keys.QUEUE, 0, -1, withscores=True) if pair in watched
        ]

    async def settle(self) -> None:
        """Lets workers run without faults until every request has ended."""
        while len(self.ended) < len(self.lane_of):
            for request_id in sorted(self.paused | self.crashed):
                await self.expire(request_id)
            await self.claim()
            assert self.leases, "a request waits, a slot is free, and a claim gives nothing"
            await self.acknowledge()
            await self.check()


@pytest.mark.parametrize("seed", range(12))
async def test_a_random_walk(redis_url: str, seed: int) -> None:
    # given submits, claims, ends, hand-backs, pauses, crashes, cancels and late owners in any order, expect the keys to
    # match the model after each step, every request served in the end, and no key left
    store = QueueStore(redis_url, lease_s=LONG_S, poll_s=1.0, tenant_limits=LIMITS)
    async with plain_client(redis_url) as client, lanes_at(redis_url, client) as lanes:
        walk = Walk(seed, lanes, store)
        for _ in range(STEPS):
            await walk.step()
            await walk.check()
        await walk.settle()
        assert len(walk.ended) == len(set(walk.ended)) == len(walk.lane_of)
        assert await left_behind(client) == set()
    await store.close()
