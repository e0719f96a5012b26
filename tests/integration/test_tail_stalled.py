"""Stalls: readers get a report if nobody works on a request, and none while somebody does, however quiet it is."""

import asyncio
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from itertools import pairwise

import pytest
from redis.asyncio import Redis

from tailrace.broker import keys
from tailrace.broker.script import Verdict
from tailrace.broker.scripts import SignsStatus
from tailrace.demo.simulator import Simulator
from tailrace.producers.client import Client
from tailrace.producers.options import ClientOptions
from tailrace.producers.tail.log_tail import Tailed
from tailrace.producers.tail.stalled import StallWatch
from tailrace.schemas.deltas import Stalled, StalledWhy
from tailrace.schemas.errors import StoreUnavailable
from tailrace.schemas.ids import BEGINNING
from tailrace.schemas.priority import DEFAULT_PRIORITY
from tests.rig import KEY, request_for, worker_task
from tests.scribe import Scribe
from tests.until import until

AFTER_S = 0.2
QUIET = {"steps": [{"kind": "text", "text": "At last."}], "pace": {"first_byte_delay_s": 2.0}}


@pytest.fixture
async def client(redis_url: str) -> AsyncGenerator[Client]:
    async with Client(redis_url, ClientOptions(stalled_after_s=AFTER_S)) as connected:
        yield connected


class Reader:
    """A tail in a task, with the reports it got."""

    def __init__(self) -> None:
        self.seen: list[Tailed] = []

    @property
    def stalls(self) -> list[Stalled]:
        return [item.entry for item in self.seen if isinstance(item.entry, Stalled)]

    def told(self, why: StalledWhy) -> bool:
        return any(stall.why == why for stall in self.stalls)

    @property
    def cursors(self) -> list[str]:
        return [item.cursor for item in self.seen if item.cursor]


@asynccontextmanager
async def reading(client: Client, request_id: str) -> AsyncGenerator[Reader]:
    reader = Reader()

    async def read() -> None:
        async for item in client.tail(request_id):
            reader.seen.append(item)

    task = asyncio.create_task(read())
    try:
        yield reader
    finally:
        task.cancel()
        await asyncio.wait({task})


async def submitted(client: Client, **more: str) -> str:
    return (await client.submit(request_for(QUIET, **more))).id


async def ended(reader: Reader) -> None:
    await until(lambda: bool(reader.seen) and type(reader.seen[-1].entry).__name__ == "Completed")


# Reported


async def test_a_stall_is_reported_at_growing_intervals(client: Client) -> None:
    async with reading(client, await submitted(client)) as reader:
        await until(lambda: len(reader.stalls) >= 3)
    assert {stall.why for stall in reader.stalls} == {"no_worker"}
    times = [stall.for_ms for stall in reader.stalls]
    assert times[0] >= AFTER_S * 1000
    assert all(later >= 2 * now - 2 for now, later in pairwise(times))  # each is rounded to milliseconds
    assert all(item.cursor is None for item in reader.seen if isinstance(item.entry, Stalled))


async def test_the_report_says_that_all_workers_are_busy(client: Client, redis: Redis) -> None:
    await redis.set(keys.HEALTH, "alive", ex=60)
    async with reading(client, await submitted(client)) as reader:
        await until(lambda: reader.told("busy"))


async def test_a_late_reader_gets_the_whole_waiting_time(client: Client, redis: Redis) -> None:
    request_id = await submitted(client)
    await redis.hincrby(keys.rec_key(request_id), "submitted_ms", -60_000)
    async with reading(client, request_id) as reader:
        await until(lambda: bool(reader.stalls))
    assert reader.stalls[0].for_ms >= 60_000


@pytest.mark.parametrize("more", [{}, {"tenant": "acme"}, {"priority": "high"}], ids=str)
async def test_a_worker_that_died_and_none_after_it(client: Client, redis: Redis, more: dict[str, str]) -> None:
    # given an attempt whose worker is gone, its lease over, expect it told; then a worker comes, and all is as ever
    request_id = await submitted(client, **more)
    await Scribe(redis, request_id).begin()
    async with reading(client, request_id) as reader:
        await until(lambda: reader.told("no_worker"))


