"""The Responses interface: inner thoughts, assistant mode, and how a response ends."""

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
    # expect: the thoughts, then the name, then the arguments without them; the outcome has the whole arguments
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


def test_the_name_is_shown_at_once_if_inner_thoughts_are_not_taken_out() -> None:
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
    # expect: decoded text and no tool call; the outcome has both, since an agent loop needs the call
    assert "".join(text for kind, text in shown(deltas) if kind == "text") == "One\nTwo"
    assert {kind for kind, _ in shown(deltas)} == {"text"}
    outcome = interface.finish()
    assert outcome.content == "One\nTwo"
    assert outcome.tool_calls[0].name == "send_message"


def test_in_assistant_mode_a_final_value_that_differs_is_the_text() -> None:
    # given: pieces of the assistant tool's arguments, and a final value that differs
    interface = ResponsesInterface(InterfaceOptions(use_assistant_message=True))
    # if: both come
    feed(interface, added("send_message"), piece('{"message": "burn"}'), whole('{"message": "turn"}'), end())
    # expect: the text of the final value in the outcome
    outcome = interface.finish()
    assert outcome.content == "turn"
    assert len(outcome.notes) == 1


def test_interleaved_texts_are_sequential_in_the_outcome() -> None:
    # given: two messages whose pieces alternate
    interface = ResponsesInterface(InterfaceOptions())
    # if: they stream
    deltas = feed(interface, text("The ", 0), text("Slow", 1), text("wheel. ", 0), text("ly.", 1), end())
    # expect: deltas as they came, and whole texts in the outcome
    assert [text for _, text in shown(deltas)] == ["The ", "Slow", "wheel. ", "ly."]
    assert interface.finish().content == "The wheel. Slowly."


def test_a_hosted_tool_has_a_negative_number() -> None:
    # given: a hosted tool between two calls of the caller's
    interface = ResponsesInterface(InterfaceOptions())
    hosted = {"type": "response.output_item.added", "item": {"type": "web_search_call", "id": "ws_1"}}
    # if: they are announced
    deltas = feed(interface, added("grind"), piece("{}"), hosted, added("sweep", 2), piece("{}", 2), end())
    # expect: the caller's calls are numbered as in the outcome
    numbers = {delta.tool_call.name: delta.call for delta in deltas if isinstance(delta, ToolCallDelta)}
    assert numbers | {None: 0} == {"grind": 0, "web_search_call": -1, "sweep": 1, None: 0}
    assert [call.name for call in interface.finish().tool_calls] == ["grind", "sweep"]


def test_events_after_the_terminal_event_are_ignored() -> None:
    # given: a response that has ended
    interface = ResponsesInterface(InterfaceOptions())
    feed(interface, text("The wheel."), end(id="resp_1", model="mill-1"))
    assert interface.ended
    # if: more events come
    deltas = feed(interface, text(" No."), {"type": "error", "message": "late"})
    # expect: they are ignored
    assert deltas == []
    outcome = interface.finish()
    assert (outcome.status, outcome.content, outcome.upstream_id) == ("completed", "The wheel.", "resp_1")


def test_an_unfinished_call_is_drained_and_incomplete() -> None:
    # given: a stream that stops inside a key that is held back
    interface = ResponsesInterface(InterfaceOptions())
    before = feed(interface, added("grind"), piece('{"inner'))
    # if: it is drained
    deltas = before + interface.drain(9)
    # expect: nothing is held back or repeated, and the call is not complete
    assert ("call", ("grind", "call_0")) in shown(deltas)
    pieces = [part for kind, part in shown(deltas) if kind == "call" and isinstance(part, str)]
    assert "".join(pieces) == '{"inner'
    assert interface.drain(10) == []
    assert not interface.finish().tool_calls[0].complete


@pytest.mark.parametrize("cancelled", [True, False])
def test_the_caller_of_finish_gives_the_reason(cancelled: bool) -> None:
    # given: a stream without an end
    interface = ResponsesInterface(InterfaceOptions())
    feed(interface, text("The wh"))
    # if: the caller stops reading for a reason of its own
    stall = ErrorInfo("upstream_timeout", "nothing came for 30 s", "provider")
    outcome = interface.finish(error=None if cancelled else stall, cancelled=cancelled)
    # expect: that reason and the text so far
    assert outcome.status == ("cancelled" if cancelled else "failed")
    assert outcome.error == (None if cancelled else stall)
    assert outcome.content == "The wh"


def test_the_servers_error_takes_precedence_over_its_consequence() -> None:
    # given: an error event, after which the server sends nothing
    interface = ResponsesInterface(InterfaceOptions())
    feed(interface, {"type": "error", "code": "server_error", "message": "The dam broke."})
    assert interface.failure is None
    # if: reading times out
    outcome = interface.finish(error=ErrorInfo("upstream_timeout", "nothing came for 30 s", "provider"))
    # expect: the server's error, not the timeout
    assert outcome.error is not None
    assert outcome.error.code == "upstream_500"
    assert isinstance(interface.failure, UpstreamUnavailable)


def test_a_refused_response_is_not_retried() -> None:
    # given: a failed response with a permanent reason
    interface = ResponsesInterface(InterfaceOptions())
    error = {"code": "invalid_prompt", "message": "Grain only."}
    # if: it ends
    feed(interface, {"type": "response.failed", "response": {"status": "failed", "error": error}})
    # expect: an error of the class that is not retried
    assert isinstance(interface.failure, UpstreamRefused)


