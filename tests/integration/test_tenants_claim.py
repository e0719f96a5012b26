"""The order of claims: tenants of a class by turns, higher classes first, limits held, whatever happens to a job."""

import asyncio
from collections import Counter
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import asynccontextmanager

import pytest
from arq.connections import ArqRedis

from tailrace.broker import keys
from tailrace.demo.valkey import EmbeddedValkey
from tailrace.schemas.errors import StoreFull
from tailrace.worker.queue.queue_store import QueueStore
from tests.lanes_rig import Lanes, lane_keys, lanes_at, tenants_of
from tests.queue_rig import LONG_S, lease_of, left_behind, plain_client
from tests.until import until

FLOOD = 1_000


@pytest.fixture
async def client(redis_url: str) -> AsyncIterator[ArqRedis]:
    async with plain_client(redis_url) as client:
        yield client


@pytest.fixture
async def lanes(redis_url: str, client: ArqRedis) -> AsyncIterator[Lanes]:
    async with lanes_at(redis_url, client) as lanes:
        yield lanes


@pytest.fixture
async def store(redis_url: str) -> AsyncIterator[QueueStore]:
    store = QueueStore(redis_url, lease_s=LONG_S, poll_s=1.0)
    yield store
    await store.close()


@pytest.fixture
async def capped(redis_url: str) -> AsyncIterator[QueueStore]:
    """The store of a worker with a limit of two for each tenant, three for `c` and none for `f`."""
    store = QueueStore(redis_url, lease_s=LONG_S, poll_s=1.0, tenant_limit=2, tenant_limits={"c": 3, "f": 0})
    yield store
    await store.close()


# Turns


async def test_a_flood_of_one_tenant_delays_another_by_one_start(lanes: Lanes, store: QueueStore) -> None:
    # given a tenant with a thousand requests waiting, if another one comes, expect it served second, then by turns
    await lanes.put("a", FLOOD)
    assert await lanes.served(store, 2) == ["a", "a"]
    await lanes.put("b", 3)
    assert await lanes.served(store, 8) == ["a", "b", "a", "b", "a", "b", "a", "a"]


async def test_a_flood_in_the_plain_queue_counts_as_one_tenant(lanes: Lanes, store: QueueStore) -> None:
    # given a thousand requests without a tenant, if two tenants come, expect each served once in a round of three
    await lanes.put("plain", FLOOD)
    assert await lanes.served(store, 2) == ["p", "p"]
    await lanes.put("a", 3)
    await lanes.put("b", 2)
    assert sorted(await lanes.served(store, 6)) == sorted("apbapb")
    assert await lanes.served(store, 4) in (["a", "p", "p", "p"], ["p", "a", "p", "p"])


async def test_the_claim_of_the_last_request_reports_that_none_is_left(lanes: Lanes, store: QueueStore) -> None:
    # given one request in a lane and one in the plain queue, if one claim takes both, expect none left, no wake-up
    # token, and no turn for the empty queue
    await lanes.put("plain", 1)
    await lanes.put("a", 1)
    await lanes.client.delete(keys.WAKE)
    claim = await store.claim(2, "t", is_repeat=False)
    assert (len(claim.jobs), claim.left) == (2, False)
    assert claim.next_s is not None
    assert claim.next_s > 10
    assert await lanes.client.exists(keys.WAKE, keys.LANES) == 0


async def test_a_tenant_that_keeps_submitting_starves_no_other(lanes: Lanes, store: QueueStore) -> None:
    # given floods in a lane and in the plain queue, if a third tenant always has one waiting, expect equal shares
    await lanes.put("plain", FLOOD)
    await lanes.put("a", FLOOD)
    served = ""
    for number in range(1, 31):
        await lanes.put("b", first=number)
        served += tenants_of(await lanes.claim(store))
    assert {tenant: served.count(tenant) for tenant in "pab"} == {"p": 10, "a": 10, "b": 10}


