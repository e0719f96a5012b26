"""What `Outcome.as_messages` and `Outcome.text` give, and that everything the server must get back is kept."""

import json
from typing import Any

import pytest

from tailrace.schemas.codec import decode_outcome, encode_outcome
from tailrace.schemas.interface_options import InterfaceOptions
from tailrace.schemas.outcome import Outcome, OutputItem, ToolCall
from tailrace.schemas.request import parse_request
from tailrace.worker.interface.stream_decoder import StreamDecoder
from tests.chat_reading import call, call_part, chunk, sse

JsonObject = dict[str, Any]
SEARCH = ToolCall("call_1", "search", '{"q": "x"}', complete=True)


def read_chat(chunks: list[JsonObject], options: InterfaceOptions | None = None) -> Outcome:
    decoder = StreamDecoder("chat", options or InterfaceOptions())
    decoder.feed(sse(chunks))
    decoder.close()
    return decode_outcome(encode_outcome(decoder.finish()))


def read_responses(output: list[JsonObject], *, store: bool = True, ended: bool = True) -> Outcome:
    """The outcome of a stream of finished items; without its end it breaks off after them."""
    events: list[JsonObject] = [{"type": "response.created", "response": {"id": "resp_1", "store": store}}]
    events += [{"type": "response.output_item.done", "output_index": n, "item": item} for n, item in enumerate(output)]
    if ended:
        events.append({"type": "response.completed", "response": {"id": "resp_1", "status": "completed"}})
    decoder = StreamDecoder("responses", InterfaceOptions())
    decoder.feed(b"".join(b"data: " + json.dumps(event).encode() + b"\n\n" for event in events))
    decoder.close()
    return decode_outcome(encode_outcome(decoder.finish()))


# Chat Completions


def test_an_answer_goes_back_as_one_assistant_message() -> None:
    outcome = read_chat([chunk(content="It is noon.", finish_reason="stop")])
    assert outcome.as_messages() == [{"role": "assistant", "content": "It is noon."}]
    assert outcome.text == "It is noon."


def test_a_refusal_goes_back_and_is_the_text() -> None:
    outcome = Outcome(status="completed", refusal="No.")
    assert outcome.as_messages() == [{"role": "assistant", "content": None, "refusal": "No."}]
    assert outcome.text == "No."


def test_an_outcome_with_nothing_gives_nothing() -> None:
    assert Outcome(status="failed").as_messages() == []
    assert Outcome(status="failed", api="responses").as_messages({}) == []
    assert Outcome(status="failed").text == ""


def test_calls_go_back_with_raw_arguments_and_their_results_follow() -> None:
    custom = ToolCall("call_2", "shell", "ls -l", True, "custom")
    outcome = Outcome(status="completed", content="I look.", tool_calls=(SEARCH, custom))
    function = {"name": "search", "arguments": '{"q": "x"}'}
    assert outcome.as_messages({"call_2": "two", "call_1": "one"}) == [
        {
            "role": "assistant",
            "content": "I look.",
            "tool_calls": [
                {"id": "call_1", "type": "function", "function": function},
                {"id": "call_2", "type": "custom", "custom": {"name": "shell", "input": "ls -l"}},
            ],
        },
        {"role": "tool", "tool_call_id": "call_1", "content": "one"},
        {"role": "tool", "tool_call_id": "call_2", "content": "two"},
    ]


def test_a_call_that_is_not_complete_is_left_out() -> None:
    cut = ToolCall("call_2", "search", '{"q', complete=False)
    (message,) = Outcome(status="failed", tool_calls=(SEARCH, cut)).as_messages()
    assert [made["id"] for made in message["tool_calls"]] == ["call_1"]
    assert Outcome(status="failed", tool_calls=(cut,)).as_messages({}) == []


def test_a_call_without_an_id_is_given_one_by_its_position() -> None:
    unnamed = ToolCall(None, "search", "{}", complete=True)
    message, result = Outcome(status="completed", tool_calls=(unnamed,)).as_messages({"call_0": "one"})
    assert message["tool_calls"][0]["id"] == result["tool_call_id"] == "call_0"


@pytest.mark.parametrize(
    ("results", "reason"),
    [({}, "lacks the calls call_1"), ({"call_1": "one", "call_9": "nine"}, "call_9"), ({"call_9": "x"}, "call_1")],
)
@pytest.mark.parametrize("api", ["chat", "responses"])
def test_results_must_match_the_calls(api: Any, results: dict[str, str], reason: str) -> None:
    outcome = Outcome(status="completed", api=api, tool_calls=(SEARCH,), output=(OutputItem(call=0),))
    with pytest.raises(ValueError, match=reason):
        outcome.as_messages(results)


