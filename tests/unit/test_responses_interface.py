"""The Responses interface with inner thoughts and assistant mode, and how it ends."""

import json
from typing import Any

import msgspec
import pytest

from tailrace.schemas.codec import encode_outcome
from tailrace.schemas.deltas import AssistantDelta, Delta, ErrorInfo, ReasoningDelta, ToolCallDelta
from tailrace.schemas.errors import UpstreamProtocol, UpstreamRefused, UpstreamUnavailable
from tailrace.schemas.interface_options import InterfaceOptions
from tailrace.worker.interface.responses.event import event_from_json
from tailrace.worker.interface.responses.responses_interface import ResponsesInterface
from tailrace.worker.interface.stream_notes import MAX_NOTES, MAX_UNKNOWN_TYPES

Event = dict[str, Any]

PLAIN = InterfaceOptions(put_inner_thoughts_in_kwarg=False)


def added(name: str, index: int = 0) -> Event:
    item = {"type": "function_call", "id": f"fc_{index}", "call_id": f"call_{index}", "name": name, "arguments": ""}
    return {"type": "response.output_item.added", "output_index": index, "item": item}


def piece(text: str, index: int = 0) -> Event:
    return {"type": "response.function_call_arguments.delta", "output_index": index, "delta": text}


def text(delta: str, index: int = 0) -> Event:
    return {"type": "response.output_text.delta", "output_index": index, "delta": delta}


def whole(arguments: str, index: int = 0) -> Event:
    return {"type": "response.function_call_arguments.done", "output_index": index, "arguments": arguments}


def end(**fields: Any) -> Event:
    return {"type": "response.completed", "response": {"status": "completed", **fields}}


def feed(interface: ResponsesInterface, *events: Event) -> list[Delta]:
    deltas: list[Delta] = []
    for number, event in enumerate(events):
        deltas += interface.read("", json.dumps(event).encode(), number)
    return deltas


def shown(deltas: list[Delta]) -> list[tuple[str, Any]]:
    lines: list[tuple[str, Any]] = []
    for delta in deltas:
        if isinstance(delta, ReasoningDelta):
            lines.append(("reasoning", delta.reasoning))
        elif isinstance(delta, AssistantDelta):
            lines.append(("text", delta.content))
        else:
            part = delta.tool_call
            lines.append(("call", part.arguments if part.name is None else (part.name, part.tool_call_id)))
    return lines


def test_inner_thoughts_come_as_reasoning_before_the_name() -> None:
    # given: a call with inner thoughts, in pieces
    interface = ResponsesInterface(InterfaceOptions())
    # if: it streams
    deltas = feed(
        interface, added("grind"), piece('{"inner_th'), piece('oughts": "Hm'), piece('m.", "sacks": 2}'), end()
    )
    # expect: the thoughts, then the name, then the arguments without them; the outcome has all of the arguments
    assert shown(deltas) == [
        ("reasoning", "Hm"),
        ("reasoning", "m."),
        ("call", ("grind", "call_0")),
        ("call", '{"sacks": 2}'),
    ]
    outcome = interface.finish()
    assert outcome.reasoning == "Hmm."
    assert outcome.reasoning_source == "non_reasoner_model"
    assert outcome.tool_calls[0].arguments == '{"inner_thoughts": "Hmm.", "sacks": 2}'
    assert outcome.tool_calls[0].complete


def test_without_inner_thoughts_the_name_comes_at_once() -> None:
    # given: the option off
    interface = ResponsesInterface(InterfaceOptions(put_inner_thoughts_in_kwarg=False))
    # if: a call is announced
    deltas = feed(interface, added("grind"))
    # expect: its name, before any argument
    assert shown(deltas) == [("call", ("grind", "call_0"))]


def test_assistant_mode_shows_the_message_as_text() -> None:
    # given: assistant mode, and a call of the assistant tool with an escape cut in two
    interface = ResponsesInterface(InterfaceOptions(use_assistant_message=True))
    # if: it streams
    deltas = feed(interface, added("send_message"), piece('{"message": "One\\'), piece('nTwo"}'), end())
    # expect: decoded text, no tool call; the outcome has both, since the agent loop needs the call
    assert "".join(told for kind, told in shown(deltas) if kind == "text") == "One\nTwo"
    assert {kind for kind, _ in shown(deltas)} == {"text"}
    outcome = interface.finish()
    assert outcome.content == "One\nTwo"
    assert outcome.tool_calls[0].name == "send_message"


def test_in_assistant_mode_a_done_value_that_differs_gives_the_text() -> None:
    # given: pieces of the assistant tool's arguments, and a done value that says otherwise
    interface = ResponsesInterface(InterfaceOptions(use_assistant_message=True))
    # if: both come
    feed(interface, added("send_message"), piece('{"message": "burn"}'), whole('{"message": "turn"}'), end())
    # expect: the outcome's text is that of the done value
    outcome = interface.finish()
    assert outcome.content == "turn"
    assert len(outcome.notes) == 1


