"""`OpenAIStreamingInterface` on streams of the SDK from the simulator; its messages follow the rules of Letta's."""

from __future__ import annotations

import asyncio
import json
import uuid
from collections.abc import AsyncIterator
from datetime import UTC, datetime
from itertools import groupby
from typing import Any

import openai
import pytest
from openai import AsyncOpenAI, AsyncStream
from openai.types.chat import ChatCompletionChunk

from tailrace.demo.simulator import Simulator
from tailrace.streaming import OpenAIStreamingInterface

Message = dict[str, Any]


@pytest.fixture
async def client() -> AsyncIterator[AsyncOpenAI]:
    async with Simulator() as simulator, AsyncOpenAI(base_url=simulator.url, api_key="any", max_retries=0) as client:
        yield client


async def stream_of(
    client: AsyncOpenAI, model: str, scenario: Message | None = None
) -> AsyncStream[ChatCompletionChunk]:
    return await client.chat.completions.create(
        model=model,
        messages=[{"role": "user", "content": "Hello"}],
        stream=True,
        stream_options={"include_usage": True},
        extra_headers={"x-simulator-scenario": json.dumps(scenario)} if scenario else None,
    )


async def read_into(
    messages: list[Message], interface: OpenAIStreamingInterface, stream: AsyncStream[ChatCompletionChunk]
) -> None:
    async for message in interface.process(stream):
        messages.append(message)


def text_of(messages: list[Message], key: str) -> str:
    return "".join(message.get(key, "") for message in messages)


def arguments_of(messages: list[Message]) -> str:
    return "".join(message["tool_call"].get("arguments", "") for message in messages if "tool_call" in message)


def check_message_rules(interface: OpenAIStreamingInterface, messages: list[Message]) -> None:
    """Checks the ids by type, and each otid: the id with the number of the run, from 0, in its low 7 bits."""
    runs = [list(run) for _, run in groupby(messages, key=lambda message: message["message_type"])]
    for number, run in enumerate(runs):
        for message in run:
            of_assistant = message["message_type"] == "assistant_message"
            expected = interface.letta_assistant_message_id if of_assistant else interface.letta_tool_message_id
            assert message["id"] == expected
            base = uuid.UUID(expected.removeprefix("message-")).int
            assert uuid.UUID(message["otid"]).int == (base & ~127) | number
            assert datetime.fromisoformat(message["date"]).utcoffset() is not None


async def test_a_call_of_send_message_in_assistant_mode(client: AsyncOpenAI) -> None:
    # given: assistant mode, and a call of send_message
    interface = OpenAIStreamingInterface(True, True)
    stream = await stream_of(client, "sim-letta")
    # if: it is read to its end
    messages = [message async for message in interface.process(stream)]
    # expect: reasoning, the decoded text, and the whole call for the agent loop
    thoughts = 'A new face. I greet them "warmly" and ask for a name.'
    assert text_of(messages, "reasoning") == interface.get_reasoning_content() == thoughts
    assert text_of(messages, "content") == "Hello! I am glad you came. \N{WATER WAVE}\nWhat is your name?"
    assert {message["message_type"] for message in messages} == {"reasoning_message", "assistant_message"}
    check_message_rules(interface, messages)
    call = interface.get_tool_call_object()
    assert call is not None
    assert call.complete
    assert call.function.name == "send_message"
    assert json.loads(call.function.arguments)["inner_thoughts"] == thoughts
    assert call.id
    assert interface.input_tokens > 0
    assert interface.output_tokens > 0
    assert (interface.model, bool(interface.message_id)) == ("sim-letta", True)
    assert stream.response.is_closed


async def test_a_tool_call(client: AsyncOpenAI) -> None:
    interface = OpenAIStreamingInterface()
    messages = [message async for message in interface.process(await stream_of(client, "sim-tool"))]
    kinds = [kind for kind, _ in groupby(message["message_type"] for message in messages)]
    assert kinds == ["reasoning_message", "tool_call_message"]
    assert json.loads(arguments_of(messages)) == {"city": "Vienna", "unit": "celsius"}
    first = next(message["tool_call"] for message in messages if "tool_call" in message)
    assert first["name"] == "get_weather"
    assert "arguments" not in first
    assert {message["source"] for message in messages if "reasoning" in message} == {"non_reasoner_model"}
    check_message_rules(interface, messages)