async def test_a_claim_of_many_takes_turns_too(lanes: Lanes, store: QueueStore) -> None:
    # given four tenants with many requests waiting, if one claim takes twelve, expect three of each, oldest first
    for tenant in "abcd":
        await lanes.put(tenant, 20)
    claimed = await lanes.claim(store, 12)
    assert tenants_of(claimed) == "abcd" * 3
    assert [job.id for job, _ in claimed if job.id[0] == "a"] == ["a-0001", "a-0002", "a-0003"]


async def test_requests_of_one_lane_are_served_in_order(lanes: Lanes, store: QueueStore) -> None:
    wanted = await lanes.put("a", 30)
    assert [job.id for _ in range(6) for job, _ in await lanes.claim(store, 5)] == wanted
    assert await lanes.claim(store, 5) == []


# Classes


async def test_a_higher_class_always_goes_first(lanes: Lanes, store: QueueStore) -> None:
    # given requests of all classes, the low ones waiting longest, if they are claimed, expect every high one before the
    # normal ones and every normal one before the low ones, also those that are submitted later
    await lanes.put("l", 3, priority="low")
    await lanes.put("plain", 2)
    await lanes.put("n", 2)
    await lanes.put("h", 2, priority="high")
    await lanes.put("i", 1, priority="high")
    assert sorted(await lanes.served(store, 3)) == ["h", "h", "i"]
    await lanes.put("h", priority="high", first=9)
    assert await lanes.served(store, 1) == ["h"]
    assert sorted(await lanes.served(store, 4)) == ["n", "n", "p", "p"]
    await lanes.put("plain", first=9)
    assert await lanes.served(store, 4) == ["p", "l", "l", "l"]


async def test_one_tenant_may_wait_in_every_class(lanes: Lanes, store: QueueStore) -> None:
    for priority in ("low", "normal", "high"):
        await lanes.enqueue(f"{priority[0]}-1", f"{priority}:same")
    assert await lanes.served(store, 4) == ["h", "n", "l", ""]


async def test_a_priority_needs_no_tenant(lanes: Lanes, capped: QueueStore) -> None:
    # given requests without a tenant in the other classes, if they are claimed, expect their class kept, and no limit
    for number in range(5):
        await lanes.enqueue(f"l{number}", "low:")
        await lanes.enqueue(f"h{number}", "high:")
    await lanes.put("plain", 5)
    claimed = await lanes.claim(capped, 20)
    assert tenants_of(claimed) == "hhhhhppppplllll"
    for _, lease in claimed:
        assert await capped.acknowledge(lease)
    assert await left_behind(lanes.client) == set()


# Limits


async def test_no_more_requests_of_a_tenant_run_than_its_limit(lanes: Lanes, capped: QueueStore) -> None:
    # given a limit of two, of three for one tenant and none for another, if everything is claimed, expect as many of
    # each, and no limit for requests without a tenant
    for tenant in ("a", "b", "c", "f", "plain"):
        await lanes.put(tenant, 6)
    claimed = tenants_of(await lanes.claim(capped, 100))
    assert {tenant: claimed.count(tenant) for tenant in "abcfp"} == {"a": 2, "b": 2, "c": 3, "f": 6, "p": 6}
    claim = await capped.claim(100, "again", is_repeat=False)
    assert (claim.jobs, claim.left) == ([], False)


async def test_a_limit_counts_all_classes_of_a_tenant(lanes: Lanes, capped: QueueStore) -> None:
    # given a tenant with a running low request, if two high ones come, expect one of them to wait, then to be next
    await lanes.put("a", 2, priority="low")
    [(_, low)] = await lanes.claim(capped)
    await lanes.put("a", 2, priority="high", first=10)
    [(high, _)] = await lanes.claim(capped, 10)
    assert high.id == "a-0010"
    assert await capped.acknowledge(low)
    assert [job.id for job, _ in await lanes.claim(capped, 10)] == ["a-0011"]
    assert await lanes.claim(capped, 10) == []


