"""Log lines for programs: every line of a worker and a gateway is an object, those of a request have its id."""

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
from tailrace.telemetry.logging import JsonLines, fields, log_to
from tests.rig import KEY, request_for
from tests.until import until

TAILRACE = Path(sys.executable).with_name("tailrace")
WAIT_S = 30.0
PRIVATE = "a sentence that only the user may read"
SLOW = {"steps": [{"kind": "text", "chunks": 2000}], "pace": {"chunks_per_s": 20}}
FAULTS: Mapping[str, Any] = {"faults": [{"kind": "status", "status": 429, "retry_after_s": 0.01, "calls": 1}]}


async def started(*arguments: str, environment: Mapping[str, str]) -> asyncio.subprocess.Process:
    """A command that logs for programs, once it is ready."""
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


async def said(child: asyncio.subprocess.Process) -> list[dict[str, Any]]:
    """Ends it; all its lines."""
    child.terminate()
    async with asyncio.timeout(WAIT_S):
        _, errors = await child.communicate()
    assert child.returncode == 0
    assert KEY.encode() not in errors
    assert PRIVATE.encode() not in errors
    return [json.loads(line) for line in errors.splitlines()]


async def test_every_line_of_a_worker_parses_and_has_its_request(redis_url: str, redis: Redis) -> None:
    """given: requests that complete, are tried again, lose their lease / expect: their verbs, in order."""
    async with Simulator(key=KEY) as simulator, await Client.connect(redis_url) as client:
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
        again = (await client.submit(request_for(FAULTS, messages=messages))).id
        slow = (await client.submit(request_for(SLOW, messages=messages))).id
        for request_id in (quick, again):
            assert await client.result(request_id, wait_s=WAIT_S) is not None
        await until(lambda: len(simulator.ledger.entries()) == 4)
        await redis.set(lease_key(slow), "somebody else's")

        await until(lambda: all(entry.ended != "open" for entry in simulator.ledger.entries()))
        lines = await said(worker)
    assert all({"at", "level", "logger"} <= line.keys() and ("verb" in line or "message" in line) for line in lines)
    verbs = {
        request_id: [line["verb"] for line in lines if line.get("request_id") == request_id]
        for request_id in (quick, again, slow)
    }
    assert verbs[quick] == ["began", "finished", "acknowledged"]
    assert verbs[again] == ["began", "failed", "began", "finished", "acknowledged"]
    assert verbs[slow][:2] == ["began", "lease_lost"]
    # nothing names a request without having its id where programs look for it
    for line in lines:
        for request_id in verbs:
            assert request_id not in json.dumps(line) or line.get("request_id") == request_id
    finished = next(line for line in lines if line["verb"] == "finished" and line["request_id"] == quick)
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
    lines = await said(gateway)
    ours = [line for line in lines if line["logger"] == "tailrace.gateway"]
    assert [(line["verb"], line.get("request_id"), line.get("status")) for line in ours] == [
        ("submitted", submitted["id"], None),
        ("answered", None, 202),
        ("answered", submitted["id"], 200),
        ("answered", "odd\n\u202ename", 404),
    ]
    assert "secret" not in json.dumps(lines)


def test_a_line_is_one_line_whatever_it_says(capsys: pytest.CaptureFixture[str]) -> None:
    shown = JsonLines()
    record = logging.makeLogRecord({"msg": "two\nlines \ud800 \u202e", "levelname": "INFO", "name": "somebody"})
    line = shown.format(record)
    assert line.isascii()
    assert "\n" not in line
    assert json.loads(line)["message"] == "two\nlines \ud800 \u202e"
    ours = logging.makeLogRecord(
        {"msg": "x", "levelname": "ERROR", **fields("began", "r1", why=ValueError("v"), entry=EntryId(1, 2), code=None)}
    )
    told = json.loads(shown.format(ours))
    assert (told["verb"], told["request_id"], told["why"], told["level"]) == ("began", "r1", "v", "error")
    assert told["entry"] == "1-2"
    assert "code" not in told
    assert "message" not in told


def test_a_level_is_of_our_own_lines(capsys: pytest.CaptureFixture[str]) -> None:
    root, before = logging.getLogger(), logging.getLogger().handlers[:]
    try:
        log_to(sys.stderr, "json", "error")
        logging.getLogger("tailrace.worker").warning("quiet")
        logging.getLogger("tailrace.worker").error("loud")
        logging.getLogger("somebody").info("quiet too")
        logging.getLogger("opentelemetry.exporter").warning("it tries again: quiet as well")
        assert [json.loads(line)["message"] for line in capsys.readouterr().err.splitlines()] == ["loud"]
    finally:
        root.handlers[:] = before
        logging.getLogger("tailrace").setLevel(logging.NOTSET)
