"""`client.overview` and `tailrace stats`: workers, waiting requests, requests in progress, silent workers."""

import asyncio
import json
import os
import re
import sys
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from redis.asyncio import Redis

from tailrace.broker import keys
from tailrace.demo.simulator import Simulator
from tailrace.producers.cli.stats import lines
from tailrace.producers.client import Client
from tailrace.producers.queue.overview import SILENT_S
from tests.rig import KEY, request_for, worker_task
from tests.until import until

TAILRACE = Path(sys.executable).with_name("tailrace")
SLOW = {"steps": [{"kind": "text", "chunks": 2000}], "pace": {"chunks_per_s": 20}}
LIMITED = {"faults": [{"kind": "status", "status": 429, "retry_after_s": 50}]}


@asynccontextmanager
async def worker(redis_url: str, simulator: Simulator, tenant_limit: int = 1) -> AsyncGenerator[None]:
    running = worker_task(redis_url, simulator, KEY, {}, tenant_limit=tenant_limit, drain_s=0)
    try:
        yield
    finally:
        await running.stop()


async def test_the_overview_shows_waiting_running_and_retrying_requests(redis_url: str, redis: Redis) -> None:
    # One request runs, one waits for a retry, and three belong to a tenant that may run one at a time. The overview
    # shows each of them, including the tenant's lane. After the worker has stopped, it shows no worker.
    async with Simulator(key=KEY) as simulator, Client(redis_url) as client:
        plain = await client.submit(request_for(SLOW))
        paused = await client.submit(request_for(LIMITED))
        for _ in range(3):
            await client.submit(request_for(SLOW, tenant="acme", priority="high"))
        async with worker(redis_url, simulator):

            async def settled() -> bool:
                seen = await client.overview()
                states = {run.id: run.state for run in seen.runs}
                ready = states.get(plain.id) == "running" and states.get(paused.id) == "retrying"
                return ready and seen.waiting == 2 and bool(seen.workers)

            await until(settled)
            seen = await client.overview()
            runs = {run.id: run for run in seen.runs}
            assert len(runs) == seen.begun == 3
            assert runs[paused.id].why == "upstream_429"
            assert runs[paused.id].until is not None
            assert runs[plain.id].model == "sim"
            assert [run.tenant for run in seen.runs if run.priority == "high"] == ["acme"]
            (lane,) = seen.lanes
            assert (lane.priority, lane.tenant, lane.waiting) == ("high", "acme", 2)
            assert seen.oldest_s == lane.oldest_s >= 0
            (only,) = seen.workers
            assert only.report.pid == os.getpid()
            assert not only.is_silent
            printed = "\n".join(lines(seen))
            assert all(text in printed for text in (plain.id, "retrying", "upstream_429", "acme"))
        assert (await client.overview()).workers == []
        assert await redis.exists(keys.PARKED) <= 1


async def test_a_worker_that_stopped_reporting_is_shown_as_silent(redis_url: str, redis: Redis) -> None:
    # A worker whose report is old is shown as silent. A report that cannot be parsed is left out.
    async with Simulator(key=KEY) as simulator, Client(redis_url) as client:
        async with worker(redis_url, simulator):

            async def announced() -> bool:
                return await redis.zcard(keys.WORKERS) == 1

            await until(announced)
            (name,) = await redis.zrange(keys.WORKERS, 0, -1)
            report = await redis.get(keys.worker_key(name.decode()))
            assert report is not None
            left_ms = round((keys.WORKER_LIFETIME_S - SILENT_S - 1) * 1000)
            await redis.set(keys.worker_key("dead"), report, px=left_ms)
            await redis.set(keys.worker_key("odd"), b"{", px=left_ms)
            later = keys.WORKER_LIFETIME_S * 10_000_000_000_000
            await redis.zadd(keys.WORKERS, {"dead": later, "odd": later, "forgotten": later})
            seen = {worker.name: worker.is_silent for worker in (await client.overview()).workers}
    assert seen == {"dead": True, name.decode(): False}


async def test_requests_without_tenant_are_counted_in_the_plain_lane(redis_url: str) -> None:

    async with Client(redis_url) as client:
        for _ in range(2):
            await client.submit(request_for())
        seen = await client.overview()
    assert [(lane.priority, lane.tenant, lane.waiting) for lane in seen.lanes] == [("normal", None, 2)]
    assert (seen.waiting, seen.begun, seen.workers, seen.runs) == (2, 0, [], [])


@pytest.mark.parametrize("form", [[], ["--json"]], ids=["table", "json"])
async def test_the_command_prints_tables_or_json(redis_url: str, form: list[str]) -> None:

    async with Client(redis_url) as client:
        await client.submit(request_for(tenant="acme"))
    program = await asyncio.create_subprocess_exec(
        *(TAILRACE, "stats", *form),
        env={"PATH": os.environ["PATH"], "TAILRACE_REDIS_URL": redis_url},
        stdout=asyncio.subprocess.PIPE,
    )
    printed, _ = await program.communicate()
    assert program.returncode == 0
    if form:
        assert json.loads(printed)["lanes"][0]["tenant"] == "acme"
    else:
        expected = r"0 workers, 0 of 0 slots in use; 1 request waiting \(oldest \d+ s\), 0 in progress, 0 deferred; "
        assert re.match(expected + "0 dead letters\n", printed.decode())


async def test_outcomes_that_wait_for_the_database_are_counted(redis_url: str, redis: Redis) -> None:
    # Two outcomes wait, one of them for long, and one was rejected.
    async with Client(redis_url) as client:
        assert "for the database" not in "\n".join(lines(await client.overview()))
        for entry_id in ("1-1", "*"):
            await redis.xadd(keys.OUTBOX, {"id": "one"}, id=entry_id)
        await redis.hset(keys.OUTBOX_REFUSED, "odd", "{}")
        seen = await client.overview()
    assert (seen.outbox, seen.outbox_refused) == (2, 1)
    assert seen.outbox_oldest_s > 1_000_000_000
    assert "2 outcomes waiting for the database (oldest " in "\n".join(lines(seen))