def test_texts_that_interleave_stand_one_after_the_other_in_the_outcome() -> None:
    # given: two messages whose pieces alternate
    interface = ResponsesInterface(InterfaceOptions())
    # if: they stream
    deltas = feed(interface, text("The ", 0), text("Slow", 1), text("wheel. ", 0), text("ly.", 1), end())
    # expect: deltas as they came, and an outcome that can be read
    assert [told for _, told in shown(deltas)] == ["The ", "Slow", "wheel. ", "ly."]
    assert interface.finish().content == "The wheel. Slowly."


def test_a_hosted_tool_has_a_number_below_zero() -> None:
    # given: a hosted tool between two calls of the caller's
    interface = ResponsesInterface(InterfaceOptions())
    hosted = {"type": "response.output_item.added", "item": {"type": "web_search_call", "id": "ws_1"}}
    # if: they are announced
    deltas = feed(interface, added("grind"), piece("{}"), hosted, added("sweep", 2), piece("{}", 2), end())
    # expect: the caller's calls are numbered as in the outcome
    numbers = {delta.tool_call.name: delta.call for delta in deltas if isinstance(delta, ToolCallDelta)}
    assert numbers | {None: 0} == {"grind": 0, "web_search_call": -1, "sweep": 1, None: 0}
    assert [call.name for call in interface.finish().tool_calls] == ["grind", "sweep"]


def test_nothing_after_the_terminal_event_counts() -> None:
    # given: a response that has ended
    interface = ResponsesInterface(InterfaceOptions())
    feed(interface, text("The wheel."), end(id="resp_1", model="mill-1"))
    assert interface.ended
    # if: more comes
    deltas = feed(interface, text(" No."), {"type": "error", "message": "late"})
    # expect: nothing of it
    assert deltas == []
    outcome = interface.finish()
    assert (outcome.status, outcome.content, outcome.upstream_id) == ("completed", "The wheel.", "resp_1")


def test_a_half_call_is_drained_and_marked() -> None:
    # given: a stream that stops within a held-back key
    interface = ResponsesInterface(InterfaceOptions())
    before = feed(interface, added("grind"), piece('{"inner'))
    # if: it is drained
    deltas = before + interface.drain(9)
    # expect: nothing stays held, nothing comes twice, and the call is not to be run
    assert ("call", ("grind", "call_0")) in shown(deltas)
    pieces = [part for kind, part in shown(deltas) if kind == "call" and isinstance(part, str)]
    assert "".join(pieces) == '{"inner'
    assert interface.drain(10) == []
    assert not interface.finish().tool_calls[0].complete


@pytest.mark.parametrize("cancelled", [True, False])
def test_the_caller_of_finish_says_why_it_stopped(cancelled: bool) -> None:
    # given: a stream without an end
    interface = ResponsesInterface(InterfaceOptions())
    feed(interface, text("The wh"))
    # if: whoever reads it stops, for a reason of their own
    stall = ErrorInfo("upstream_timeout", "nothing came for 30 s", "provider")
    outcome = interface.finish(error=None if cancelled else stall, cancelled=cancelled)
    # expect: that reason, and the text so far
    assert outcome.status == ("cancelled" if cancelled else "failed")
    assert outcome.error == (None if cancelled else stall)
    assert outcome.content == "The wh"


def test_the_servers_own_error_goes_before_what_follows_from_it() -> None:
    # given: an error event, after which the server falls silent
    interface = ResponsesInterface(InterfaceOptions())
    feed(interface, {"type": "error", "code": "server_error", "message": "The dam broke."})
    assert interface.failure is None
    # if: the reader gives up
    outcome = interface.finish(error=ErrorInfo("upstream_timeout", "nothing came for 30 s", "provider"))
    # expect: the cause, not the consequence
    assert outcome.error is not None
    assert outcome.error.code == "upstream_500"
    assert isinstance(interface.failure, UpstreamUnavailable)


def test_a_response_that_was_refused_is_not_tried_again() -> None:
    # given: a failed response with a reason that stays
    interface = ResponsesInterface(InterfaceOptions())
    error = {"code": "invalid_prompt", "message": "Grain only."}
    # if: it ends
    feed(interface, {"type": "response.failed", "response": {"status": "failed", "error": error}})
    # expect: an error of the class that is not retried
    assert isinstance(interface.failure, UpstreamRefused)


def test_data_that_is_no_json_is_a_protocol_error() -> None:
    # given: a stream in good order
    interface = ResponsesInterface(InterfaceOptions())
    feed(interface, text("The wheel."))
    # if: an event cannot be read
    with pytest.raises(UpstreamProtocol, match="not JSON"):
        interface.read("", b'{"type": "respon')
    # expect: what came before is there, and the interface goes on
    feed(interface, text(" turns."))
    assert interface.finish().content == "The wheel. turns."


