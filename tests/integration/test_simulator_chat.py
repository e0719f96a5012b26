"""The simulator through the official SDK: Chat Completions, models, errors."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from typing import Any

import openai
import pytest
from openai import AsyncOpenAI
from openai.types.chat import ChatCompletionChunk, ChatCompletionMessageParam

from tailrace.demo.simulator import Simulator

HELLO: list[ChatCompletionMessageParam] = [{"role": "user", "content": "Hello"}]


@pytest.fixture
async def client(simulator: Simulator) -> AsyncIterator[AsyncOpenAI]:
    async with AsyncOpenAI(base_url=simulator.url, api_key="any", max_retries=0) as client:
        yield client


async def chunks_of(client: AsyncOpenAI, model: str, **more: Any) -> list[ChatCompletionChunk]:
    stream = await client.chat.completions.create(model=model, messages=HELLO, stream=True, **more)
    return [chunk async for chunk in stream]


def text_of(chunks: list[ChatCompletionChunk]) -> str:
    return "".join(choice.delta.content or "" for chunk in chunks for choice in chunk.choices)


def calls_of(chunks: list[ChatCompletionChunk]) -> dict[int, tuple[str, str]]:
    """Name and arguments of each call, by its index."""
    names: dict[int, str] = {}
    arguments: dict[int, str] = {}
    for call in (call for chunk in chunks for choice in chunk.choices for call in choice.delta.tool_calls or ()):
        assert call.function is not None
        if call.id is not None:
            names[call.index] = call.function.name or ""
        arguments[call.index] = arguments.get(call.index, "") + (call.function.arguments or "")
    return {index: (name, arguments[index]) for index, name in names.items()}


def end_of(chunks: list[ChatCompletionChunk]) -> str | None:
    return next(chunk.choices[0].finish_reason for chunk in reversed(chunks) if chunk.choices)


async def test_text_streams_as_openai_sends_it(client: AsyncOpenAI) -> None:
    # given: a stream that is asked to say what it used
    chunks = await chunks_of(client, "sim-text", stream_options={"include_usage": True})

    # expect: the role alone, the text, the reason, the usage without choices
    first, *_, last, usage = chunks
    assert first.choices[0].delta.model_dump(exclude_unset=True) == {
        "role": "assistant",
        "content": "",
        "refusal": None,
    }
    assert text_of(chunks).startswith("A tailrace carries")
    assert last.choices[0].finish_reason == "stop"
    assert last.choices[0].delta.model_dump(exclude_unset=True) == {}
    assert usage.choices == []
    assert usage.usage is not None
    assert usage.usage.completion_tokens == len(chunks) - 3
    assert all("usage" in chunk.model_fields_set and chunk.usage is None for chunk in chunks[:-1])
    assert len({(chunk.id, chunk.created, chunk.model, chunk.system_fingerprint) for chunk in chunks}) == 1


async def test_usage_comes_only_when_asked_for_or_scripted(client: AsyncOpenAI) -> None:
    plain = await chunks_of(client, "sim-text")
    every = await chunks_of(client, "sim-usage_in_every_chunk")

    assert not any("usage" in chunk.model_fields_set for chunk in plain)
    counts = [chunk.usage.completion_tokens for chunk in every if chunk.usage]
    assert len(counts) == len(every)
    assert counts == sorted(counts)


async def test_a_letta_call_thinks_first_and_then_speaks(client: AsyncOpenAI) -> None:
    chunks = await chunks_of(client, "sim-letta")

    name, arguments = calls_of(chunks)[0]
    assert name == "send_message"
    assert list(json.loads(arguments)) == ["inner_thoughts", "message", "request_heartbeat"]
    assert end_of(chunks) == "tool_calls"


async def test_parallel_calls_are_interleaved(client: AsyncOpenAI) -> None:
    chunks = await chunks_of(client, "sim-parallel")

    calls = calls_of(chunks)
    assert [name for name, _ in calls.values()] == ["get_weather", "get_time", "add_note"]
    assert all(json.loads(arguments) for _, arguments in calls.values())
    order = [call.index for chunk in chunks for choice in chunk.choices for call in choice.delta.tool_calls or ()]
    assert order[:6] == [0, 1, 2, 0, 1, 2]


async def test_other_named_scenarios(client: AsyncOpenAI) -> None:
    refusal = await chunks_of(client, "sim-refusal")
    assert "".join(c.choices[0].delta.refusal or "" for c in refusal) == "I am sorry, but I cannot help with that."
    cut_off = await chunks_of(client, "sim-length")
    assert end_of(cut_off) == "length"
    with pytest.raises(json.JSONDecodeError):
        json.loads(calls_of(cut_off)[0][1])
    reasoning = await chunks_of(client, "sim-reasoning")
    thought = "".join(getattr(chunk.choices[0].delta, "reasoning_content", None) or "" for chunk in reasoning)
    assert thought.startswith("**Reading the question**\n\nWater leaves by the race.\n\n**Answering**")
    assert text_of(await chunks_of(client, "sim-empty")) == ""
    assert len(await chunks_of(client, "sim-long-300")) == 302


async def test_one_body_says_what_the_stream_says(client: AsyncOpenAI) -> None:
    for model in ("sim-text", "sim-refusal", "sim-parallel", "sim-length", "sim-empty"):
        chunks = await chunks_of(client, model)
        whole = await client.chat.completions.create(model=model, messages=HELLO)
        choice = whole.choices[0]
        calls = [call for call in choice.message.tool_calls or () if call.type == "function"]
        assert (choice.message.content or "") == text_of(chunks)
        assert choice.finish_reason == end_of(chunks)
        assert [(call.function.name, call.function.arguments) for call in calls] == list(calls_of(chunks).values())
        assert whole.usage is not None


async def test_a_loop_of_tool_and_answer_without_a_scenario(client: AsyncOpenAI) -> None:
    # given: a tool, and no word of what to answer
    properties = {"q": {"type": "string"}, "inner_thoughts": {"type": "string"}}
    function = {"name": "find", "parameters": {"type": "object", "properties": properties}}
    tool: Any = {"type": "function", "function": function}
    first = await client.chat.completions.create(model="sim", messages=HELLO, tools=[tool])
    again = await client.chat.completions.create(model="sim", messages=HELLO, tools=[tool])

    # expect: the tool is called, the same way each time; its result is answered in text
    [call] = first.choices[0].message.tool_calls or []
    [same] = again.choices[0].message.tool_calls or []
    assert call.type == "function"
    assert same.type == "function"
    assert call.function == same.function
    messages: Any = [
        *HELLO,
        first.choices[0].message.model_dump(exclude_none=True),
        {"role": "tool", "tool_call_id": call.id, "content": "found it"},
    ]
    answer = await client.chat.completions.create(model="sim", messages=messages, tools=[tool])
    assert "found it" in (answer.choices[0].message.content or "")


async def test_the_scenario_may_come_in_the_body_or_the_header(client: AsyncOpenAI) -> None:
    scenario = {"steps": [{"kind": "text", "text": "as told"}]}

    by_header = await chunks_of(client, "sim", extra_headers={"x-simulator-scenario": json.dumps(scenario)})
    by_body = await chunks_of(client, "gpt-4o", extra_body={"simulator": scenario})
    by_metadata = await chunks_of(client, "sim", metadata={"simulator": json.dumps(scenario)})

    assert [text_of(chunks) for chunks in (by_header, by_body, by_metadata)] == ["as told"] * 3
    with pytest.raises(openai.BadRequestError, match="simulator scenario: Object contains unknown field `stepps`"):
        await chunks_of(client, "sim", extra_body={"simulator": {"stepps": []}})


async def test_headers_are_those_of_openai(client: AsyncOpenAI) -> None:
    raw = await client.chat.completions.with_raw_response.create(model="sim", messages=HELLO, stream=True)

    assert raw.headers["content-type"] == "text/event-stream; charset=utf-8"
    assert raw.headers["transfer-encoding"] == "chunked"
    assert raw.headers["openai-version"] == "2020-10-01"
    for name in ("x-request-id", "openai-processing-ms", "x-ratelimit-remaining-tokens"):
        assert raw.headers[name]
    await raw.http_response.aclose()


async def test_errors_are_those_of_openai(simulator: Simulator, client: AsyncOpenAI) -> None:
    with pytest.raises(openai.NotFoundError) as unknown:
        await chunks_of(client, "claude")
    assert unknown.value.code == "model_not_found"
    with pytest.raises(openai.RateLimitError) as limited:
        await chunks_of(client, "sim-rate_limit")
    assert limited.value.code == "rate_limit_exceeded"
    assert limited.value.response.headers["retry-after"] == "1"
    assert limited.value.response.headers["retry-after-ms"] == "1000"
    assert limited.value.response.headers["x-ratelimit-reset-requests"] == "1s"
    with pytest.raises(openai.RateLimitError) as quota:
        await chunks_of(client, "sim-quota")
    assert (quota.value.code, quota.value.type) == ("insufficient_quota", "insufficient_quota")
    assert "retry-after" not in quota.value.response.headers
    with pytest.raises(openai.InternalServerError) as overloaded:
        await chunks_of(client, "sim-overloaded")
    assert overloaded.value.status_code == 503
    with pytest.raises(openai.NotFoundError):
        await client.embeddings.create(model="sim", input="x")
    assert [entry.status for entry in simulator.ledger.entries()] == [404, 429, 429, 503, 404]


async def test_a_key_may_be_insisted_on() -> None:
    async with Simulator(key="right") as simulator:
        async with AsyncOpenAI(base_url=simulator.url, api_key="wrong-key-of-mine", max_retries=0) as client:
            with pytest.raises(openai.AuthenticationError) as refused:
                await client.models.list()
        async with AsyncOpenAI(base_url=simulator.url, api_key="right", max_retries=0) as client:
            models = [model.id async for model in client.models.list()]
    assert refused.value.code == "invalid_api_key"
    assert "wrong-key-of-mine" not in refused.value.message
    assert {"sim", "sim-letta"} < set(models)


async def test_errors_only_for_the_first_calls(simulator: Simulator) -> None:
    # given: two calls fail, counted under a key, and a client that tries again
    scenario = {
        "key": "flaky",
        "faults": [{"kind": "status", "status": 500, "calls": 2}],
        "steps": [{"kind": "text", "text": "at last"}],
    }
    async with AsyncOpenAI(base_url=simulator.url, api_key="any", max_retries=2) as client:
        chunks = await chunks_of(client, "sim", extra_body={"simulator": scenario})

    # expect: the third is answered, and the simulator knows of all
    assert text_of(chunks) == "at last"
    entries = simulator.ledger.entries()
    assert [(entry.key, entry.call, entry.status) for entry in entries] == [
        ("flaky", 1, 500),
        ("flaky", 2, 500),
        ("flaky", 3, 200),
    ]


async def test_bytes_cut_anywhere_say_the_same(client: AsyncOpenAI) -> None:
    whole = await chunks_of(client, "sim-unicode")
    split = await chunks_of(client, "sim-unicode", extra_body={"simulator": {"chunking": {"split_bytes": 3}}})

    assert text_of(split) == text_of(whole)
    assert "🌊" in text_of(whole)
