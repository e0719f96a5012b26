"""The simulator without its sockets: scenarios, how answers are cut and paced, and what stored responses say."""

from __future__ import annotations

import json
from itertools import pairwise
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tailrace.demo.simulator import ScenarioError, chat
from tailrace.demo.simulator.call import made_up
from tailrace.demo.simulator.errors import ApiError, duration
from tailrace.demo.simulator.improvise import improvise
from tailrace.demo.simulator.library import NAMED, choose_scenario, knows_model
from tailrace.demo.simulator.plan import Plan, cut, make_plan
from tailrace.demo.simulator.playback import Beat, play, schedule
from tailrace.demo.simulator.request import Asked, read_body, read_chat, read_responses
from tailrace.demo.simulator.responses import Answer
from tailrace.demo.simulator.scenario import Chunking, Scenario, ToolCall, parse_scenario
from tailrace.demo.simulator.stored import Stored

WEATHER: dict[str, Any] = {
    "type": "function",
    "function": {
        "name": "get_weather",
        "parameters": {
            "type": "object",
            "properties": {
                "city": {"type": "string"},
                "unit": {"enum": ["celsius", "kelvin"]},
                "days": {"type": "integer", "minimum": 2, "maximum": 3},
                "where": {"$ref": "#/$defs/place"},
                "inner_thoughts": {"type": "string"},
            },
            "$defs": {"place": {"type": "object", "properties": {"inside": {"$ref": "#/$defs/place"}}}},
        },
    },
}


def asked(**body: Any) -> Asked:
    request: dict[str, Any] = {"model": "sim", "messages": [{"role": "user", "content": "Hello mill"}], **body}
    return read_chat(request)


def plan_of(scenario: Scenario, max_tokens: int | None = None) -> Plan:
    return make_plan(scenario.steps or (), scenario, input_tokens=3, max_tokens=max_tokens)


def played(scenario: Scenario, events: list[bytes], *, error: bytes = b"data: oops\n\n") -> list[Beat]:
    return list(play(schedule(events, scenario, 0), scenario, scenario.faults, lambda fault, sent: error))


@given(st.text(), st.integers(1, 9), st.none() | st.integers())
def test_cutting_loses_nothing(text: str, chars: int, seed: int | None) -> None:
    fragments = cut(text, Chunking(chars=chars, seed=seed))

    assert "".join(fragments) == text
    assert all(0 < len(fragment) < 2 * chars for fragment in fragments)


@given(st.lists(st.binary(min_size=1), min_size=1), st.integers(1, 5), st.integers(0, 9))
def test_splitting_bytes_loses_nothing(events: list[bytes], most: int, seed: int) -> None:
    # given: a scenario that splits the body at arbitrary bytes
    scenario = Scenario(chunking=Chunking(split_bytes=most), seed=seed)

    beats = played(scenario, events)

    # expect: the same bytes, no piece longer than asked for, and as many events as there were
    assert b"".join(beat.data for beat in beats) == b"".join(events)
    assert all(len(beat.data) <= most for beat in beats)
    assert sum(beat.events for beat in beats) == len(events)


@pytest.mark.parametrize(
    ("given", "part"),
    [
        ({"step": []}, "step"),
        ({"steps": [{"kind": "dance"}]}, "dance"),
        ({"steps": [{"kind": "tool_call"}]}, "name"),
        ({"pace": {"jitter": 2}}, "jitter"),
        ({"chunking": {"chars": 0}}, "chars"),
        ({"faults": [{"kind": "cut"}]}, "after"),
        ({"faults": [{"kind": "cut", "after": -1}]}, "after"),
        ({"faults": [{"kind": "status", "status": 200}]}, "status"),
        ({"name": "nonesuch"}, "nonesuch"),
        ({"keepalive_s": 0}, "keepalive_s"),
    ],
)
def test_a_wrong_scenario_is_refused_by_name(given: dict[str, Any], part: str) -> None:
    with pytest.raises(ScenarioError, match=part):
        choose_scenario(json.dumps(given), {}, "sim")


