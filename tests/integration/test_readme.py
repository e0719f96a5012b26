"""The README's blocks, run as they are printed but for the Redis they name."""

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

_README = (Path(__file__).parents[2] / "README.md").read_text()
_TAILRACE = Path(sys.executable).with_name("tailrace")


def _blocks(language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```$", _README, re.MULTILINE | re.DOTALL)


def _block(language: str, having: str) -> str:
    (found,) = [block for block in _blocks(language) if having in block]
    return found


async def _run(*command: str, url: str) -> tuple[int | None, str, str]:
    environment = {**os.environ, "TAILRACE_REDIS_URL": url, "PATH": f"{_TAILRACE.parent}:{os.environ['PATH']}"}
    program = await asyncio.create_subprocess_exec(*command, stdin=DEVNULL, stdout=PIPE, stderr=PIPE, env=environment)
    async with asyncio.timeout(WAIT_S):
        out, complaints = await program.communicate()
    return program.returncode, out.decode(), complaints.decode()


@pytest.mark.parametrize("having", ["asyncio.run(main())", "SyncClient"])
async def test_a_python_example_runs_as_printed(redis_url: str, having: str) -> None:
    async with rig(redis_url):
        script = _block("python", having).replace(DEFAULT_REDIS_URL, redis_url)
        code, out, complaints = await _run(sys.executable, "-c", script, url=redis_url)
    assert code == 0, complaints
    assert "completed" in out


async def test_the_shell_example_submits_tails_and_reads_the_outcome(redis_url: str) -> None:
    script = "set -e\n" + _block("sh", "tailrace tail").replace("tailrace result", "sleep 0; tailrace result")
    async with rig(redis_url):
        code, out, complaints = await _run("bash", "-c", script, url=redis_url)
    assert code == 0, complaints
    assert "[completed]" in out
    assert '"status":"completed"' in out
    assert "completed already" in out  # a cancel of what has finished says so


def test_the_request_in_full_is_accepted_and_shows_every_interface_option() -> None:
    given: dict[str, Any] = json.loads(_block("json", '"interface"'))
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
    body = textwrap.indent(_block("python", "outcome.tool_calls"), "    ").replace(
        "await client.submit", "return await client.submit"
    )
    names: dict[str, Any] = {
        "GenerationRequest": GenerationRequest,
        "run": lambda name, arguments: f"{name} says: sunny",  # pyright: ignore[reportUnknownLambdaType] - the README's own name, whatever it is
    }
    exec(f"async def go_on(client, request_id, messages, tools):\n{body}", names)  # noqa: S102 - it is the README's block that is to run
    async with rig(redis_url) as tailrace, Client(redis_url) as client:
        first = await client.submit(model="gpt-4o-mini", messages=messages, tools=tools)
        second = await names["go_on"](client, first.id, messages, tools)
        outcome = await tailrace.outcome(second.id)
    assert outcome.status == "completed", outcome.error
    assert outcome.content
    assert [message["role"] for message in messages] == ["user", "assistant", "tool"]
