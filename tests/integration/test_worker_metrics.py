"""The metrics port of a worker: requests that end in every way, and processes that die."""

import asyncio
import os
import re
import signal
import sys
from contextlib import aclosing
from pathlib import Path

import httpx2
import pytest
from redis.asyncio import Redis

from tailrace.broker import keys
from tailrace.demo.simulator import Simulator
from tailrace.demo.valkey import EmbeddedValkey
from tailrace.producers.client import Client
from tailrace.schemas.deltas import AssistantDelta, ReasoningDelta, ToolCallDelta
from tailrace.schemas.errors import SettingsError
from tailrace.telemetry.metrics import METRICS
from tailrace.worker.observe.metrics_port import PortPage, serve_pages
from tailrace.worker.observe.queue_metrics import QueueMetrics
from tests.metrics_page import Values, values_of
from tests.rig import KEY, Rig, request_for, rig, worker_task
from tests.until import until

TAILRACE = Path(sys.executable).with_name("tailrace")
WAIT_S = 30.0
LIMITED_ONCE = {"faults": [{"kind": "status", "status": 429, "retry_after_s": 0.01, "calls": 1}]}
REFUSED = {"faults": [{"kind": "status", "status": 400}]}
SLOW = {"steps": [{"kind": "text", "chunks": 2000}], "pace": {"chunks_per_s": 20}}


async def scraped(port: int, accept: str = "") -> Values:
    """The values of all metrics."""
    async with httpx2.AsyncClient(timeout=WAIT_S) as http:
        answer = await http.get(f"http://127.0.0.1:{port}/metrics", headers={"accept": accept})
    assert answer.status_code == 200
    assert answer.headers["content-type"].startswith(accept or "text/plain; version=0.0.4")
    return values_of(answer.text, answer.headers["content-type"])


def value(found: Values, name: str, **labels: str) -> float:
    """The sum of the samples of this name that have these labels."""
    return sum(number for shown, number in found.get(name, {}).items() if labels.items() <= dict(shown).items())


async def ended_in_every_way(running: Rig) -> int:
    """Runs requests that complete, are retried, fail and are cancelled; returns the number of their deltas."""
    ids = [await running.submit(scenario) for scenario in (None, LIMITED_ONCE, REFUSED, SLOW)]
    await until(lambda: len(running.simulator.ledger.entries()) == 5)
    async with aclosing(running.client.tail(ids[3])) as items:
        async for item in items:
            if isinstance(item.entry, AssistantDelta):
                break
    await running.client.cancel(ids[3])
    statuses = [(await running.outcome(request_id)).status for request_id in ids]
    assert statuses == ["completed", "completed", "failed", "cancelled"]
    logs = [await running.entries(request_id) for request_id in ids]
    kinds = AssistantDelta | ReasoningDelta | ToolCallDelta
    return sum(isinstance(item.entry, kinds) for entries in logs for item in entries)


async def test_every_end_and_every_part_is_counted(redis_url: str, unused_tcp_port: int) -> None:
    async with rig(redis_url, metrics_port=unused_tcp_port) as running:
        before = await scraped(unused_tcp_port)
        assert value(before, "tailrace_outcomes_total") == 0
        assert value(before, "tailrace_request_slots", process="0") == 200
        deltas = await ended_in_every_way(running)
        found = await scraped(unused_tcp_port)
        for status, error, count in (
            ("completed", "none", 2),
            ("failed", "upstream_400", 1),
            ("cancelled", "none", 1),
        ):
            assert value(found, "tailrace_outcomes_total", status=status, error=error) == count
            assert value(found, "tailrace_request_duration_seconds_count", status=status) == count
        assert value(found, "tailrace_outcomes_total") == 4
        assert value(found, "tailrace_starts_total") == 4
        assert value(found, "tailrace_attempts_total", cause="first") == 4
        assert value(found, "tailrace_attempts_total", cause="retry") == 1
        assert value(found, "tailrace_retries_total", error="upstream_429") == 1
        responses = {"200": 3, "429": 1, "400": 1}
        assert {
            status: value(found, "tailrace_upstream_responses_total", status=status) for status in responses
        } == responses
        assert value(found, "tailrace_deltas_total") == deltas > 0
        assert value(found, "tailrace_queue_wait_seconds_count") == 4
        assert value(found, "tailrace_time_to_first_delta_seconds_count") == 3
        assert 0 < value(found, "tailrace_upstream_time_to_first_delta_seconds_sum") < WAIT_S
        commits = value(found, "tailrace_commit_duration_seconds_count")
        assert commits == value(found, "tailrace_commit_entries_count") > 0
        assert value(found, "tailrace_commit_entries_sum") == deltas + 1  # and retry_scheduled
        assert value(found, "tailrace_publisher_backlog_bytes") == 0
        assert value(found, "tailrace_publisher_backlog_entries") == 0
        assert value(found, "tailrace_process_cpu_seconds_total") > 0
        assert value(found, "tailrace_worker_processes") == 1


