"""Metrics of failures between a worker and Redis that an operator should look at."""

import asyncio
import os
import signal
from time import monotonic

import pytest
from redis.asyncio import Redis

from tailrace.broker import keys
from tailrace.demo.valkey import EmbeddedValkey
from tailrace.telemetry import metrics
from tailrace.telemetry.metric_samples import encode_samples, gauge_sample
from tailrace.worker.observe.fleet_metrics import SILENT_S, FleetMetrics
from tailrace.worker.observe.queue_metrics import ANSWER_S, QueueMetrics
from tests.integration.test_worker_metrics import SLOW, scraped, value
from tests.rig import rig
from tests.until import until

MUCH = {"steps": [{"kind": "text", "chunks": 2000}], "pace": {"chunks_per_s": 500}}


async def test_a_redis_that_hangs_is_reported_in_time() -> None:
    # given a Redis that takes commands and does not answer, expect `tailrace_queue_up` 0 within the limit
    with EmbeddedValkey() as valkey:
        async with Redis.from_url(valkey.url) as redis:
            queue_metrics = QueueMetrics(redis)
            os.kill(valkey.pid, signal.SIGSTOP)
            try:
                async with asyncio.timeout(ANSWER_S + 5):
                    assert await queue_metrics.metric_samples() == [gauge_sample(metrics.QUEUE_UP, 0)]
            finally:
                os.kill(valkey.pid, signal.SIGCONT)


def test_a_process_that_sends_no_samples_is_not_alive(monkeypatch: pytest.MonkeyPatch) -> None:
    # given two processes that send nothing for longer than `SILENT_S`, as a process that hangs, expect them not alive
    fleet_metrics = FleetMetrics()
    fleet_metrics.receive_line(0, encode_samples([]))
    fleet_metrics.receive_line(1, encode_samples([]))
    assert fleet_metrics.alive == 2
    later = monotonic() + SILENT_S + 1
    monkeypatch.setattr("tailrace.worker.observe.fleet_metrics.monotonic", lambda: later)
    assert fleet_metrics.alive == 0
    fleet_metrics.receive_line(0, encode_samples([]))
    assert fleet_metrics.alive == 1


async def test_a_lease_taken_by_another_worker_is_counted(redis_url: str, redis: Redis, unused_tcp_port: int) -> None:
    # given a request that runs, if another worker has its lease, expect one lost lease, and no outcome here
    async with rig(redis_url, metrics_port=unused_tcp_port, lease_s=0.5, drain_s=0) as running:
        request_id = await running.submit(SLOW)
        await until(lambda: len(running.simulator.ledger.entries()) == 1)
        assert value(await scraped(unused_tcp_port), "tailrace_leases_lost_total") == 0
        await redis.set(keys.lease_key(request_id), "of another worker")

        async def is_lost() -> bool:
            return value(await scraped(unused_tcp_port), "tailrace_leases_lost_total") == 1

        await until(is_lost)
        assert value(await scraped(unused_tcp_port), "tailrace_outcomes_total") == 0


async def test_a_redis_that_accepts_no_writes_causes_pauses_and_a_failed_commit(
    redis_url: str, redis: Redis, unused_tcp_port: int
) -> None:
    # given a small buffer and a Redis that accepts no writes for a while, expect reading to pause; if the connection
    # breaks meanwhile, expect a failed commit; after that everything written, and an empty buffer
    async with rig(redis_url, metrics_port=unused_tcp_port, publish_buffer_bytes=4096) as running:
        await running.outcome(await running.submit())

        async def has_counted(name: str) -> bool:
            return value(await scraped(unused_tcp_port), name) > 0

        found = await scraped(unused_tcp_port)
        assert value(found, "tailrace_backpressure_pauses_total") == 0
        assert value(found, "tailrace_commit_failures_total") == 0
        request_id = await running.submit(MUCH)
        await until(lambda: len(running.simulator.ledger.entries()) == 2)
        await redis.execute_command("CLIENT PAUSE", 2000, "WRITE")
        await until(lambda: has_counted("tailrace_backpressure_pauses_total"))
        assert value(await scraped(unused_tcp_port), "tailrace_publisher_backlog_bytes") > 0
        await redis.execute_command("CLIENT KILL", "TYPE", "normal", "SKIPME", "yes")
        await until(lambda: has_counted("tailrace_commit_failures_total"))
        assert (await running.outcome(request_id)).status == "completed"
        assert value(await scraped(unused_tcp_port), "tailrace_publisher_backlog_bytes") == 0