def test_results_cannot_be_matched_with_calls_that_share_an_id() -> None:
    outcome = Outcome(status="completed", tool_calls=(SEARCH, SEARCH))
    assert len(outcome.as_messages()[0]["tool_calls"]) == 2
    with pytest.raises(ValueError, match="the same id"):
        outcome.as_messages({"call_1": "one"})


def test_the_messages_are_a_request() -> None:
    outcome = Outcome(status="completed", tool_calls=(SEARCH,))
    messages = [{"role": "user", "content": "hello"}, *outcome.as_messages({"call_1": "one"})]
    assert parse_request({"model": "m", "messages": messages}).messages == messages


def test_geminis_thought_signature_goes_back_with_its_call() -> None:
    # given the first fragment of a call with a signature, under an index that the later fragments do not use
    signed = {"google": {"thought_signature": "sig"}}
    outcome = read_chat(
        [
            chunk(tool_calls=[{**call_part(1, "", call_id="call_1", name="search"), "extra_content": signed}]),
            chunk(tool_calls=[call_part(0, "{}", call_id="call_1", name="search")]),
            chunk(tool_calls=[call_part(2, "{}", call_id="call_2", name="search")], finish_reason="tool_calls"),
        ]
    )
    first, second = outcome.as_messages()[0]["tool_calls"]
    assert (first["id"], first["extra_content"]) == ("call_1", signed)
    assert "extra_content" not in second


@pytest.mark.parametrize(("pieces", "kept"), [(["Hm", "."], "Hm."), ([""], "")])
def test_reasoning_content_goes_back_with_calls_even_if_it_is_empty(pieces: list[str], kept: str) -> None:
    # DeepSeek refuses a call without it
    chunks = [chunk(reasoning_content=piece) for piece in pieces]
    outcome = read_chat(
        [*chunks, call(0, '{"inner_thoughts": "Aha."}', name="search", call_id="call_1"), chunk(finish_reason="x")]
    )
    assert outcome.as_messages()[0]["reasoning_content"] == kept


@pytest.mark.parametrize(
    "chunks", [[chunk(reasoning="Hm.")], [chunk(content=[{"type": "thinking", "thinking": "Hm."}])]]
)
def test_reasoning_of_servers_that_refuse_it_does_not_go_back(chunks: list[JsonObject]) -> None:
    outcome = read_chat([*chunks, call(0, "{}", name="search", call_id="call_1"), chunk(finish_reason="tool_calls")])
    assert outcome.reasoning == "Hm."
    assert outcome.as_messages()[0].keys() == {"role", "content", "tool_calls"}


def test_reasoning_does_not_go_back_without_calls() -> None:
    outcome = read_chat([chunk(reasoning_content="Hm."), chunk(content="Noon.", finish_reason="stop")])
    assert outcome.message_extra is None
    assert outcome.as_messages() == [{"role": "assistant", "content": "Noon."}]


def test_reasoning_details_go_back_joined_with_their_signatures() -> None:
    def details(*blocks: JsonObject) -> JsonObject:
        return chunk(reasoning_details=list(blocks))

    text = {"type": "reasoning.text", "format": "f", "index": 0}
    sealed = {"type": "reasoning.encrypted", "data": "abc", "index": 1}
    outcome = read_chat(
        [
            details({**text, "text": "Let", "signature": None}),
            details({**text, "text": " me \ud83d"}),
            details({**text, "signature": "sig"}),
            details({**text, "text": "Next"}, sealed, sealed),
            call(0, "{}", name="search", call_id="call_1"),
            chunk(finish_reason="tool_calls"),
        ]
    )
    assert outcome.as_messages()[0]["reasoning_details"] == [
        {**text, "text": "Let me \ufffd", "signature": "sig"},
        {**text, "text": "Next"},
        sealed,
        sealed,
    ]


def test_thinking_blocks_go_back() -> None:
    blocks = [{"type": "thinking", "thinking": "Let", "signature": None}, {"type": "thinking", "thinking": " me"}]
    outcome = read_chat(
        [
            *(chunk(reasoning_content=block["thinking"], thinking_blocks=[block]) for block in blocks),
            chunk(reasoning_content="", thinking_blocks=[{"type": "thinking", "thinking": "", "signature": "sig"}]),
            call(0, "{}", name="search", call_id="call_1"),
            chunk(finish_reason="tool_calls"),
        ]
    )
    message = outcome.as_messages()[0]
    assert message["thinking_blocks"] == [{"type": "thinking", "thinking": "Let me", "signature": "sig"}]
    assert message["reasoning_content"] == "Let me"