async def test_the_page_has_every_metric_of_a_worker_and_no_other(redis_url: str, unused_tcp_port: int) -> None:
    async with rig(redis_url, metrics_port=unused_tcp_port) as running:
        await ended_in_every_way(running)
        found = await scraped(unused_tcp_port)
        openmetrics = await scraped(unused_tcp_port, "application/openmetrics-text; version=1.0.0")
    assert openmetrics.keys() == found.keys()
    wanted = {metric.name for metric in METRICS if metric.of in ("process", "worker")}
    wanted -= {"tailrace_worker_process_deaths_total"}  # only the parent of a fleet has it
    assert {re.sub(r"_(bucket|sum|count)$", "", name) for name in found} == wanted
    labels = {metric.name: set(metric.all_labels) for metric in METRICS}
    for name, series in found.items():
        for shown in series:
            base = re.sub(r"_(bucket|sum|count)$", "", name)
            assert {label for label, _ in shown} - {"le"} == labels[base]


async def test_waiting_requests_are_counted_by_priority(redis_url: str, unused_tcp_port: int) -> None:
    """given: a worker with one slot, and three requests / expect: one runs, two wait, each counted in its priority."""
    async with rig(redis_url, metrics_port=unused_tcp_port, max_jobs=1, drain_s=0) as running:
        await running.submit(SLOW)
        await until(lambda: len(running.simulator.ledger.entries()) == 1)
        await running.submit(SLOW)
        await running.submit(SLOW, tenant="acme", priority="high")
        found = await scraped(unused_tcp_port)
        assert value(found, "tailrace_queue_up") == 1
        assert value(found, "tailrace_queue_requests", priority="high") == 1
        assert value(found, "tailrace_queue_requests", priority="normal") == 1
        assert value(found, "tailrace_queue_requests", priority="low") == 0
        assert value(found, "tailrace_queue_oldest_age_seconds", priority="high") >= 0
        assert value(found, "tailrace_queue_begun_requests") == 1
        assert value(found, "tailrace_running_requests") == 1
        assert value(found, "tailrace_workers") == 1
        assert value(found, "tailrace_redis_memory_used_bytes") > 0


async def test_outcomes_waiting_for_the_database_are_counted(
    redis_url: str, unused_tcp_port: int, redis: Redis
) -> None:
    """given: an outbox and no sink / if: a request ends / expect: its outcome waits there."""
    await redis.xgroup_create(keys.OUTBOX, keys.OUTBOX_GROUP, "0", mkstream=True)
    await redis.hset(keys.OUTBOX_REFUSED, "another", "{}")
    async with rig(redis_url, metrics_port=unused_tcp_port) as running:
        await running.outcome(await running.submit())

        async def waits() -> bool:
            return await redis.xlen(keys.OUTBOX) == 1

        await until(waits)
        found = await scraped(unused_tcp_port)
    assert found["tailrace_outbox_requests"] == {(): 1}
    assert found["tailrace_outbox_refused_requests"] == {(): 1}
    assert 0 <= found["tailrace_outbox_oldest_age_seconds"][()] < WAIT_S


async def test_many_scrapes_ask_redis_once(redis_url: str, redis: Redis) -> None:
    queue_metrics = QueueMetrics(redis)
    await redis.config_resetstat()
    answers = await asyncio.gather(*(queue_metrics.metric_samples() for _ in range(50)))
    assert all(answer == answers[0] for answer in answers)
    calls = await redis.info("commandstats")
    assert calls["cmdstat_info"]["calls"] == 1


async def test_a_redis_that_is_down_is_reported_beside_the_other_metrics(unused_tcp_port: int) -> None:
    with EmbeddedValkey() as valkey:
        async with Simulator(key=KEY) as simulator:
            worker = worker_task(valkey.url, simulator, KEY, {}, metrics_port=unused_tcp_port, drain_s=0, lease_s=0.5)
            try:
                await worker.ready
                valkey.kill()
                found = await scraped(unused_tcp_port)
                assert found["tailrace_queue_up"] == {(): 0}
                assert "tailrace_queue_requests" not in found
                assert value(found, "tailrace_request_slots") == 200
            finally:
                await worker.stop()