def test_every_named_scenario_is_one() -> None:
    for name, scenario in NAMED.items():
        parse_scenario(scenario)
        assert knows_model(f"sim-{name}")


def test_the_header_goes_before_the_body_and_the_body_before_the_model() -> None:
    # given: three scenarios in one request
    body = {"metadata": {"simulator": '{"seed": 2}'}}

    # expect: the first of them decides; the model's name fills in what it leaves open
    assert choose_scenario('{"seed": 1}', body, "sim-letta").seed == 1
    assert choose_scenario(None, body, "sim-letta").seed == 2
    assert choose_scenario(None, {"simulator": {"seed": 3}}, "sim-letta").seed == 3
    assert choose_scenario('{"seed": 1}', body, "sim-letta").steps == choose_scenario(None, {}, "sim-letta").steps
    assert choose_scenario('{"name": "text"}', {}, "sim-letta").steps == choose_scenario(None, {}, "sim-text").steps


@pytest.mark.parametrize("model", ["sim-nonesuch", "claude", "simx", "o", "", "gpt-"])
def test_other_models_are_unknown(model: str) -> None:
    assert not knows_model(model)


@pytest.mark.parametrize("model", ["sim", "sim-letta", "sim-long-20", "gpt-4o", "gpt-5-nano", "o3-mini", "o1"])
def test_models_served(model: str) -> None:
    assert knows_model(model)


def test_events_are_paced_and_jitter_stays_in_bounds() -> None:
    # given: ten events a second, each gap up to half as long again or as short
    scenario = parse_scenario({"pace": {"chunks_per_s": 10, "jitter": 0.5}})

    times = [beat.at_s for beat in played(scenario, [b"x"] * 50)]

    gaps = [after - before for before, after in pairwise(times[:-1])]  # the last is the end, which has no gap
    assert all(0.05 <= gap <= 0.15 for gap in gaps)
    assert len({round(gap, 6) for gap in gaps}) > 1


@pytest.mark.parametrize(
    ("fault", "sent", "then"),
    [
        ({"kind": "cut", "after": 0}, b"", "cut"),
        ({"kind": "cut", "after": 2}, b"ab", "cut"),
        ({"kind": "rst", "after": 1}, b"a", "rst"),
        ({"kind": "end", "after": 1}, b"a", "end"),
        ({"kind": "error", "after": 1}, b"adata: oops\n\n", "end"),
        ({"kind": "garbage", "after": 1, "data": "<"}, b"adata: <\n\nbc", "end"),
        ({"kind": "cut", "after": 3}, b"abc", "cut"),
        ({"kind": "cut", "after": 4}, b"abc", "end"),
    ],
)
def test_a_fault_strikes_after_so_many_events(fault: dict[str, Any], sent: bytes, then: str) -> None:
    beats = played(parse_scenario({"faults": [fault]}), [b"a", b"b", b"c"])

    assert b"".join(beat.data for beat in beats) == sent
    assert beats[-1].then == then


def test_a_stall_delays_what_follows_and_comments_fill_the_silence() -> None:
    scenario = parse_scenario({"keepalive_s": 1, "faults": [{"kind": "stall", "after": 1, "for_s": 2.5}]})

    beats = played(scenario, [b"a", b"b"])

    assert [(beat.at_s, beat.data) for beat in beats] == [
        (0.0, b"a"),
        (1.0, b": keep-alive\n\n"),
        (2.0, b": keep-alive\n\n"),
        (2.5, b"b"),
        (2.5, b""),
    ]


def test_a_stall_for_ever_never_ends() -> None:
    beats = played(parse_scenario({"faults": [{"kind": "stall", "after": 1}]}), [b"a", b"b"])

    assert [beat.data for beat in beats] == [b"a", b""]
    assert beats[-1].at_s == float("inf")
    assert beats[-1].then == "go on"


