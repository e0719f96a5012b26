"""The simulator's Responses API through the official SDK: streams, background runs, re-attach, cancel."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from typing import Any

import openai
import pytest
from openai import AsyncOpenAI
from openai.types.responses import (
    Response,
    ResponseCompletedEvent,
    ResponseFailedEvent,
    ResponseIncompleteEvent,
    ResponseStreamEvent,
)

from tailrace.demo.simulator import Simulator

STEPS = [
    {"kind": "reasoning", "parts": ["Look at the wheel.", "Then at the race."]},
    {"kind": "web_search", "query": "mill race"},
    {"kind": "tool_call", "name": "turn", "arguments": {"inner_thoughts": "now", "times": 3}},
    {"kind": "custom_tool_call", "name": "shell", "input": "ls -l"},
    {"kind": "text", "text": "Water flows — 水."},
    {"kind": "refusal", "text": "No."},
]


@pytest.fixture
async def client(simulator: Simulator) -> AsyncIterator[AsyncOpenAI]:
    async with AsyncOpenAI(base_url=simulator.url, api_key="any", max_retries=0) as client:
        yield client


async def events_of(
    client: AsyncOpenAI, scenario: dict[str, Any] | None = None, **more: Any
) -> list[ResponseStreamEvent]:
    body: dict[str, Any] = {"simulator": scenario} if scenario is not None else {}
    request: dict[str, Any] = {"model": "sim", "input": "Hello", **more}
    stream = await client.responses.create(**request, stream=True, extra_body=body)
    return [event async for event in stream]


def final_of(events: list[ResponseStreamEvent]) -> Response:
    last = events[-1]
    assert isinstance(last, ResponseCompletedEvent | ResponseIncompleteEvent | ResponseFailedEvent)
    return last.response


async def test_every_item_streams_as_openai_sends_it(client: AsyncOpenAI) -> None:
    # given: an answer with one item of each kind
    events = await events_of(client, {"steps": STEPS}, include=["reasoning.encrypted_content"])

    # expect: numbered without gap, opened and closed in order
    assert [event.sequence_number for event in events] == list(range(len(events)))
    assert [event.type for event in events[:3]] == [
        "response.created",
        "response.in_progress",
        "response.output_item.added",
    ]
    kinds = {event.type for event in events}
    for stage in ("in_progress", "searching", "completed"):
        assert f"response.web_search_call.{stage}" in kinds
    items = [event.item for event in events if event.type == "response.output_item.done"]
    assert [item.type for item in items] == [
        "reasoning",
        "web_search_call",
        "function_call",
        "custom_tool_call",
        "message",
        "message",
    ]

    # and: the pieces add up to what the items, and the response at the end, say
    final = final_of(events)
    assert final.status == "completed"
    assert final.output == items
    assert final.output_text == "Water flows — 水."
    assert final.usage is not None
    reasoning = items[0]
    assert reasoning.type == "reasoning"
    assert reasoning.encrypted_content
    assert [part.text for part in reasoning.summary] == ["Look at the wheel.", "Then at the race."]

    def joined(kind: str, number: int | None = None) -> str:
        return "".join(
            getattr(event, "delta")  # noqa: B009 -- the events of this name have it, the union has not
            for event in events
            if event.type == kind and number in (None, getattr(event, "summary_index", None))
        )

    assert joined("response.reasoning_summary_text.delta", 1) == "Then at the race."
    assert joined("response.output_text.delta") == "Water flows — 水."
    assert joined("response.refusal.delta") == "No."
    assert joined("response.custom_tool_call_input.delta") == "ls -l"
    assert json.loads(joined("response.function_call_arguments.delta")) == {"inner_thoughts": "now", "times": 3}


async def test_one_body_says_what_the_stream_says(client: AsyncOpenAI) -> None:
    whole = await client.responses.create(model="sim", input="Hello", extra_body={"simulator": {"steps": STEPS}})
    streamed = final_of(await events_of(client, {"steps": STEPS}))

    def spoken(response: Response) -> list[Any]:
        return [item.model_dump(exclude={"id", "call_id"}) for item in response.output]

    assert spoken(whole) == spoken(streamed)


async def test_a_limit_leaves_the_response_incomplete(client: AsyncOpenAI) -> None:
    final = final_of(await events_of(client, model="sim-tool", max_output_tokens=4))

    assert final.status == "incomplete"
    assert final.incomplete_details is not None
    assert final.incomplete_details.reason == "max_output_tokens"
    [call] = final.output
    assert call.type == "function_call"
    assert (call.status, len(call.arguments)) == ("incomplete", 16)


async def test_without_a_scenario_a_tool_is_called_and_its_result_answered(client: AsyncOpenAI) -> None:
    tool: Any = {
        "type": "function",
        "name": "find",
        "strict": False,
        "parameters": {"type": "object", "properties": {"q": {"type": "string"}}},
    }
    first = await client.responses.create(model="sim", input="Hello", tools=[tool], reasoning={"summary": "auto"})
    thought, call = first.output
    assert thought.type == "reasoning"
    assert len(thought.summary) == 2
    assert call.type == "function_call"
    answer = await client.responses.create(
        model="sim",
        previous_response_id=first.id,
        input=[{"type": "function_call_output", "call_id": call.call_id, "output": "found it"}],
        tools=[tool],
    )
    assert "found it" in answer.output_text


async def test_a_failed_response_and_an_error_event(client: AsyncOpenAI) -> None:
    failed = final_of(await events_of(client, {"finish_reason": "failed"}))
    assert (failed.status, failed.error and failed.error.code) == ("failed", "server_error")
    with pytest.raises(openai.APIError, match="broken wheel"):
        await events_of(client, {"faults": [{"kind": "error", "after": 3, "message": "broken wheel"}]})


async def test_a_background_response_runs_without_its_client(client: AsyncOpenAI) -> None:
    # given: one that has been asked for and left to itself
    queued = await client.responses.create(
        model="sim", input="Hello", background=True, extra_body={"simulator": {"pace": {"chunks_per_s": 200}}}
    )
    assert (queued.status, queued.output) == ("queued", [])

    # expect: it ends by itself
    async with asyncio.timeout(10):
        while (standing := await client.responses.retrieve(queued.id)).status != "completed":
            assert standing.status in ("queued", "in_progress")
            await asyncio.sleep(0.01)
    assert "Hello" in standing.output_text


async def test_a_client_that_was_cut_off_attaches_again(client: AsyncOpenAI) -> None:
    # given: a background stream that is cut after each fourteen events, three times over
    scenario = {
        "steps": [{"kind": "text", "text": "The wheel turns, and the water is carried away. " * 4}],
        "pace": {"chunks_per_s": 2000},
        "faults": [{"kind": "cut", "after": 14, "calls": 3}],
        "key": "cut",
    }
    seen: list[ResponseStreamEvent] = []
    stream = await client.responses.create(
        model="sim", input="Hello", background=True, stream=True, extra_body={"simulator": scenario}
    )
    cuts = 0
    while True:
        try:
            async for event in stream:
                seen.append(event)
            break
        except openai.APIError:
            cuts += 1
        first = seen[0]
        assert first.type == "response.created"
        last = seen[-1].sequence_number
        stream = await client.responses.retrieve(first.response.id, stream=True, starting_after=last)

    # expect: every event once, and the text whole
    assert cuts == 3
    assert [event.sequence_number for event in seen] == list(range(len(seen)))
    assert seen[1].type == "response.queued"
    text = "".join(event.delta for event in seen if event.type == "response.output_text.delta")
    assert text == final_of(seen).output_text
    assert text.startswith("The wheel turns")


async def test_cancel_ends_the_stream_that_is_attached(client: AsyncOpenAI) -> None:
    # given: a stream that would take hours
    scenario = {"steps": [{"kind": "text", "chunks": 10_000}], "pace": {"chunks_per_s": 10}}
    stream = await client.responses.create(
        model="sim", input="Hello", background=True, stream=True, extra_body={"simulator": scenario}
    )
    first = await anext(aiter(stream))
    assert first.type == "response.created"

    cancelled = await client.responses.cancel(first.response.id)

    # expect: it ends now, is cancelled for good, and a second cancel says the same
    async with asyncio.timeout(5):
        rest = [event.type async for event in stream]
    assert "response.completed" not in rest
    assert cancelled.status == "cancelled"
    assert (await client.responses.retrieve(first.response.id)).status == "cancelled"
    assert (await client.responses.cancel(first.response.id)).status == "cancelled"


async def test_refusals(client: AsyncOpenAI) -> None:
    with pytest.raises(openai.NotFoundError, match="resp_none"):
        await client.responses.retrieve("resp_none")
    with pytest.raises(openai.BadRequestError) as previous:
        await client.responses.create(model="sim", input="Hello", previous_response_id="resp_none")
    assert previous.value.code == "previous_response_not_found"
    foreground = await client.responses.create(model="sim", input="Hello")
    assert (await client.responses.retrieve(foreground.id)).output_text == foreground.output_text
    with pytest.raises(openai.BadRequestError, match="synchronous"):
        await client.responses.cancel(foreground.id)
    with pytest.raises(openai.BadRequestError, match="stored"):
        await client.responses.create(model="sim", input="Hello", background=True, store=False)
    unkept = await client.responses.create(model="sim", input="Hello", store=False)
    with pytest.raises(openai.NotFoundError):
        await client.responses.retrieve(unkept.id)
    with pytest.raises(openai.BadRequestError, match="input"):
        await client.responses.create(model="sim")