def test_what_is_nested_too_deeply_is_left_out() -> None:
    deep: JsonObject = {}
    for _ in range(100):
        deep = {"deep": deep}
    outcome = read_chat(
        [
            chunk(reasoning_details=[{"type": "reasoning.text", "text": "Hm.", "more": deep}]),
            chunk(tool_calls=[{**call_part(0, "{}", call_id="call_1", name="search"), "extra_content": deep}]),
            chunk(finish_reason="tool_calls"),
        ]
    )
    assert outcome.as_messages()[0]["reasoning_details"] == []
    assert outcome.tool_calls[0].extra is None


@pytest.mark.parametrize(("text", "own"), [("", None), ("Well. ", "Well. ")])
def test_the_text_of_the_assistant_tool_goes_back_only_in_its_call(text: str, own: str | None) -> None:
    outcome = read_chat(
        [
            chunk(content=text),
            call(0, '{"message": "Noon."}', name="send_message", call_id="call_1"),
            chunk(finish_reason="tool_calls"),
        ],
        InterfaceOptions(use_assistant_message=True),
    )
    assert outcome.text == f"{text}Noon."
    assert outcome.as_messages()[0]["content"] == own


# The Responses API

REASONING: JsonObject = {"type": "reasoning", "id": "rs_1", "summary": [], "encrypted_content": "gAAA"}
MESSAGE: JsonObject = {
    **{"type": "message", "id": "msg_1", "role": "assistant", "status": "completed", "phase": "commentary"},
    "content": [{"type": "output_text", "text": "I look.", "annotations": []}],
}
CALL: JsonObject = {
    **{"type": "function_call", "id": "fc_1", "call_id": "call_1", "namespace": "crm", "status": "completed"},
    **{"name": "search", "arguments": '{"inner_thoughts": "Hm.", "q": "x"}'},
}
CUSTOM: JsonObject = {"type": "custom_tool_call", "id": "ctc_1", "call_id": "call_2", "name": "shell", "input": "ls -l"}
HOSTED: JsonObject = {"type": "web_search_call", "id": "ws_1", "status": "completed", "action": {"type": "search"}}


def test_items_go_back_in_the_servers_order_and_as_it_sent_them() -> None:
    output = [REASONING, HOSTED, MESSAGE, CALL, {**REASONING, "id": "rs_2"}, CUSTOM]
    outcome = read_responses(output)
    assert outcome.as_messages() == output
    assert outcome.as_messages({"call_1": "one", "call_2": "two"})[len(output) :] == [
        {"type": "function_call_output", "call_id": "call_1", "output": "one"},
        {"type": "custom_tool_call_output", "call_id": "call_2", "output": "two"},
    ]
    assert outcome.tool_calls[0].extra == {"id": "fc_1", "namespace": "crm", "status": "completed"}


def test_the_terminal_output_alone_goes_back_in_its_order() -> None:
    output = [REASONING, MESSAGE, CALL]
    end = {"type": "response.completed", "response": {"status": "completed", "output": output}}
    decoder = StreamDecoder("responses", InterfaceOptions())
    decoder.feed(b"data: " + json.dumps(end).encode() + b"\n\n")
    assert decoder.finish().as_messages() == output


def test_reasoning_that_the_server_cannot_find_again_does_not_go_back() -> None:
    plain: JsonObject = {"type": "reasoning", "id": "rs_1", "summary": []}
    assert read_responses([plain, CALL]).as_messages() == [plain, CALL]
    outcome = read_responses([plain, CALL], store=False)
    assert outcome.as_messages() == [CALL]
    assert list(outcome.items) == [plain]
    assert read_responses([REASONING, CALL], store=False).as_messages() == [REASONING, CALL]


def test_reasoning_that_nothing_follows_does_not_go_back() -> None:
    cut = {**CALL, "status": "incomplete", "arguments": '{"q'}
    assert read_responses([MESSAGE, REASONING, cut], ended=False).as_messages({}) == [MESSAGE]


def test_text_of_a_message_that_never_ended_goes_back() -> None:
    decoder = StreamDecoder("responses", InterfaceOptions())
    event = {"type": "response.output_text.delta", "output_index": 0, "content_index": 0, "delta": "It is"}
    decoder.feed(b"data: " + json.dumps(event).encode() + b"\n\n")
    outcome = decoder.finish(cancelled=True)
    content = [{"type": "output_text", "text": "It is"}]
    assert outcome.as_messages() == [{"type": "message", "role": "assistant", "content": content}]
    assert outcome.text == "It is"


def test_a_message_without_text_does_not_go_back() -> None:
    assert read_responses([{**MESSAGE, "content": []}, CALL]).as_messages() == [CALL]