def test_the_token_limit_cuts_a_call_in_its_middle() -> None:
    # given: a call of more fragments than the request admits
    scenario = choose_scenario(None, {}, "sim-tool")

    plan = plan_of(scenario, max_tokens=3)

    # expect: it is cut and says so
    assert (plan.length, plan.output_tokens, plan.parts[0].complete) == (True, 3, False)
    step = plan.parts[0].step
    assert isinstance(step, ToolCall)
    assert plan.parts[0].text == step.raw[:12]


def test_obfuscation_hides_the_length_of_fragments() -> None:
    scenario = parse_scenario({"name": "text", "steps": [{"kind": "text", "text": "a" * 9}], "chunking": {"seed": 1}})
    stamp = chat.Stamp("chatcmpl-1", 0, "sim", ())

    events = list(chat.Stream(plan_of(scenario), scenario, stamp, {}).events())
    plain = list(chat.Stream(plan_of(scenario), scenario, stamp, {"include_obfuscation": False}).events())

    deltas = [len(event) for event in events if b'"delta":{"content":"a' in event]
    assert len(deltas) > 1
    assert {length % 16 for length in deltas} == {deltas[0] % 16}
    assert not any(b"obfuscation" in event for event in plain)


def test_an_improvised_call_is_always_the_same_and_thinks_first() -> None:
    request = asked(tools=[WEATHER])

    [step] = improvise(request, 7)

    assert isinstance(step, ToolCall)
    assert improvise(request, 7) == (step,)
    arguments = json.loads(step.raw)
    assert list(arguments) == ["inner_thoughts", "city", "unit", "days", "where"]
    assert arguments["unit"] in ("celsius", "kelvin")
    assert arguments["days"] in (2, 3)
    assert "Hello mill" in arguments["inner_thoughts"]


@pytest.mark.parametrize("parameters", [{"properties": 3}, {"properties": {"a": {"type": "integer", "minimum": "x"}}}])
def test_a_schema_that_is_none_is_refused(parameters: Any) -> None:
    with pytest.raises(ApiError) as refused:
        improvise(asked(tools=[{"type": "function", "function": {"name": "f", "parameters": parameters}}]), 0)
    assert (refused.value.status, refused.value.code) == (400, "invalid_function_parameters")


@pytest.mark.parametrize(
    ("body", "code", "param"),
    [
        ({}, None, None),
        ({"model": 3}, "invalid_type", "model"),
        ({"model": "sim"}, "missing_required_parameter", "messages"),
        ({"model": "sim", "messages": []}, "empty_array", "messages"),
        ({"model": "sim", "messages": "hi"}, "invalid_type", "messages"),
        ({"model": "sim", "messages": [{"role": "king", "content": ""}]}, "invalid_value", "messages[0].role"),
        ({"model": "sim", "messages": [{"role": "tool", "content": ""}]}, None, "messages.[0].role"),
        ({"model": "sim", "messages": [{"role": "user"}], "max_tokens": 0}, "integer_below_min_value", "max_tokens"),
        ({"model": "sim", "messages": [{"role": "user"}], "stream_options": {}}, None, "stream_options"),
    ],
)
def test_a_wrong_request_is_refused_as_openai_does(body: Any, code: str | None, param: str | None) -> None:
    with pytest.raises(ApiError) as refused:
        read_chat(read_body(json.dumps(body).encode()))
    assert (refused.value.status, refused.value.code, refused.value.param) == (400, code, param)


def test_every_call_must_have_its_result() -> None:
    # given: an assistant message with two calls
    call = {"role": "assistant", "tool_calls": [{"id": "a"}, {"id": "b"}]}
    results = [{"role": "tool", "tool_call_id": id, "content": "ok"} for id in "ab"]

    # expect: both answered is right, one left open is refused
    assert asked(messages=[call, *results]).answers_tool == "ok"
    with pytest.raises(ApiError, match="No response for: b"):
        asked(messages=[call, results[0]])
    with pytest.raises(ApiError, match="No response for: b"):
        asked(messages=[call, results[0], {"role": "user", "content": "and?"}])


