"""What a worker counts when something goes wrong between it and Redis: each of these should make an operator look."""

import asyncio
import os
import signal
from time import monotonic

import pytest
from redis.asyncio import Redis

from tailrace.broker import keys
from tailrace.demo.valkey import EmbeddedValkey
from tailrace.telemetry import metrics
from tailrace.telemetry.metric_samples import encode_figures, gauge
from tailrace.worker.observe.fleet_metrics import SILENT_S, FleetFigures
from tailrace.worker.observe.queue_metrics import ANSWER_S, QueueSight
from tests.integration.test_worker_metrics import SLOW, scraped, value
from tests.rig import rig
from tests.until import until

MUCH = {"steps": [{"kind": "text", "chunks": 2000}], "pace": {"chunks_per_s": 500}}


async def test_a_redis_that_hangs_is_said_within_a_while() -> None:
    # given a Redis that takes questions and answers none, expect whoever watches to be told so in time
    with EmbeddedValkey() as valkey:
        async with Redis.from_url(valkey.url) as redis:
            sight = QueueSight(redis)
            os.kill(valkey.pid, signal.SIGSTOP)
            try:
                async with asyncio.timeout(ANSWER_S + 5):
                    assert await sight.figures() == [gauge(metrics.QUEUE_UP, 0)]
            finally:
                os.kill(valkey.pid, signal.SIGCONT)


def test_a_process_that_says_nothing_any_more_does_not_count_as_well(monkeypatch: pytest.MonkeyPatch) -> None:
    # given two processes of which one is silent for longer than it may, as one that hangs is, expect one alive
    heard = FleetFigures()
    heard.hear(0, encode_figures([]))
    heard.hear(1, encode_figures([]))
    assert heard.alive == 2
    later = monotonic() + SILENT_S + 1
    monkeypatch.setattr("tailrace.worker.observe.fleet_metrics.monotonic", lambda: later)
    assert heard.alive == 0
    heard.hear(0, encode_figures([]))
    assert heard.alive == 1


async def test_a_lease_that_somebody_else_has_is_counted(redis_url: str, redis: Redis, unused_tcp_port: int) -> None:
    # given a request that runs, if its lease is another's, expect one lost, and no outcome of it
    async with rig(redis_url, metrics_port=unused_tcp_port, lease_s=0.5, drain_s=0) as running:
        request_id = await running.submit(SLOW)
        await until(lambda: len(running.simulator.ledger.entries()) == 1)
        assert value(await scraped(unused_tcp_port), "tailrace_leases_lost_total") == 0
        await redis.set(keys.lease_key(request_id), "somebody else's")

        async def is_lost() -> bool:
            return value(await scraped(unused_tcp_port), "tailrace_leases_lost_total") == 1

        await until(is_lost)
        assert value(await scraped(unused_tcp_port), "tailrace_outcomes_total") == 0


async def test_a_redis_that_takes_nothing_makes_pauses_and_a_commit_without_an_answer(
    redis_url: str, redis: Redis, unused_tcp_port: int
) -> None:
    # given a small buffer and a Redis that takes no writes for a while, expect reading to pause; if the connection
    # breaks meanwhile, expect a commit without an answer; then all of it written, and nothing waiting
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
