"""The queue's scripts on a real server: who gets a job, who keeps it, who may end it, and what is left."""

import asyncio
from collections.abc import AsyncIterator

import pytest
from arq.connections import ArqRedis

from tailrace.broker import keys
from tailrace.broker.scripts import Claim, ClaimedJob
from tailrace.demo.valkey import EmbeddedValkey
from tailrace.schemas.errors import AttemptLost, StoreFull
from tailrace.worker.queue.leases import Lease
from tailrace.worker.queue.queue_store import QueueStore
from tailrace.worker.queue.records import Records
from tests.queue_rig import LONG_S, lease_of, left_behind, plain_client
from tests.until import until

SHORT_S = 0.2


@pytest.fixture
async def client(redis_url: str) -> AsyncIterator[ArqRedis]:
    async with plain_client(redis_url) as client:
        yield client


@pytest.fixture
async def store(redis_url: str) -> AsyncIterator[QueueStore]:
    store = QueueStore(redis_url, lease_s=LONG_S, poll_s=1.0)
    yield store
    await store.close()


@pytest.fixture
async def short(redis_url: str) -> AsyncIterator[QueueStore]:
    """A store whose leases run out soon."""
    store = QueueStore(redis_url, lease_s=SHORT_S, poll_s=1.0)
    yield store
    await store.close()


async def one(store: QueueStore, token: str) -> tuple[ClaimedJob, Lease]:
    """Claims one job as soon as there is one."""
    claims: list[Claim] = []

    async def claimed() -> bool:
        claims.append(await store.claim(1, token, is_repeat=False))
        return bool(claims[-1].jobs)

    await until(claimed)
    job = claims[-1].jobs[0]
    return job, lease_of(job, token, store)


async def test_a_job_is_given_to_one_claim_alone(redis_url: str, client: ArqRedis) -> None:
    # given 200 due jobs, if four workers claim at the same time, expect every job given out once, with its envelope
    for number in range(200):
        await client.enqueue_job("generate", number, _job_id=f"j{number}")
        await client.zadd(keys.QUEUE, {f"j{number}": 1})  # due, whatever our own clock says
    stores = [QueueStore(redis_url, lease_s=LONG_S, poll_s=1.0) for _ in range(4)]
    claims = await asyncio.gather(
        *(store.claim(7, f"{n}-{n2}", is_repeat=False) for n2 in range(10) for n, store in enumerate(stores))
    )
    given = [job for claim in claims for job in claim.jobs]
    assert sorted(job.id for job in given) == sorted(f"j{number}" for number in range(200))
    assert all(job.envelope and job.attempt == 1 and job.why == "first" and job.crashes == 0 for job in given)
    for store in stores:
        await store.close()


async def test_running_jobs_are_out_of_sight(client: ArqRedis, store: QueueStore) -> None:
    # given a job that runs, if another worker looks, expect nothing for it until the lease's end, and the score there
    await client.enqueue_job("generate", "a", _job_id="a")
    await one(store, "t")
    claim = await store.claim(10, "u", is_repeat=False)
    assert claim.jobs == []
    assert not claim.left
    assert claim.next_s is not None
    assert LONG_S - 10 < claim.next_s <= LONG_S
    assert await client.get(keys.lease_key("a")) == b"t"


async def test_a_claim_says_when_the_next_job_is_due(client: ArqRedis, store: QueueStore) -> None:
    # given an empty queue, then a deferred job, if somebody claims, expect no due time, then one within the delay
    assert (await store.claim(1, "t", is_repeat=False)).next_s is None
    await client.enqueue_job("generate", "a", _job_id="a", _defer_by=30)
    claim = await store.claim(1, "u", is_repeat=False)
    assert claim.jobs == []
    assert claim.next_s is not None
    assert 20 < claim.next_s < 31