@pytest.mark.parametrize(("seconds", "text"), [(0.02, "20ms"), (1.5, "1.5s"), (59, "59s"), (360, "6m0s")])
def test_durations_are_written_as_openai_does(seconds: float, text: str) -> None:
    assert duration(seconds) == text


def background(**scenario: Any) -> Stored:
    request = read_responses({"model": "sim", "input": "Hello", "background": True})
    chosen = parse_scenario({"steps": [{"kind": "text", "text": "abcdefgh"}], **scenario})
    return Stored(Answer(request, plan_of(chosen), chosen, made_up, 0), chosen, 1.0, started_s=100.0)


def test_a_background_response_goes_its_way_by_the_clock() -> None:
    # given: a response with an event a second that waits five in the queue
    stored = background(pace={"first_byte_delay_s": 5})

    # expect: it is queued, then runs, then has ended, with its text
    assert stored.snapshot(100.0)["status"] == "queued"
    assert stored.snapshot(106.0)["status"] == "queued"
    assert stored.snapshot(108.0)["status"] == "in_progress"
    done = stored.snapshot(1000.0)
    assert done["status"] == "completed"
    assert done["output"][0]["content"][0]["text"] == "abcdefgh"


def test_the_rest_of_a_stream_from_any_number_is_the_rest_of_the_whole() -> None:
    stored = background()
    whole = list(stored.events(-1, 100.0))

    for after in range(len(whole)):
        rest = list(stored.events(after, 103.0))
        assert [event for _, event in rest] == [event for _, event in whole[after + 1 :]]
        assert [at_s for at_s, _ in rest] == [max(0.0, at_s - 3) for at_s, _ in whole[after + 1 :]]


def test_a_cancelled_response_goes_no_further() -> None:
    # given: one that is cancelled after four seconds, while a client is attached
    stored = background()
    told: list[str] = []
    stored.attached.add(lambda: told.append("ended"))

    cancelled = stored.cancel(104.5)

    # expect: the client's body ends, no later event is to be had, and a second cancel says the same
    assert cancelled["status"] == "cancelled"
    assert told == ["ended"]
    assert len(list(stored.events(-1, 200.0))) == 5
    assert stored.cancel(300.0) == cancelled


def test_a_cancel_of_what_has_ended_changes_nothing() -> None:
    stored = background()
    assert stored.cancel(1000.0)["status"] == "completed"


CALL = {"type": "function_call", "call_id": "c1", "name": "f", "arguments": "{}"}
OUTPUT = {"type": "function_call_output", "call_id": "c1", "output": "done"}
REASONING: dict[str, Any] = {"type": "reasoning", "id": "rs_1", "summary": []}
USER = {"role": "user", "content": "Hello"}


@pytest.mark.parametrize(
    ("items", "reason"),
    [
        ([USER, OUTPUT], "No tool call found for function call output with call_id c1"),
        ([USER, CALL], "No tool output found for function call c1"),
        ([USER, REASONING], "without its required following item"),
        ([REASONING, USER], "without its required following item"),
    ],
)
def test_an_input_that_lacks_an_item_is_refused_as_openai_does(items: list[dict[str, Any]], reason: str) -> None:
    with pytest.raises(ApiError, match=reason):
        read_responses({"model": "sim", "input": items})


def test_an_input_with_all_its_items_is_accepted() -> None:
    assert read_responses({"model": "sim", "input": [USER, REASONING, CALL, OUTPUT]}).answers_tool == "done"
    stored = {"model": "sim", "input": [OUTPUT], "previous_response_id": "resp_1"}
    assert read_responses(stored).answers_tool == "done"
