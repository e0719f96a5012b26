"""JSON log lines: every line of a worker and a gateway is an object, and those about a request have its id."""

import asyncio
import json
import logging
import os
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import httpx2
import pytest
from redis.asyncio import Redis

from tailrace.broker.keys import lease_key
from tailrace.demo.simulator import Simulator
from tailrace.producers.client import Client
from tailrace.schemas.ids import EntryId
from tailrace.telemetry.logging import JsonLines, fields, human_lines, log_to
from tests.rig import KEY, request_for
from tests.until import until

TAILRACE = Path(sys.executable).with_name("tailrace")
WAIT_S = 30.0
PRIVATE = "a sentence that only the user may read"
SLOW = {"steps": [{"kind": "text", "chunks": 2000}], "pace": {"chunks_per_s": 20}}
LIMITED_ONCE: Mapping[str, Any] = {"faults": [{"kind": "status", "status": 429, "retry_after_s": 0.01, "calls": 1}]}


async def started(*arguments: str, environment: Mapping[str, str]) -> asyncio.subprocess.Process:
    """A command that logs JSON, once it is ready."""
    child = await asyncio.create_subprocess_exec(
        TAILRACE,
        *arguments,
        env={"PATH": os.environ["PATH"], "TAILRACE_LOG_FORMAT": "json", **environment},
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    assert child.stdout is not None
    async with asyncio.timeout(WAIT_S):
        await child.stdout.readline()
    return child


async def logged(child: asyncio.subprocess.Process) -> list[dict[str, Any]]:
    """Terminates the command and returns all lines it has logged."""
    child.terminate()
    async with asyncio.timeout(WAIT_S):
        _, errors = await child.communicate()
    assert child.returncode == 0
    assert KEY.encode() not in errors
    assert PRIVATE.encode() not in errors
    return [json.loads(line) for line in errors.splitlines()]


async def test_every_line_of_a_worker_parses_and_has_its_request(redis_url: str, redis: Redis) -> None:
    """given: requests that complete, are retried, lose their lease / expect: the events of each, in order."""
    async with Simulator(key=KEY) as simulator, Client(redis_url) as client:
        environment = {
            "TAILRACE_REDIS_URL": redis_url,
            "TAILRACE_LEASE_S": "1",
            "TAILRACE_DRAIN_S": "0",
            "OPENAI_API_KEY": KEY,
            "OPENAI_BASE_URL": simulator.url,
        }
        worker = await started("worker", environment=environment)
        messages = [{"role": "user", "content": PRIVATE}]
        quick = (await client.submit(request_for(messages=messages))).id
        retried = (await client.submit(request_for(LIMITED_ONCE, messages=messages))).id
        slow = (await client.submit(request_for(SLOW, messages=messages))).id
        for request_id in (quick, retried):
            assert await client.result(request_id, wait_s=WAIT_S) is not None
        await until(lambda: len(simulator.ledger.entries()) == 4)
        await redis.set(lease_key(slow), "another worker's")

        await until(lambda: all(entry.ended != "open" for entry in simulator.ledger.entries()))
        lines = await logged(worker)
    assert all({"at", "level", "logger"} <= line.keys() and ("event" in line or "message" in line) for line in lines)
    events = {
        request_id: [line["event"] for line in lines if line.get("request_id") == request_id]
        for request_id in (quick, retried, slow)
    }
    assert events[quick] == ["attempt_started", "attempt_finished", "job_acknowledged"]
    assert events[retried] == ["attempt_started", "attempt_failed", *events[quick]]
    assert events[slow][:2] == ["attempt_started", "lease_lost"]
    # a line that contains a request's id has it as request_id, too
    for line in lines:
        for request_id in events:
            assert request_id not in json.dumps(line) or line.get("request_id") == request_id
    finished = next(line for line in lines if line["event"] == "attempt_finished" and line["request_id"] == quick)
    assert (finished["status"], finished["entry"][:2]) == ("completed", "1-")
    assert isinstance(finished["ms"], int)


async def test_every_line_of_a_gateway_parses_and_has_its_request(
    redis_url: str, unused_tcp_port_factory: Callable[[], int]
) -> None:
    port = unused_tcp_port_factory()
    gateway = await started(*("gateway", "--open", "--port", str(port)), environment={"TAILRACE_REDIS_URL": redis_url})
    async with httpx2.AsyncClient(base_url=f"http://127.0.0.1:{port}", timeout=WAIT_S) as http:
        body = request_for(messages=[{"role": "user", "content": PRIVATE}])
        submitted = (await http.post("/v1/streams", json=body)).json()
        assert (await http.get(f"{submitted['links']['self']}?token=secret")).status_code == 200
        assert (await http.get("/v1/streams/odd%0A%E2%80%AEname")).status_code == 404
    lines = await logged(gateway)
    ours = [line for line in lines if line["logger"] == "tailrace.gateway"]
    assert [(line["event"], line.get("request_id"), line.get("status")) for line in ours] == [
        ("request_submitted", submitted["id"], None),
        ("call_answered", None, 202),
        ("call_answered", submitted["id"], 200),
        ("call_answered", "odd\n\u202ename", 404),
    ]
    assert "secret" not in json.dumps(lines)


def test_a_json_line_is_one_line_whatever_it_contains() -> None:
    record = logging.makeLogRecord({"msg": "two\nlines \ud800 \u202e", "levelname": "INFO", "name": "library"})
    line = JsonLines().format(record)
    assert line.isascii()
    assert "\n" not in line
    assert json.loads(line)["message"] == "two\nlines \ud800 \u202e"


def test_a_line_of_ours_has_event_and_fields_in_place_of_the_message() -> None:
    extra = fields("attempt_started", "r1", why=ValueError("v"), entry=EntryId(1, 2), ms=3, code=None)
    record = logging.makeLogRecord({"msg": "x", "levelname": "ERROR", "name": "tailrace.worker", **extra})
    line = json.loads(JsonLines().format(record))
    del line["at"]
    assert line == {
        "level": "error",
        "logger": "tailrace.worker",
        "event": "attempt_started",
        "request_id": "r1",
        "why": "v",
        "entry": "1-2",
        "ms": 3,
    }


def test_a_human_line_has_the_events_name() -> None:
    ours = logging.makeLogRecord({"msg": "text", "levelname": "INFO", **fields("lease_lost", "r1")})
    library = logging.makeLogRecord({"msg": "text", "levelname": "WARNING"})
    assert human_lines().format(ours).endswith(" INFO    lease_lost text")
    assert human_lines().format(library).endswith(" WARNING - text")


def test_the_level_applies_to_lines_of_ours(capsys: pytest.CaptureFixture[str]) -> None:
    root, before = logging.getLogger(), logging.getLogger().handlers[:]
    try:
        log_to(sys.stderr, "json", "error")
        logging.getLogger("tailrace.worker").warning("below the level")
        logging.getLogger("tailrace.worker").error("logged")
        logging.getLogger("library").info("not logged: a library's information")
        logging.getLogger("opentelemetry.exporter").warning("not logged: each failed try")
        assert [json.loads(line)["message"] for line in capsys.readouterr().err.splitlines()] == ["logged"]
    finally:
        root.handlers[:] = before
        logging.getLogger("tailrace").setLevel(logging.NOTSET)