def test_data_that_is_not_json_is_a_protocol_error() -> None:
    # given: a valid stream
    interface = ResponsesInterface(InterfaceOptions())
    feed(interface, text("The wheel."))
    # if: an event cannot be decoded
    with pytest.raises(UpstreamProtocol, match="not JSON"):
        interface.read("", b'{"type": "respon')
    # expect: earlier text is kept, and the interface continues
    feed(interface, text(" turns."))
    assert interface.finish().content == "The wheel. turns."


def test_notes_are_bounded() -> None:
    # given: a server that contradicts itself endlessly and sends many unknown event types
    interface = ResponsesInterface(InterfaceOptions())
    for index in range(3 * MAX_NOTES):
        feed(interface, text("a", index), {"type": "response.output_text.done", "output_index": index, "text": "b"})
        feed(interface, {"type": f"response.new_{index}"})
    # if: it ends
    feed(interface, end())
    # expect: a few notes and a count of the others
    notes = interface.finish().notes
    assert len(notes) <= MAX_NOTES + 10
    assert notes[-1] == f"skipped events of other unknown types: {3 * MAX_NOTES - MAX_UNKNOWN_TYPES}"


def test_an_item_nested_too_deeply_is_left_out_so_that_the_outcome_can_be_encoded() -> None:
    # given: a hosted item nested as deeply as the decoder allows
    interface = ResponsesInterface(InterfaceOptions())
    deep = '{"type":"response.output_item.done","output_index":0,"item":{"type":"x_call","id":"x","a":%s}}'
    # if: it comes
    interface.read("", (deep % ("[" * 300 + "]" * 300)).encode())
    feed(interface, end())
    # expect: a note instead
    outcome = interface.finish()
    assert outcome.items == ()
    assert encode_outcome(outcome)
    assert any("too deeply" in note for note in outcome.notes)


def test_events_of_the_sdk_are_read_like_those_of_the_wire() -> None:
    # given: an event dumped from an object of the SDK, with nulls for missing fields
    dumped = {"type": "response.output_text.delta", "delta": "The wheel.", "output_index": 0, "logprobs": None}
    interface = ResponsesInterface(InterfaceOptions())
    # if: it is fed
    deltas = interface.feed(event_from_json(dumped), 5)
    # expect: the same delta, with the given time
    assert msgspec.to_builtins(deltas) == [
        {"message_type": "assistant_message", "i": 0, "ms": 5, "content": "The wheel."}
    ]


def test_the_last_sequence_number_is_known_while_the_response_streams() -> None:
    # given: numbered events
    interface = ResponsesInterface(InterfaceOptions())
    created: Event = {"type": "response.created", "sequence_number": 0, "response": {"id": "resp_1"}}
    # if: some of them have come
    feed(interface, created, text("The ") | {"sequence_number": 41})
    # expect: the number after which a resumed stream continues
    assert (interface.upstream_id, interface.upstream_sequence) == ("resp_1", 41)


def test_think_tags_in_the_text_become_reasoning_if_requested() -> None:
    # given: a server that sends the reasoning in the text, with tags cut in two, and the option
    interface = ResponsesInterface(InterfaceOptions(think_tags="reasoning"))
    # if: it streams and ends with a possible start of a tag
    deltas = feed(interface, text("<thi"), text("nk>Hm.</th"), text("ink>Turn"), text("s <th"), text("Next.", 1), end())
    deltas += interface.drain()
    # expect: reasoning and text in order, in the deltas and in the outcome
    assert shown(deltas) == [("reasoning", "Hm."), ("text", "Turn"), ("text", "s "), ("text", "<thNext.")]
    outcome = interface.finish()
    assert (outcome.reasoning, outcome.content) == ("Hm.", "Turns <thNext.")


def test_think_tags_stay_in_the_text_by_default() -> None:
    # given: the same text without the option; expect: the text unchanged
    interface = ResponsesInterface(InterfaceOptions())
    feed(interface, text("<think>Hm.</think>Turns."), end())
    assert interface.finish().content == "<think>Hm.</think>Turns."


def test_an_empty_object_in_the_announcement_is_not_the_arguments() -> None:
    # given: a call announced with `{}`, as some gateways translate a call that has just started
    begin = added("turn")
    begin["item"]["arguments"] = "{}"
    for pieces in (['{"mill"', ":1}"], ["{", '"mill":1}'], []):
        interface = ResponsesInterface(PLAIN)
        # if: the arguments follow in pieces or not at all
        deltas = feed(interface, begin, *(piece(each) for each in pieces), end())
        deltas += interface.drain()
        # expect: only the pieces, or the empty object, and no note
        shown_arguments = "".join(text for _, text in shown(deltas) if isinstance(text, str))
        outcome = interface.finish()
        assert outcome.tool_calls[0].arguments == shown_arguments == ("".join(pieces) or "{}")
        assert not outcome.notes


def test_equal_pieces_are_all_shown() -> None:
    # given: pieces that equal the text before them, and their final values
    for same in ("ha", "\n", "1", "{}"):
        interface = ResponsesInterface(PLAIN)
        done = {"type": "response.output_text.done", "output_index": 0, "text": same * 3}
        # if: they come
        deltas = feed(interface, *(text(same),) * 3, done, end())
        # expect: every piece
        assert "".join(text for _, text in shown(deltas)) == interface.finish().content == same * 3
        assert not interface.finish().notes
