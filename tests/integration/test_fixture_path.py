"""Every fixture over the whole path: a server that sends it in pieces, worker, log, tail and outcome.

The result must be that of the stream decoder alone, which other tests compare with the fixture.
"""

import asyncio
import json
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from pathlib import Path
from random import Random
from typing import Any

import pytest

from tailrace.schemas.deltas import Api, AssistantDelta, Delta, ReasoningDelta, ToolCallDelta
from tailrace.schemas.interface_options import InterfaceOptions
from tailrace.schemas.outcome import Outcome
from tailrace.worker.interface.stream_decoder import StreamDecoder
from tests.chat_reading import Joined, joined
from tests.rig import Rig, rig

FIXTURES = Path(__file__).parents[1] / "fixtures"
HEAD = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\nconnection: close\r\n\r\n"
OF_ANSWER = (
    "status finish_reason content refusal reasoning reasoning_source tool_calls usage api model upstream_id "
    "upstream_sequence error items notes message_extra output"
).split()
LARGEST_PIECE = 60
AT_ONCE = 20


async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Responds to one request with the fixture that its `model` names, cut at arbitrary bytes."""
    head = await reader.readuntil(b"\r\n\r\n")
    lengths = [line.split(b":")[1] for line in head.lower().split(b"\r\n") if line.startswith(b"content-length:")]
    name: str = json.loads(await reader.readexactly(int(lengths[0])))["model"]
    body, dice = (FIXTURES / name).read_bytes(), Random(name)  # noqa: S311 - the same cuts in every run
    writer.write(HEAD)
    at = 0
    while at < len(body):
        piece = body[at : at + dice.randint(1, LARGEST_PIECE)]
        writer.write(b"%x\r\n%b\r\n" % (len(piece), piece))
        await writer.drain()
        at += len(piece)
    writer.write(b"0\r\n\r\n")
    await writer.drain()
    writer.close()


@asynccontextmanager
async def fixture_rig(redis_url: str) -> AsyncGenerator[Rig]:
    server = await asyncio.start_server(_served, "127.0.0.1", 0)
    port: int = server.sockets[0].getsockname()[1]
    async with server:
        environment = {"OPENAI_BASE_URL": f"http://127.0.0.1:{port}/v1"}
        async with rig(redis_url, environment=environment, max_attempts=1) as parts:
            yield parts


async def _served(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    try:
        await serve(reader, writer)
    except ConnectionError:  # the worker closes as soon as the answer has ended
        writer.close()


def of_answer(outcome: Outcome) -> dict[str, Any]:
    """The fields of an outcome that depend on the answer alone."""
    return {field: getattr(outcome, field) for field in OF_ANSWER}


def alone(api: Api, path: Path) -> tuple[Joined, dict[str, Any]]:
    """The result of the decoder alone."""
    decoder = StreamDecoder(api, InterfaceOptions())
    deltas = decoder.feed(path.read_bytes()) + decoder.close()
    return joined(deltas), of_answer(decoder.finish())


async def over_the_path(parts: Rig, api: Api, name: str) -> tuple[Joined, dict[str, Any]]:
    """The deltas in a tail and the outcome of a request that gets this body."""
    asked = {"messages": [{"role": "user", "content": "hello"}]} if api == "chat" else {"input": "hello"}
    accepted = await parts.client.submit({"model": name, "api": api, **asked})
    entries = await parts.entries(accepted.id)
    deltas: list[Delta] = [
        item.entry for item in entries if isinstance(item.entry, AssistantDelta | ReasoningDelta | ToolCallDelta)
    ]
    return joined(deltas), of_answer(await parts.outcome(accepted.id))


@pytest.mark.parametrize("api", ["chat", "responses"])
async def test_the_whole_path_gives_the_result_of_the_decoder(redis_url: str, api: Api) -> None:
    # given: a server that sends each fixture in pieces of any size
    paths = sorted((FIXTURES / api).glob("*.sse"))
    assert len(paths) > 40
    room = asyncio.Semaphore(AT_ONCE)
    async with fixture_rig(redis_url) as parts:

        async def check(path: Path) -> str | None:
            async with room:
                came = await over_the_path(parts, api, f"{api}/{path.name}")
            return None if came == alone(api, path) else path.stem

        # if: a request gets it as response; expect: deltas and outcome of the decoder that reads it at once
        assert [name for name in await asyncio.gather(*map(check, paths)) if name] == []