async def test_who_leaves_due_jobs_behind_wakes_another(client: ArqRedis, store: QueueStore) -> None:
    # given two due jobs and no wake-up token, if a claim takes one, expect a token for the other; and none after the
    # last
    for job_id in "ab":
        await client.enqueue_job("generate", job_id, _job_id=job_id)
        await client.zadd(keys.QUEUE, {job_id: 1})
    assert (await store.claim(1, "t", is_repeat=False)).left
    assert await client.llen(keys.WAKE) == 1
    assert await client.ttl(keys.WAKE) > 0
    await store.wait_for_work(1.0)
    assert not (await store.claim(1, "u", is_repeat=False)).left
    assert await client.llen(keys.WAKE) == 0


async def test_a_claim_repeated_after_a_lost_reply_gives_the_same_jobs(client: ArqRedis, store: QueueStore) -> None:
    # given a claim whose reply nobody read, if it is sent again with its token, expect its jobs, numbers unchanged, no
    # others
    for job_id in "abc":
        await client.enqueue_job("generate", job_id, _job_id=job_id)
        await client.zadd(keys.QUEUE, {job_id: 1})
    unheard = await store.claim(2, "t", is_repeat=False)
    again = await store.claim(2, "t", is_repeat=True)
    assert {(job.id, job.attempt, job.why) for job in again.jobs} == {(job.id, 1, "first") for job in unheard.jobs}
    assert {job.envelope for job in again.jobs} == {job.envelope for job in unheard.jobs}
    # given a claim that never arrived, if it is repeated, expect an ordinary claim
    assert len((await store.claim(2, "u", is_repeat=True)).jobs) == 1


async def test_renewal_keeps_and_says_who_has_lost(client: ArqRedis, store: QueueStore) -> None:
    # given two leases near their end, one of them another's by now, if they are renewed, expect the first one whole
    # again
    leases: list[Lease] = []
    for job_id in "ab":
        await client.enqueue_job("generate", job_id, _job_id=job_id)
        leases.append((await one(store, f"t{job_id}"))[1])
    await client.pexpire(keys.lease_key("a"), 5_000)
    await client.zadd(keys.QUEUE, {"a": 1})
    await client.set(keys.lease_key("b"), "another", px=5_000)
    assert await store.renew(leases) == {"b"}
    assert await client.pttl(keys.lease_key("a")) > 5_000
    assert await client.pttl(keys.lease_key("b")) <= 5_000
    assert (await store.claim(10, "u", is_repeat=False)).jobs == []


async def test_cancels_are_looked_up(redis_url: str, client: ArqRedis, store: QueueStore) -> None:
    # given two that run, one with its record marked for cancelling, its message unheard, if asked, expect it named
    leases: list[Lease] = []
    for job_id in "ab":
        await client.enqueue_job("generate", job_id, _job_id=job_id)
        leases.append((await one(store, job_id))[1])
    await client.hset(keys.rec_key("b"), "cancel", 1)
    records = Records(redis_url, lease_s=LONG_S)
    assert await records.asked_to_cancel(leases) == {"b"}
    await records.close()


async def test_renewal_revives_nothing(client: ArqRedis, store: QueueStore) -> None:
    # given a job that was acknowledged while its renewal was under way, if that arrives, expect no trace of the job
    await client.enqueue_job("generate", "a", _job_id="a")
    _, lease = await one(store, "t")
    assert await store.acknowledge(lease)
    assert await store.renew([lease]) == {"a"}
    assert await left_behind(client) == set()


async def test_a_silent_owner_is_replaced_and_counted(client: ArqRedis, short: QueueStore) -> None:
    # given an owner that neither renews nor ends, if its lease is over, expect the next attempt, and one crash more
    # each time
    await client.enqueue_job("generate", "a", _job_id="a")
    seen = [(await one(short, f"t{n}"))[0] for n in range(3)]
    assert [(job.attempt, job.why, job.crashes) for job in seen] == [
        (1, "first", 0),
        (2, "lease_expired", 1),
        (3, "lease_expired", 2),
    ]