async def test_a_limit_holds_for_several_workers_at_once(lanes: Lanes) -> None:
    # given five workers, if they claim at the same time, expect the limit to hold over all of them
    stores = [QueueStore(lanes.url, lease_s=LONG_S, poll_s=1.0, tenant_limit=3) for _ in range(5)]
    await lanes.put("a", 40)
    await lanes.put("b", 40)
    ended: list[str] = []
    while len(ended) < 80:
        rounds = await asyncio.gather(*(lanes.claim(store, 4) for store in stores))
        claimed = [pair for taken in rounds for pair in taken]
        assert sorted(tenants_of(claimed)) == list("aaabbb")[: len(claimed)] or len(ended) > 70
        assert max(tenants_of(claimed).count(tenant) for tenant in "ab") <= 3
        for job, lease in claimed:
            assert await stores[0].acknowledge(lease)
            ended.append(job.id)
    assert len(set(ended)) == 80
    assert await left_behind(lanes.client) == set()
    for store in stores:
        await store.close()


@pytest.mark.parametrize("how", ["acknowledge", "hand back", "pause", "unqueue"])
async def test_a_freed_slot_wakes_a_worker(lanes: Lanes, capped: QueueStore, how: str) -> None:
    # given a tenant at its limit with one request waiting and no token, if a slot frees, expect a token and its start
    await lanes.put("a", 3)
    (job, lease), _ = await lanes.claim(capped, 3)
    assert await lanes.claim(capped, 3) == []
    await lanes.client.delete(keys.WAKE)
    match how:
        case "acknowledge":
            await capped.acknowledge(lease)
        case "hand back":
            await capped.hand_back(lease, delay_ms=0, why="drained")
        case "pause":
            await capped.hand_back(lease, delay_ms=60_000, why="retry")
        case _:  # cancelled after its owner died and before a takeover
            await lanes.client.delete(keys.lease_key(job.id))
            await lanes.producer.queue.unqueue(job.id, "normal:a")
    assert await lanes.client.llen(keys.WAKE) == 1
    [(following, _)] = await lanes.claim(capped, 3)
    assert following.id == ("a-0001" if how == "hand back" else "a-0003")


async def test_a_freed_slot_that_no_request_waits_for_wakes_no_worker(lanes: Lanes, capped: QueueStore) -> None:
    await lanes.put("a", 2)
    claimed = await lanes.claim(capped, 2)
    await lanes.client.delete(keys.WAKE)
    for _, lease in claimed:
        await capped.acknowledge(lease)
    assert await lanes.client.llen(keys.WAKE) == 0


async def test_a_changed_limit_counts_from_the_next_slot_on(lanes: Lanes, capped: QueueStore) -> None:
    # given a tenant at its limit, if workers with another limit come, expect theirs to hold as soon as a slot frees or
    # a request is submitted, and requests above the limit to run on
    await lanes.put("a", 9)
    (_, lease), _ = await lanes.claim(capped, 9)
    higher = QueueStore(lanes.url, lease_s=LONG_S, poll_s=1.0, tenant_limit=4)
    await lanes.put("a", 1, first=10)
    assert await lanes.served(higher, 1, limit=9) == ["aa"]
    assert len(await lanes.running("a")) == 4
    assert await capped.acknowledge(lease)
    assert await lanes.claim(capped, 9) == []
    assert len(await lanes.running("a")) == 3
    await higher.close()


# Crashes, hand-backs and pauses


async def test_a_crashed_request_keeps_its_slot_and_is_taken_over_though_its_tenant_is_full(
    lanes: Lanes, capped: QueueStore
) -> None:
    # given a tenant at its limit whose worker died, if the lease expires, expect the request to keep its slot, to be
    # taken over before anything that waits, and to free the slot when it ends
    await lanes.put("a", 4)
    await lanes.put("plain", 50)
    claimed = [pair for pair in await lanes.claim(capped, 10) if pair[0].id[0] == "a"]
    assert await lanes.running("a") == {"a-0001", "a-0002"}
    await lanes.expire("a-0001")
    assert await lanes.running("a") == {"a-0001", "a-0002"}
    await lanes.put("h", 1, priority="high")
    [(heir, lease)] = await lanes.claim(capped)
    assert (heir.id, heir.attempt, heir.why, heir.crashes) == ("a-0001", 2, "lease_expired", 1)
    assert await lanes.running("a") == {"a-0001", "a-0002"}
    assert not await capped.acknowledge(claimed[0][1])
    assert await lanes.running("a") == {"a-0001", "a-0002"}
    assert await capped.acknowledge(lease)
    assert await lanes.running("a") == {"a-0002"}