def test_notes_are_bounded() -> None:
    # given: a server that contradicts itself without end, with events of ever new types
    interface = ResponsesInterface(InterfaceOptions())
    for index in range(3 * MAX_NOTES):
        feed(interface, text("a", index), {"type": "response.output_text.done", "output_index": index, "text": "b"})
        feed(interface, {"type": f"response.new_{index}"})
    # if: it ends
    feed(interface, end())
    # expect: a few notes, and a count of the rest
    notes = interface.finish().notes
    assert len(notes) <= MAX_NOTES + 10
    assert notes[-1] == f"skipped events of other unknown types: {3 * MAX_NOTES - MAX_UNKNOWN_TYPES}"


def test_an_item_nested_too_deeply_is_left_out_and_the_outcome_can_be_written() -> None:
    # given: a hosted item nested as deep as a decoder admits
    interface = ResponsesInterface(InterfaceOptions())
    deep = '{"type":"response.output_item.done","output_index":0,"item":{"type":"x_call","id":"x","a":%s}}'
    # if: it comes
    interface.read("", (deep % ("[" * 300 + "]" * 300)).encode())
    feed(interface, end())
    # expect: a note in its place
    outcome = interface.finish()
    assert outcome.items == ()
    assert encode_outcome(outcome)
    assert any("too deeply" in note for note in outcome.notes)


def test_events_of_the_sdk_are_read_as_those_of_the_wire() -> None:
    # given: an event as an object dumped by the SDK has it, with nulls for what it does not know
    dumped = {"type": "response.output_text.delta", "delta": "The wheel.", "output_index": 0, "logprobs": None}
    interface = ResponsesInterface(InterfaceOptions())
    # if: it is fed
    deltas = interface.feed(event_from_json(dumped), 5)
    # expect: the same delta, with the time given
    assert msgspec.to_builtins(deltas) == [
        {"message_type": "assistant_message", "i": 0, "ms": 5, "content": "The wheel."}
    ]


def test_the_last_sequence_number_is_at_hand_while_the_response_streams() -> None:
    # given: numbered events
    interface = ResponsesInterface(InterfaceOptions())
    created: Event = {"type": "response.created", "sequence_number": 0, "response": {"id": "resp_1"}}
    # if: some of them came
    feed(interface, created, text("The ") | {"sequence_number": 41})
    # expect: where a re-attached stream would go on
    assert (interface.upstream_id, interface.upstream_sequence) == ("resp_1", 41)


def test_think_tags_in_the_text_are_split_off_where_asked_for() -> None:
    # given: a server that leaves the reasoning in the text, the tags cut in two, and the option that asks for it
    interface = ResponsesInterface(InterfaceOptions(think_tags="reasoning"))
    # if: it streams, and ends on what might become a tag
    deltas = feed(interface, text("<thi"), text("nk>Hm.</th"), text("ink>Turn"), text("s <th"), text("Next.", 1), end())
    deltas += interface.drain()
    # expect: reasoning and text, in order, in deltas and outcome alike
    assert shown(deltas) == [("reasoning", "Hm."), ("text", "Turn"), ("text", "s "), ("text", "<thNext.")]
    outcome = interface.finish()
    assert (outcome.reasoning, outcome.content) == ("Hm.", "Turns <thNext.")


def test_think_tags_stay_in_the_text_unless_asked_for() -> None:
    # given: the same text, and no such option; expect: the text as it is
    interface = ResponsesInterface(InterfaceOptions())
    feed(interface, text("<think>Hm.</think>Turns."), end())
    assert interface.finish().content == "<think>Hm.</think>Turns."


def test_arguments_announced_as_an_empty_object_are_not_there_yet() -> None:
    # given: a call that is announced with `{}`, as some servers translate a call that has only begun
    begin = added("turn")
    begin["item"]["arguments"] = "{}"
    for pieces in (['{"mill"', ":1}"], ["{", '"mill":1}'], []):
        interface = ResponsesInterface(PLAIN)
        # if: the arguments follow in pieces, or not at all
        deltas = feed(interface, begin, *(piece(each) for each in pieces), end())
        deltas += interface.drain()
        # expect: the pieces alone, or the empty object; nothing to be noted
        told = "".join(said for _, said in shown(deltas) if isinstance(said, str))
        outcome = interface.finish()
        assert outcome.tool_calls[0].arguments == told == ("".join(pieces) or "{}")
        assert not outcome.notes


def test_pieces_that_repeat_are_all_said() -> None:
    # given: pieces equal to all before them, and the values that settle them
    for same in ("ha", "\n", "1", "{}"):
        interface = ResponsesInterface(PLAIN)
        done = {"type": "response.output_text.done", "output_index": 0, "text": same * 3}
        # if: they come
        deltas = feed(interface, *(text(same),) * 3, done, end())
        # expect: each
        assert "".join(said for _, said in shown(deltas)) == interface.finish().content == same * 3
        assert not interface.finish().notes