@pytest.mark.parametrize("more", [{}, {"tenant": "acme"}, {"priority": "high"}], ids=str)
async def test_a_reader_enqueues_a_request_whose_job_is_lost(
    redis_url: str, client: Client, redis: Redis, more: dict[str, str]
) -> None:
    # given a record without a job, as a failover or a dead producer leaves it, expect its reader to mend it
    request_id = await submitted(client, **more)
    lane = keys.lane_of(more.get("tenant"), more.get("priority", DEFAULT_PRIORITY))
    await redis.delete(keys.QUEUE, keys.job_key(request_id), keys.lane_key(lane or "none"), keys.LANES)
    async with reading(client, request_id) as reader, Simulator(key=KEY) as simulator:
        await until(lambda: reader.told("lost"))
        worker = worker_task(redis_url, simulator, KEY, {})
        try:
            await ended(reader)
        finally:
            await worker.stop()
    assert reader.cursors[:2] == ["0-1", "1-0"]


# Not reported


async def test_a_quiet_model_is_not_a_stall(redis_url: str, client: Client) -> None:
    # given a stalled request, if a worker comes whose model is silent for ten bounds, expect no word until the answer
    request_id = await submitted(client)
    async with reading(client, request_id) as reader, Simulator(key=KEY) as simulator:
        await until(lambda: bool(reader.stalls))
        worker = worker_task(redis_url, simulator, KEY, {})
        try:
            await until(lambda: "1-0" in reader.cursors)
            before = len(reader.stalls)
            await ended(reader)
        finally:
            await worker.stop()
    assert len(reader.stalls) == before
    assert reader.cursors[:2] == ["0-1", "1-0"]


async def test_a_pause_before_the_next_attempt_is_not_a_stall(client: Client, redis: Redis) -> None:
    request_id = await submitted(client)
    await redis.execute_command("ZINCRBY", keys.QUEUE, 60_000, request_id)
    looks = await redis.info("commandstats")
    async with reading(client, request_id) as reader:

        async def looked() -> bool:
            now = await redis.info("commandstats")
            return _evals(now) >= _evals(looks) + 5

        await until(looked)
    assert reader.stalls == []


def _evals(stats: dict[str, dict[str, int]]) -> int:
    return stats.get("cmdstat_evalsha", {"calls": 0})["calls"]


# By the clock


class Signs:
    """What a watch is answered, and what it did."""

    def __init__(self) -> None:
        self.now = 0.0
        self.asked = self.mended = 0
        self.position = BEGINNING
        self.answer: Verdict[SignsStatus] | StoreUnavailable | None = Verdict(
            SignsStatus.WAITING, {"alive": b"0", "waited_ms": b"0"}
        )
        self.watch = StallWatch(self._ask, self._mend, after_s=10.0, clock=lambda: self.now)

    async def _ask(self) -> Verdict[SignsStatus] | None:
        self.asked += 1
        if isinstance(self.answer, StoreUnavailable):
            raise self.answer
        return self.answer

    async def _mend(self) -> None:
        self.mended += 1
        raise StoreUnavailable("away")

    async def told(self, until_s: float) -> list[int]:
        """When it was told, looking every 6 s."""
        times: list[int] = []
        while self.now < until_s:
            self.now += self.watch.look_s
            if stalled := await self.watch.judge(self.position):
                times.append(round(stalled.for_ms / 1000))
        return times


async def test_checks_are_rare_and_reports_come_at_growing_intervals() -> None:
    signs = Signs()
    assert await signs.told(3600) == [
        12,
        24,
        48,
        96,
        192,
        384,
        684,
        984,
        1284,
        1584,
        1884,
        2184,
        2484,
        2784,
        3084,
        3384,
    ]
    assert signs.asked == 600


@pytest.mark.parametrize("sign", [Verdict(SignsStatus.HELD, {}), None])
async def test_a_sign_of_life_begins_anew(sign: Verdict[SignsStatus] | None) -> None:
    signs = Signs()
    assert await signs.told(30) == [12, 24]
    waiting, signs.answer = signs.answer, sign
    assert await signs.told(300) == []
    signs.answer = waiting
    assert await signs.told(320) == [12]


async def test_an_entry_begins_anew() -> None:
    signs = Signs()
    assert await signs.told(30) == [12, 24]
    signs.position = signs.position.next()
    assert await signs.told(54) == [12]


async def test_an_unreachable_redis_is_not_a_stall_and_a_failed_enqueue_is_ignored() -> None:
    signs = Signs()
    signs.answer = StoreUnavailable("away")
    assert await signs.told(100) == []
    signs.answer = Verdict(SignsStatus.LOST, {})
    assert await signs.told(115) == [12]
    assert signs.mended == 1