async def test_a_lost_slot_is_counted_again_by_the_takeover(lanes: Lanes, capped: QueueStore) -> None:
    # given a running request and a server that lost the sets of slots, if it is taken over, expect it in them again
    await lanes.put("a", 3)
    [(_, first)] = await lanes.claim(capped)
    await lanes.client.delete(keys.running_key("a"), keys.WATCHED)
    await lanes.expire("a-0001")
    claimed = [pair for _ in range(3) for pair in await lanes.claim(capped)]
    assert sorted(job.id for job, _ in claimed) == ["a-0001", "a-0002"]
    assert await lanes.running("a") == {"a-0001", "a-0002"}
    assert await lanes.client.zcard(keys.WATCHED) == 2
    assert not await capped.acknowledge(first)


async def test_a_renewed_request_is_not_taken_over(lanes: Lanes, redis_url: str) -> None:
    # given a running request whose first lease would have expired, if it was renewed, expect no claim to take it,
    # however often one looks
    short = QueueStore(redis_url, lease_s=0.3, poll_s=1.0)
    await lanes.put("a", 1)
    [(_, lease)] = await lanes.claim(short)
    [(_, first_look)] = await lanes.client.zrange(keys.WATCHED, 0, -1, withscores=True)
    await lanes.client.pexpire(keys.lease_key("a-0001"), 60_000)

    async def renewed_and_looked_at() -> bool:
        assert await short.renew([lease]) == frozenset()
        assert await lanes.claim(short, 5) == []
        [(_, look)] = await lanes.client.zrange(keys.WATCHED, 0, -1, withscores=True)
        return look > first_look + 600

    await until(renewed_and_looked_at)
    await short.close()


async def test_a_request_handed_back_at_once_takes_its_old_place(lanes: Lanes, store: QueueStore) -> None:
    # given running requests, if two are handed back by a drain, expect them first in their lane, without slot or crash
    await lanes.put("a", 5)
    (_, first), (_, second), *_ = await lanes.claim(store, 3)
    for lease in (second, first):
        assert await store.hand_back(lease, delay_ms=0, why="drained")
    assert await lanes.waiting("normal:a") == ["a-0001", "a-0002", "a-0004", "a-0005"]
    assert await lanes.running("a") == {"a-0003"}
    assert await lanes.client.zscore(keys.QUEUE, "a-0001") is None
    [(job, _)] = await lanes.claim(store)
    assert (job.id, job.attempt, job.why, job.crashes) == ("a-0001", 2, "drained", 0)


async def test_a_pause_takes_no_slot_and_ends_in_the_lane(lanes: Lanes, capped: QueueStore) -> None:
    # given a tenant at its limit, if a request pauses before a retry, expect another one to start meanwhile; after the
    # pause, expect the first to wait at its old place for a slot, though others have waited longer in the plain queue
    await lanes.put("a", 4)
    (_, first), (_, second) = await lanes.claim(capped, 5)
    assert await capped.hand_back(first, delay_ms=60_000, why="retry")
    claim = await capped.claim(5, "third", is_repeat=False)
    assert [job.id for job in claim.jobs] == ["a-0003"]
    assert claim.next_s is not None
    assert 50 < claim.next_s <= 60
    await lanes.put("plain", 30)
    await lanes.expire("a-0001")
    assert set(await lanes.served(capped, 3)) == {"p"}
    assert await lanes.waiting("normal:a") == ["a-0001", "a-0004"]
    assert await capped.acknowledge(second)
    claimed = [job for _ in range(2) for job, _ in await lanes.claim(capped)]
    assert [(job.id, job.why) for job in claimed if job.id[0] == "a"] == [("a-0001", "retry")]