async def test_what_has_begun_goes_before_a_backlog(client: ArqRedis, store: QueueStore, short: QueueStore) -> None:
    # given jobs whose worker died, that were drained, and that pause, then thousands that wait, all of them due for
    # longer than the leases that ran out, if somebody claims, expect what has begun first, then the backlog's oldest
    leases: dict[str, Lease] = {}
    for job_id, owner in (("drained", store), ("paused", store), ("ended", store), ("orphan", short)):
        await client.enqueue_job("generate", job_id, _job_id=job_id)
        await client.zadd(keys.QUEUE, {job_id: 1_000 + len(leases)})
        leases[job_id] = (await one(owner, job_id))[1]
    await client.zadd(keys.QUEUE, {f"j{number:04}": 2_000 + number for number in range(3_000)})
    assert await store.hand_back(leases["paused"], delay_ms=1, why="retry")
    assert await store.hand_back(leases["drained"], delay_ms=0, why="drained")
    assert await store.acknowledge(leases["ended"])

    async def over() -> bool:
        seconds, micros = await client.time()
        due = await client.zcount(keys.WATCHED, "-inf", seconds * 1000 + micros // 1000)
        return due == 2 and await client.exists(keys.lease_key("orphan")) == 0

    await until(over)
    claim = await store.claim(4, "u", is_repeat=False)
    assert [(job.id, job.why, job.attempt) for job in claim.jobs] == [
        ("paused", "retry", 2),
        ("orphan", "lease_expired", 2),
        ("drained", "drained", 2),
        ("j0000", "first", 1),
    ]
    assert {score for _, score in await client.zrange(keys.WATCHED, 0, -1, withscores=True)} == {
        await client.zscore(keys.QUEUE, job.id) for job in claim.jobs
    }


async def test_taken_over_it_keeps_its_place(client: ArqRedis, store: QueueStore, short: QueueStore) -> None:
    # given a job that was taken over and one that paused, if their owners drain, expect the places they once had
    leases: list[Lease] = []
    for place, job_id in enumerate("ab"):
        await client.zadd(keys.QUEUE, {job_id: place + 1})
        leases.append((await one(short, job_id))[1])
    await short.hand_back(leases[1], delay_ms=1, why="retry")
    for _, lease in [await one(store, token) for token in "tu"]:
        assert await store.hand_back(lease, delay_ms=0, why="drained")
    assert await client.zrange(keys.QUEUE, 0, -1, withscores=True) == [(b"a", 1), (b"b", 2)]
    assert await client.exists(keys.WATCHED) == 0


async def test_who_was_cut_off_has_not_crashed(client: ArqRedis, short: QueueStore, store: QueueStore) -> None:
    # given three owners, each replaced by the next, if two come back and say that the server had not answered, expect
    # one crash less for each, however often it says so; of who says nothing of the kind, expect it to stand
    await client.enqueue_job("generate", "a", _job_id="a")
    _, first = await one(short, "t")
    _, second = await one(short, "u")
    _, third = await one(short, "v")
    job, _ = await one(store, "w")
    assert (job.crashes, job.attempt) == (3, 4)
    first.cut_off = third.cut_off = True
    for lease, left in ((first, b"2"), (first, b"2"), (second, b"2"), (third, b"1")):
        assert not await store.hand_back(lease, delay_ms=0, why="lease_expired")
        assert await client.hget(keys.queue_state_key("a"), "crashes") == left
    assert await client.get(keys.lease_key("a")) == b"w"


async def test_a_hand_back_costs_no_crash_and_says_why(client: ArqRedis, store: QueueStore) -> None:
    # given an owner that drains, if it hands the job back, expect it due at once, no crash counted, somebody woken
    await client.enqueue_job("generate", "a", _job_id="a")
    _, lease = await one(store, "t")
    assert await store.hand_back(lease, delay_ms=0, why="drained")
    assert await client.llen(keys.WAKE) == 1
    assert await client.exists(keys.lease_key("a")) == 0
    job, _ = await one(store, "u")
    assert (job.attempt, job.why, job.crashes) == (2, "drained", 0)


async def test_a_hand_back_with_a_delay_is_due_later(client: ArqRedis, store: QueueStore) -> None:
    # given a delay, if the job is handed back, expect no claim to give it out before, and an idle worker told of the
    # time
    await client.enqueue_job("generate", "a", _job_id="a")
    _, lease = await one(store, "t")
    assert await store.hand_back(lease, delay_ms=30_000, why="retry")
    assert await client.llen(keys.WAKE) == 1
    claim = await store.claim(1, "u", is_repeat=False)
    assert claim.jobs == []
    assert claim.next_s is not None
    assert 20 < claim.next_s < 31


async def test_acknowledged_leaves_nothing(client: ArqRedis, store: QueueStore) -> None:
    # given a job with every key it can have, if its owner acknowledges, expect none of them; and the same for a second
    # time
    await client.enqueue_job("generate", "a", _job_id="a")
    await client.set(keys.retry_key("a"), 3)
    await client.zadd(keys.ABORT, {"a": 1})
    _, lease = await one(store, "t")
    assert await store.acknowledge(lease)
    assert await left_behind(client) == set()
    assert await store.acknowledge(lease)


async def test_who_was_replaced_can_end_nothing(client: ArqRedis, short: QueueStore, store: QueueStore) -> None:
    # given an owner whose lease ran out and whose job another has, if it wakes, expect all its verbs refused
    await client.enqueue_job("generate", "a", _job_id="a")
    _, stale = await one(short, "t")
    _, owner = await one(store, "u")
    assert not await store.acknowledge(stale)
    assert not await store.hand_back(stale, delay_ms=0, why="retry")
    with pytest.raises(AttemptLost):
        await stale.next_attempt()
    assert await client.get(keys.lease_key("a")) == b"u"
    assert await client.exists(keys.job_key("a")) == 1
    # given that the other has handed it back meanwhile, expect them refused all the same
    assert await store.hand_back(owner, delay_ms=0, why="drained")
    assert not await store.acknowledge(stale)
    assert not await store.hand_back(stale, delay_ms=60_000, why="retry")
    assert (await one(store, "v"))[0].why == "drained"


async def test_an_owner_that_is_late_but_not_replaced_may_end(client: ArqRedis, short: QueueStore) -> None:
    # given a lease that ran out while nobody took the job, if its owner hands back, expect no crash counted
    await client.enqueue_job("generate", "a", _job_id="a")
    _, lease = await one(short, "t")

    async def run_out() -> bool:
        return await client.exists(keys.lease_key("a")) == 0

    await until(run_out)
    assert await short.hand_back(lease, delay_ms=0, why="lease_expired")
    job, late = await one(short, "u")
    assert (job.why, job.crashes) == ("lease_expired", 0)
    await until(run_out)
    assert await short.acknowledge(late)
    assert await left_behind(client) == set()


async def test_a_hand_back_sent_twice_takes_nothing_from_the_next_owner(client: ArqRedis, store: QueueStore) -> None:
    # given a hand-back whose reply was lost, if it is sent again, before and after the next claim, expect nothing
    # changed
    await client.enqueue_job("generate", "a", _job_id="a")
    _, lease = await one(store, "t")
    assert await store.hand_back(lease, delay_ms=0, why="drained")
    assert await store.hand_back(lease, delay_ms=60_000, why="drained")
    job, _ = await one(store, "u")
    assert job.attempt == 2
    assert not await store.hand_back(lease, delay_ms=0, why="drained")
    assert await client.get(keys.lease_key("a")) == b"u"


async def test_numbers_grow_under_one_lease_and_over_what_the_log_has_seen(client: ArqRedis, store: QueueStore) -> None:
    # given a log that has seen attempt 6, as after a queue entry made anew, if its owner says so, expect 7, then 8 and
    # 9, and no way back
    await client.enqueue_job("generate", "a", _job_id="a")
    _, lease = await one(store, "t")
    assert await lease.next_attempt(above=6) == 7
    assert [await lease.next_attempt(above=2), await lease.next_attempt(), lease.attempt] == [8, 9, 9]
    await store.hand_back(lease, delay_ms=0, why="retry")
    assert (await one(store, "u"))[0].attempt == 10


async def test_a_job_of_a_stock_worker_is_left_alone(client: ArqRedis, store: QueueStore) -> None:
    # given an in-progress key that a stock worker set, score still due, if somebody claims, expect the job not given
    # out
    await client.enqueue_job("generate", "a", _job_id="a")
    await client.psetex(keys.lease_key("a"), 30_000, b"1")
    claim = await store.claim(1, "t", is_repeat=False)
    assert claim.jobs == []
    assert claim.next_s is not None
    assert 20 < claim.next_s < 31


async def test_a_lease_that_ends_this_very_millisecond_delays_nobody(client: ArqRedis, store: QueueStore) -> None:
    # given leases at their last millisecond, when the key still stands and the score is due, if somebody claims, expect
    # each job at once, and not a lease later
    for number in range(50):
        await client.enqueue_job("generate", _job_id=f"j{number}")
        async with client.pipeline() as together:
            together.psetex(keys.lease_key(f"j{number}"), 2, b"1")
            together.zadd(keys.QUEUE, {f"j{number}": 1})
            await together.execute()
        assert (await one(store, f"t{number}"))[0].id == f"j{number}"


async def test_an_expired_envelope_is_given_out_all_the_same(client: ArqRedis, store: QueueStore) -> None:
    # given an entry whose envelope is gone, if somebody claims, expect it with an empty one, so that it can be told
    await client.zadd(keys.QUEUE, {"a": 1})
    job, _ = await one(store, "t")
    assert job.envelope == b""


async def test_every_key_has_a_lifetime(client: ArqRedis, store: QueueStore) -> None:
    # given a running job, one handed back and one that retried, if nobody comes any more, expect all but the queue to
    # go
    leases: list[Lease] = []
    for job_id in "abc":
        await client.enqueue_job("generate", job_id, _job_id=job_id)
        leases.append((await one(store, job_id))[1])
    await store.hand_back(leases[0], delay_ms=0, why="drained")
    await leases[1].next_attempt()
    found = {key: await client.pttl(key) for key in await client.keys()}
    assert [found.pop(place.encode()) for place in (keys.QUEUE, keys.WATCHED)] == [-1, -1]
    assert all(ttl > 0 for ttl in found.values()), found


async def test_out_of_memory_takes_no_new_job_and_loses_no_running_one() -> None:
    # given a full server, if leases are renewed, ended and handed back, expect that to work, and a claim to be refused
    with EmbeddedValkey() as valkey:
        store = QueueStore(valkey.url, lease_s=LONG_S, poll_s=1.0)
        async with plain_client(valkey.url) as client:
            leases: list[Lease] = []
            for job_id in "abc":
                await client.enqueue_job("generate", job_id, _job_id=job_id)
                leases.append((await one(store, job_id))[1])
            await client.enqueue_job("generate", "d", _job_id="d")
            await client.zadd(keys.QUEUE, {"d": 1})  # due, whatever our own clock says
            await client.config_set("maxmemory", 1)
            with pytest.raises(StoreFull):
                await store.claim(1, "t", is_repeat=False)
            assert await store.renew(leases) == frozenset()
            assert await store.acknowledge(leases[0])
            assert await store.hand_back(leases[1], delay_ms=0, why="drained")
            await client.config_set("maxmemory", 0)
            assert {(await one(store, token))[0].id for token in "uv"} == {"b", "d"}
        await store.close()
