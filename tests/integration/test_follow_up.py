"""The round after a tool call, on both APIs: what `Outcome.as_messages` gives is accepted as the next request."""

from typing import Any

import pytest

from tailrace.schemas.outcome import Outcome
from tests.rig import Rig, rig

QUESTION = {"role": "user", "content": "How much did the mill grind?"}
CALLS: list[dict[str, Any]] = [
    {"kind": "text", "text": "I count twice."},
    {"kind": "tool_call", "name": "count", "arguments": {"inner_thoughts": "First.", "floor": 1}},
    {"kind": "tool_call", "name": "count", "arguments": {"floor": 2}, "id": "call_second"},
]
REASONED: list[dict[str, Any]] = [{"kind": "reasoning", "parts": ["Two floors."]}, *CALLS]


async def answer(parts: Rig, **request: Any) -> Outcome:
    return await parts.outcome((await parts.client.submit({"model": "sim", **request})).id)


def results_of(outcome: Outcome) -> dict[str, str]:
    return {call.id or "": f"{number} sacks" for number, call in enumerate(outcome.tool_calls, 3)}


async def test_tool_results_go_back_over_chat_completions(redis_url: str) -> None:
    async with rig(redis_url) as parts:
        # given an answer with text and two calls
        simulated = {"extra_body": {"simulator": {"steps": CALLS}}}
        first = await answer(parts, messages=[QUESTION], **simulated)
        assert [call.complete for call in first.tool_calls] == [True, True]

        # if it goes back with the results, expect the server to accept it and to answer them
        messages = [QUESTION, *first.as_messages(results_of(first))]
        second = await answer(parts, messages=messages)
    assert [message["role"] for message in messages] == ["user", "assistant", "tool", "tool"]
    assert second.status == "completed"
    assert "4 sacks" in second.text


@pytest.mark.parametrize("store", [True, False])
async def test_tool_results_go_back_over_the_responses_api(redis_url: str, store: bool) -> None:
    async with rig(redis_url) as parts:
        # given an answer with reasoning, text and two calls, which the server stores or not
        request = {"api": "responses", "store": store, "include": ["reasoning.encrypted_content"]}
        simulated = {"extra_body": {"simulator": {"steps": REASONED}}}
        first = await answer(parts, **request, input=[QUESTION], **simulated)

        # if it goes back with the results, expect the server to accept it and to answer them
        sent = first.as_messages(results_of(first))
        second = await answer(parts, **request, input=[QUESTION, *sent])
    kinds = ["reasoning", "message", "function_call", "function_call", "function_call_output", "function_call_output"]
    assert [item["type"] for item in sent] == kinds
    assert sent[0]["encrypted_content"]
    assert second.status == "completed"
    assert "4 sacks" in second.text


@pytest.mark.parametrize("api", ["chat", "responses"])
async def test_an_answer_that_was_cut_off_goes_back_without_its_unfinished_call(redis_url: str, api: str) -> None:
    async with rig(redis_url, max_attempts=1) as parts:
        # given an answer that breaks off in its last call
        simulated = {"extra_body": {"simulator": {"steps": REASONED[1:], "faults": [{"kind": "cut", "after": 9}]}}}
        asked = {"messages": [QUESTION]} if api == "chat" else {"input": [QUESTION]}
        first = await answer(parts, api=api, **asked, **simulated)
        assert first.status == "failed"

        # if it goes back, expect the server to accept it
        sent = first.as_messages({call.id or "": "none" for call in first.tool_calls if call.complete})
        name, given = next(iter(asked.items()))
        second = await answer(parts, api=api, **{name: [*given, *sent, {"role": "user", "content": "Go on."}]})
    assert second.status == "completed"
    assert "Go on." in second.text