async def test_the_port_answers_every_request(unused_tcp_port: int) -> None:
    async def page(accept: str) -> PortPage:
        return PortPage(f"accepts {accept}\n".encode())

    async with serve_pages("127.0.0.1", unused_tcp_port, {"/here": page}) as number:
        url = f"http://127.0.0.1:{number}"
        async with httpx2.AsyncClient(base_url=url, timeout=WAIT_S, headers={"accept": "a/b"}) as http:
            assert (await http.get("/here?x=1")).text == "accepts a/b\n"
            head = await http.head("/here")
            assert (head.status_code, head.text, head.headers["content-length"]) == (200, "", "12")
            assert (await http.get("/elsewhere")).status_code == 404
            assert (await http.post("/here", content=b"x" * 100)).status_code == 405
            assert (await http.get("/here", headers={"x": "y" * 20_000})).status_code == 431
        for sent in (b"nonsense\r\n\r\n", b"", b"GET /here HTTP/1.1\r\n"):
            reader, writer = await asyncio.open_connection("127.0.0.1", number)
            writer.write(sent)
            writer.write_eof()
            answer = await reader.read()
            assert (
                answer.startswith(b"HTTP/1.1 400") if sent.startswith(b"non") else not answer.startswith(b"HTTP/1.1 2")
            )
            writer.close()
        with pytest.raises(SettingsError, match="TAILRACE_METRICS_PORT: cannot listen"):
            async with serve_pages("127.0.0.1", number, {}):
                pass


async def test_counters_do_not_decrease_when_a_process_dies(redis_url: str, unused_tcp_port: int) -> None:
    """given: a fleet of two processes that have run requests / if: one is killed / expect: its counts stay, another
    process takes its place and counts on, and until then /healthz fails."""
    async with Simulator(key=KEY) as simulator, Client(redis_url) as client:
        environment = {
            "PATH": os.environ["PATH"],
            "TAILRACE_REDIS_URL": redis_url,
            "OPENAI_API_KEY": KEY,
            "OPENAI_BASE_URL": simulator.url,
        }
        child = await asyncio.create_subprocess_exec(
            *(TAILRACE, "worker", "--processes", "2", "--metrics-port", str(unused_tcp_port)),
            env=environment,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.DEVNULL,
        )
        assert child.stdout is not None
        try:
            async with asyncio.timeout(WAIT_S):
                pids = [_pid((await child.stdout.readline()).decode()) for _ in range(2)]
            await _run(client, 8)
            await _counted(unused_tcp_port, 8)
            assert await _health(unused_tcp_port) == 200
            os.kill(pids[0], signal.SIGKILL)
            await until(lambda: _is_unhealthy(unused_tcp_port))
            found = await scraped(unused_tcp_port)
            assert value(found, "tailrace_outcomes_total") == 8
            assert value(found, "tailrace_worker_process_deaths_total") == 1
            assert len(found["tailrace_running_requests"]) == 1
            async with asyncio.timeout(WAIT_S):
                await child.stdout.readline()
            await _run(client, 8)
            await _counted(unused_tcp_port, 16)
            found = await scraped(unused_tcp_port)
            assert {process for ((_, process),) in found["tailrace_running_requests"]} == {"0", "1"}
            await until(lambda: _is_healthy(unused_tcp_port))
        finally:
            child.terminate()
            async with asyncio.timeout(WAIT_S):
                assert await child.wait() == 0


async def _run(client: Client, count: int) -> None:
    ids = [(await client.submit(request_for())).id for _ in range(count)]
    for request_id in ids:
        outcome = await client.result(request_id, wait_s=WAIT_S)
        assert outcome is not None


async def _counted(number: int, outcomes: int) -> None:
    """Waits for that count: a process sends its samples once a second."""

    async def all_counted() -> bool:
        return value(await scraped(number), "tailrace_outcomes_total") == outcomes

    await until(all_counted)


async def _health(number: int) -> int:
    async with httpx2.AsyncClient(timeout=WAIT_S) as http:
        return (await http.get(f"http://127.0.0.1:{number}/healthz")).status_code


async def _is_unhealthy(number: int) -> bool:
    return await _health(number) == 503


async def _is_healthy(number: int) -> bool:
    return await _health(number) == 200


def _pid(ready: str) -> int:
    assert ready.startswith("ready: "), ready
    return int(ready.split("pid ")[1].split(",")[0])