async def test_the_end_of_a_pause_is_found_in_the_plain_queue_too(lanes: Lanes, store: QueueStore) -> None:
    # given a paused request that is missing in the watch list, if it is due, expect it back in its lane
    await lanes.put("a", 1)
    [(_, lease)] = await lanes.claim(store)
    await store.hand_back(lease, delay_ms=60_000, why="retry")
    await lanes.expire("a-0001")
    await lanes.client.delete(keys.WATCHED)
    assert await lanes.claim(store) == []
    [(job, _)] = await lanes.claim(store)
    assert (job.id, job.why) == ("a-0001", "retry")


async def test_an_owner_that_was_replaced_cannot_end_a_request_in_a_lane(lanes: Lanes, store: QueueStore) -> None:
    # given a request that was taken over and handed back to its lane, if its first owner acts, expect it refused
    await lanes.put("a", 1)
    [(_, stale)] = await lanes.claim(store)
    await lanes.expire("a-0001")
    [(_, owner)] = await lanes.claim(store)
    assert await store.hand_back(owner, delay_ms=0, why="drained")
    assert not await store.acknowledge(stale)
    assert not await store.hand_back(stale, delay_ms=0, why="retry")
    assert await lanes.waiting("normal:a") == ["a-0001"]
    assert await lanes.served(store, 1) == ["a"]


async def test_every_script_is_idempotent(lanes: Lanes, store: QueueStore) -> None:
    # given scripts whose replies were lost, if each is sent again, expect the effect of one
    await lanes.put("a", 3)
    await lanes.put("a", 1)
    assert await lanes.waiting("normal:a") == ["a-0001", "a-0002", "a-0003"]
    lost = await store.claim(2, "t", is_repeat=False)
    again = await store.claim(2, "t", is_repeat=True)
    assert {(job.id, job.attempt) for job in again.jobs} == {(job.id, 1) for job in lost.jobs}
    assert again.left
    assert await lanes.running("a") == {"a-0001", "a-0002"}
    await lanes.put("a", 3)  # running requests are not enqueued again either
    assert await lanes.waiting("normal:a") == ["a-0003"]
    leases = [lease_of(job, "t", store) for job in again.jobs]
    for _ in range(2):
        assert await store.hand_back(leases[0], delay_ms=0, why="drained")
        assert await store.acknowledge(leases[1])
    assert await lanes.running("a") == set()
    assert len(await lanes.waiting("normal:a")) == 2


async def test_a_request_ended_by_a_plain_arq_worker_frees_its_slot(lanes: Lanes, capped: QueueStore) -> None:
    # given a tenant at its limit, if a worker without our scripts ends its jobs, expect the slots free after a lease
    await lanes.put("a", 3)
    for job, _ in await lanes.claim(capped, 2):
        await lanes.expire(job.id)
        await lanes.client.zrem(keys.QUEUE, job.id)
        await lanes.client.delete(keys.job_key(job.id))
    assert [job.id for job, _ in await lanes.claim(capped, 2)] == ["a-0003"]
    assert await lanes.running("a") == {"a-0003"}


# What is left in Redis, and what it costs


async def test_nothing_is_left_of_lanes(lanes: Lanes, capped: QueueStore) -> None:
    # given lanes, parked lanes and plain jobs, if all have ended, expect no key
    await lanes.put("plain", 3)
    for tenant, priority in (("a", "high"), ("b", "normal"), ("c", "low")):
        await lanes.put(tenant, 7, priority=priority)
    while claimed := await lanes.claim(capped, 5):
        for number, (_, lease) in enumerate(claimed):
            if number % 3 or lease.attempt > 1:
                assert await capped.acknowledge(lease)
            else:
                assert await capped.hand_back(lease, delay_ms=0, why="drained")
    assert await left_behind(lanes.client) == set()