async def test_an_answer_of_text_only(client: AsyncOpenAI) -> None:
    interface = OpenAIStreamingInterface()
    messages = [message async for message in interface.process(await stream_of(client, "sim-unicode"))]
    assert text_of(messages, "content") == interface.outcome.content
    assert interface.get_tool_call_object() is None
    assert interface.get_reasoning_content() == ""


async def test_a_call_that_was_cut_off_is_not_complete(client: AsyncOpenAI) -> None:
    interface = OpenAIStreamingInterface()
    messages = [message async for message in interface.process(await stream_of(client, "sim-length"))]
    call = interface.get_tool_call_object()
    assert call is not None
    assert not call.complete
    assert interface.outcome.finish_reason == "length"
    assert arguments_of(messages) == '{"city": "Vien'


async def test_an_error_in_the_stream_is_raised_after_held_back_messages(client: AsyncOpenAI) -> None:
    # given: a call that is still held back when the error comes
    scenario = {
        "steps": [{"kind": "tool_call", "name": "get_weather", "arguments": '{"q": 1, "inner'}],
        "faults": [{"kind": "error", "after": 3}],
    }
    interface = OpenAIStreamingInterface()
    stream = await stream_of(client, "sim", scenario)
    messages: list[Message] = []
    # expect: the SDK's error unchanged, and no message lost before it
    with pytest.raises(openai.APIError):
        await read_into(messages, interface, stream)
    assert any(message.get("tool_call", {}).get("name") == "get_weather" for message in messages)
    assert interface.outcome.status == "failed"
    assert stream.response.is_closed


async def test_a_stream_that_is_left_is_closed(client: AsyncOpenAI) -> None:
    interface = OpenAIStreamingInterface()
    stream = await stream_of(client, "sim-long")
    messages = interface.process(stream)
    await anext(messages)
    with pytest.raises(RuntimeError, match="process"):
        _ = interface.outcome
    await messages.aclose()
    assert stream.response.is_closed
    assert interface.outcome.status == "cancelled"
    assert interface.outcome.content


async def test_ids_and_times_can_be_injected(client: AsyncOpenAI) -> None:
    ids = iter([uuid.UUID(int=1 << 100), uuid.UUID(int=1 << 101)])
    seconds = iter([10.0] + [10.5] * 1000)
    interface = OpenAIStreamingInterface(
        make_uuid=lambda: next(ids),
        now=lambda: datetime(2026, 1, 1, tzinfo=UTC),
        monotonic_s=lambda: next(seconds),
    )
    messages = [message async for message in interface.process(await stream_of(client, "sim-text"))]
    assert messages[0] == {
        "id": "message-00000010-0000-0000-0000-000000000000",
        "date": "2026-01-01T00:00:00.500+00:00",
        "message_type": "assistant_message",
        "otid": "00000010-0000-0000-0000-000000000000",
        "content": messages[0]["content"],
    }


async def test_an_error_that_the_sdk_does_not_detect_is_in_the_outcome() -> None:
    # given: a server that sends its error inside a choice (OpenRouter) and then ends the stream
    wrong = {"index": 0, "delta": {}, "error": {"code": 502, "message": "the mill stands still"}}
    body = (
        b"data: " + json.dumps({"id": "c-1", "object": "chat.completion.chunk", "choices": [wrong]}).encode() + b"\n\n"
    )

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        head = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\nconnection: close\r\n\r\n"
        writer.write(head + body + b"data: [DONE]\n\n")
        await writer.drain()
        writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    interface = OpenAIStreamingInterface()
    async with server, AsyncOpenAI(base_url=f"http://127.0.0.1:{port}", api_key="any", max_retries=0) as client:
        # if: it is read through the SDK
        await read_into([], interface, await stream_of(client, "m"))
    # expect: that error, not a truncation
    assert interface.outcome.error is not None
    assert "the mill stands still" in interface.outcome.error.message
