"""The examples in the README and in the pages for users run as printed, apart from the addresses they name."""

import asyncio
import json
import os
import re
import sys
import textwrap
from asyncio.subprocess import DEVNULL, PIPE
from dataclasses import fields
from pathlib import Path
from typing import Any

import pytest

from tailrace.producers.client import Client
from tailrace.schemas.defaults import DEFAULT_REDIS_URL
from tailrace.schemas.interface_options import InterfaceOptions
from tailrace.schemas.request import (
    ChatParameters,
    GenerationRequest,
    ResponsesParameters,
    SharedParameters,
    parse_request,
)
from tests.rig import WAIT_S, rig
from tests.tls_rig import free_port

_ROOT = Path(__file__).parents[2]
_TAILRACE = Path(sys.executable).with_name("tailrace")


def _block(page: str, language: str, having: str) -> str:
    blocks: list[str] = re.findall(rf"^```{language}\n(.*?)^```$", (_ROOT / page).read_text(), re.MULTILINE | re.DOTALL)
    (found,) = [block for block in blocks if having in block]
    return found


async def _run(*command: str, url: str) -> tuple[int | None, str, str]:
    environment = {**os.environ, "TAILRACE_REDIS_URL": url, "PATH": f"{_TAILRACE.parent}:{os.environ['PATH']}"}
    program = await asyncio.create_subprocess_exec(*command, stdin=DEVNULL, stdout=PIPE, stderr=PIPE, env=environment)
    async with asyncio.timeout(WAIT_S):
        out, complaints = await program.communicate()
    return program.returncode, out.decode(), complaints.decode()


@pytest.mark.parametrize(
    ("page", "having"),
    [
        ("README.md", "asyncio.run(main())"),
        ("docs/client.md", "asyncio.run(main())"),
        ("docs/client.md", "with SyncClient"),
    ],
)
async def test_a_python_example_runs_as_printed(redis_url: str, page: str, having: str) -> None:
    async with rig(redis_url):
        script = _block(page, "python", having).replace(DEFAULT_REDIS_URL, redis_url)
        code, out, complaints = await _run(sys.executable, "-c", script, url=redis_url)
    assert code == 0, complaints
    assert "completed" in out


async def test_the_http_example_runs_as_printed(redis_url: str, tmp_path: Path) -> None:
    port = str(free_port())
    script = _block("README.md", "sh", "tailrace gateway").replace("8000", port).replace("pip install '.[web]'\n", "")
    ready = f"until curl -sf http://127.0.0.1:{port}/healthz; do sleep 0.05; done\n"
    script = script.replace("curl -s http", ready + "curl -s http", 1) + "\nkill $!"
    async with rig(redis_url):
        code, out, complaints = await _run("bash", "-c", f"cd {tmp_path}\n{script}", url=redis_url)
    assert code == 0, complaints
    assert "event: completed" in out, complaints


async def test_the_shell_example_submits_tails_and_reads_the_outcome(redis_url: str) -> None:
    script = "set -e\n" + _block("README.md", "sh", "tailrace tail")
    async with rig(redis_url):
        code, out, complaints = await _run("bash", "-c", script, url=redis_url)
    assert code == 0, complaints
    assert "[completed]" in out
    assert '"status":"completed"' in out
    assert "already completed" in out  # the answer of a cancel that comes too late


def test_the_request_in_full_is_accepted_and_shows_every_interface_option() -> None:
    given: dict[str, Any] = json.loads(_block("docs/requests.md", "json", '"interface"'))
    request = parse_request(given)
    assert request.id == given["id"]
    assert set(given["interface"]) == {field.name for field in fields(InterfaceOptions)}
    ours = set(GenerationRequest.model_fields) - {
        *(*ChatParameters.model_fields, *ResponsesParameters.model_fields, *SharedParameters.model_fields),
        "retry_of",  # set by `tailrace dead retry`, not by a caller
        "traceparent",  # set by the client, from the span that submits
    }
    assert ours <= set(given)
    assert ours.isdisjoint(request.upstream_parameters())


async def test_the_conversation_goes_on_after_a_tool_call_as_printed(redis_url: str) -> None:
    tools = [
        {
            "type": "function",
            "function": {
                "name": "get_weather",
                "parameters": {"type": "object", "properties": {"city": {"type": "string"}}},
            },
        }
    ]
    messages: list[dict[str, Any]] = [{"role": "user", "content": "How is the weather in Vienna?"}]
    body = textwrap.indent(_block("docs/tool-calls.md", "python", "outcome.tool_calls"), "    ").replace(
        "await client.submit", "return await client.submit"
    )
    names: dict[str, Any] = {
        "GenerationRequest": GenerationRequest,
        "run": lambda name, arguments: f"{name} says: sunny",  # pyright: ignore[reportUnknownLambdaType] - the page's own name, whatever it is
    }
    exec(f"async def go_on(client, request_id, messages, tools):\n{body}", names)  # noqa: S102 - it is the page's block that is to run
    async with rig(redis_url) as tailrace, Client(redis_url) as client:
        first = await client.submit(model="gpt-4o-mini", messages=messages, tools=tools)
        second = await names["go_on"](client, first.id, messages, tools)
        outcome = await tailrace.outcome(second.id)
    assert outcome.status == "completed", outcome.error
    assert outcome.content
    assert [message["role"] for message in messages] == ["user", "assistant", "tool"]