async def test_keys_of_single_requests_have_a_lifetime(lanes: Lanes, store: QueueStore) -> None:
    # given a waiting, a running and a pausing request, expect a lifetime on every key but the queues
    await lanes.put("a", 3)
    (_, lease), _ = await lanes.claim(store, 2)
    await store.hand_back(lease, delay_ms=60_000, why="retry")
    for_ever = {key.decode() for key in await lanes.client.keys() if await lanes.client.pttl(key) < 0}
    assert for_ever == {keys.QUEUE, keys.LANES, keys.WATCHED, keys.lane_key("normal:a")}


@asynccontextmanager
async def commands_of_scripts(url: str, client: ArqRedis) -> AsyncGenerator[list[str]]:
    """The commands that scripts send inside the block; the list is filled at its end."""
    host, _, port = url.removeprefix("redis://").split("/")[0].partition(":")
    reader, writer = await asyncio.open_connection(host, int(port))
    commands: list[str] = []
    try:
        writer.write(b"MONITOR\r\n")
        await reader.readline()
        yield commands
        await client.ping()
        while '"PING"' not in (line := (await reader.readline()).decode()):
            if " lua] " in line:
                commands.append(line.split("] ", 1)[1].strip())
    finally:
        writer.close()
        await writer.wait_closed()


async def test_without_tenants_lanes_cost_one_command_per_claim(redis_url: str, client: ArqRedis) -> None:
    # given requests without tenants and priorities, if they are claimed, renewed and ended, expect one command on lanes
    # per claim and no other; and one command on the watch list per claim, renewal and end
    store = QueueStore(redis_url, lease_s=LONG_S, poll_s=1.0, tenant_limit=2)
    async with lanes_at(redis_url, client) as lanes:
        async with commands_of_scripts(redis_url, client) as commands:
            await lanes.put("plain", 4)
            (_, first), (_, second), (_, third) = await lanes.claim(store, 3)
            await store.renew([first, second])
            await store.acknowledge(first)
            await store.hand_back(second, delay_ms=0, why="drained")
            await store.hand_back(third, delay_ms=1_000, why="retry")
            await lanes.claim(store, 1)
            await lanes.producer.queue.unqueue("plain-0004", None)
    assert len(commands) > 30
    named = [line for line in commands if any(f"tr:queue:{name}" in line for name in ("lane", "running"))]
    assert named == [f'"EXISTS" "{keys.LANES}"'] * 2
    watched = Counter(line.split('"')[1] for line in commands if keys.WATCHED in line)
    assert watched == {"ZRANGEBYSCORE": 2, "ZADD": 3 + 2 + 1 + 1, "ZREM": 3}
    assert await lane_keys(client) == {keys.WATCHED}
    await store.close()


async def test_out_of_memory_takes_nothing_new_out_of_a_lane(redis_url: str) -> None:
    # given a server out of memory, if leases are renewed, ended and handed back, expect success, and claims refused
    with EmbeddedValkey() as valkey:
        store = QueueStore(valkey.url, lease_s=LONG_S, poll_s=1.0, tenant_limit=4)
        async with plain_client(valkey.url) as client, lanes_at(valkey.url, client) as lanes:
            await lanes.put("a", 5)
            await lanes.put("b", 1, priority="high")
            leases = [lease for _, lease in await lanes.claim(store, 4)]
            await client.config_set("maxmemory", 1)
            for limit in (1, 10):
                with pytest.raises(StoreFull):
                    await lanes.claim(store, limit)
            with pytest.raises(StoreFull):
                await lanes.put("a", 1, first=9)
            assert await store.renew(leases) == frozenset()
            assert await store.acknowledge(leases[1])
            assert await store.hand_back(leases[2], delay_ms=0, why="drained")
            assert await store.hand_back(leases[3], delay_ms=5, why="retry")
            await client.config_set("maxmemory", 0)
            assert len(await lanes.claim(store, 10)) >= 3
        await store.close()
