"""Whatever a server sends in place of a Responses stream, nothing raises and no earlier text is lost."""

import json
from pathlib import Path
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tailrace.schemas.codec import decode_outcome, encode_entry, encode_outcome
from tailrace.schemas.deltas import AssistantDelta, Delta
from tailrace.schemas.interface_options import InterfaceOptions
from tailrace.worker.interface.stream_decoder import StreamDecoder

FIXTURES = Path(__file__).parents[1] / "fixtures" / "responses"
OPTIONS = [
    InterfaceOptions(),
    InterfaceOptions(use_assistant_message=True),
    InterfaceOptions(put_inner_thoughts_in_kwarg=False),
]

anything: st.SearchStrategy[Any] = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-3, 5)
    | st.integers()
    | st.floats()
    | st.text(max_size=8)
    | st.sampled_from(["it_0", "it_1", "send_message", '{"message": "x', '{"inner_thoughts":', "\ud83d", "\ude00"]),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(st.text(max_size=4) | st.deferred(lambda: keys), inner, max_size=4)
    ),
    max_leaves=8,
)
keys: st.SearchStrategy[str] = st.sampled_from(
    "type id call_id name arguments input status content summary text refusal error code message output usage "
    "encrypted_content incomplete_details reason part item".split()
)
types: st.SearchStrategy[str] = st.sampled_from(
    [
        f"response.{stem}.{ending}"
        for stem in (
            "output_text refusal reasoning_text reasoning_summary_text reasoning function_call_arguments "
            "custom_tool_call_input content_part reasoning_part reasoning_summary_part output_item web_search_call"
        ).split()
        for ending in ("added", "delta", "done", "failed")
    ]
    + ["response.created", "response.in_progress", "error", "keepalive", "response.new.delta", ""]
)
item_types: st.SearchStrategy[str] = st.sampled_from(
    "message reasoning function_call custom_tool_call mcp_call output_text refusal summary_text compaction".split()
)


@st.composite
def shapes(draw: st.DrawFn) -> dict[str, Any]:
    """An object that resembles an item, a part or a response."""
    return draw(st.dictionaries(keys, anything, max_size=6)) | {"type": draw(item_types)}


numbers: st.SearchStrategy[Any] = st.none() | st.integers(0, 3) | anything
events: st.SearchStrategy[Any] = st.fixed_dictionaries(
    {"type": types | anything},
    optional={
        "output_index": numbers,
        "item_id": st.sampled_from(["it_0", "it_1", ""]) | anything,
        "content_index": numbers,
        "summary_index": numbers,
        "sequence_number": numbers,
        "delta": st.text(max_size=5) | anything,
        "text": st.text(max_size=5) | anything,
        "refusal": st.text(max_size=5) | anything,
        "arguments": st.text(max_size=5) | anything,
        "input": st.text(max_size=5) | anything,
        "name": anything,
        "item": shapes() | anything,
        "part": shapes() | anything,
        "response": shapes() | anything,
        "error": anything,
    },
)
ends: st.SearchStrategy[Any] = st.sampled_from(["completed", "incomplete", "failed", "cancelled", "done"]).flatmap(
    lambda name: st.fixed_dictionaries(
        {"type": st.just(f"response.{name}")},
        optional={
            "response": st.fixed_dictionaries(
                {}, optional={"output": st.lists(shapes() | anything, max_size=4) | anything, "status": anything}
            )
            | anything
        },
    )
)


def line(event: Any) -> bytes:
    return b"data: " + json.dumps(event).encode() + b"\n\n"


def read(body: bytes, options: InterfaceOptions, size: int) -> tuple[list[Delta], dict[str, Any]]:
    decoder = StreamDecoder("responses", options)
    deltas: list[Delta] = []
    for start in range(0, len(body), size):
        deltas += decoder.feed(body[start : start + size])
    deltas += decoder.close()
    for delta in deltas:
        encode_entry(delta)
    raw = encode_outcome(decoder.finish())
    decode_outcome(raw)
    return deltas, msgspec.json.decode(raw)


def text_of(deltas: list[Delta]) -> str:
    return "".join(delta.content or "" for delta in deltas if isinstance(delta, AssistantDelta))


BEFORE = [
    {"type": "response.output_text.delta", "output_index": 900, "item_id": "mill", "delta": "The wheel turns."},
    {
        "type": "response.output_item.done",
        "output_index": 900,
        "item": {"type": "message", "id": "mill", "content": [{"type": "output_text", "text": "The wheel turns."}]},
    },
]


@given(st.lists(events | anything, max_size=8), st.none() | ends, st.sampled_from(OPTIONS), st.integers(1, 400))
def test_json_of_any_shape(given: list[Any], end: Any, options: InterfaceOptions, size: int) -> None:
    # given: a finished message, then events of any shape, and perhaps an end
    body = b"".join(line(event) for event in [*BEFORE, *given, *([end] if end else [])])
    # if: it is read
    deltas, outcome = read(body, options, size)
    # expect: deltas and an outcome that can be encoded, with the message in both
    assert text_of(deltas).startswith("The wheel turns.")
    assert (outcome["content"] or "").startswith("The wheel turns.")


@given(st.binary(max_size=300), st.integers(1, 50))
def test_bytes_of_any_kind(given: bytes, size: int) -> None:
    # given: a message, then bytes; if: they are read
    deltas, outcome = read(b"".join(map(line, BEFORE)) + given, InterfaceOptions(), size)
    # expect: the message
    assert text_of(deltas).startswith("The wheel turns.")
    assert (outcome["content"] or "").startswith("The wheel turns.")


@pytest.mark.parametrize("name", ["summary_parts", "interleaved_calls", "custom_tool", "incomplete_in_a_call"])
def test_truncated_at_every_byte(name: str) -> None:
    # given: a body
    body = (FIXTURES / f"{name}.sse").read_bytes()
    _, whole = read(body, InterfaceOptions(), len(body))
    for end in range(len(body)):
        # if: it ends early
        deltas, outcome = read(body[:end], InterfaceOptions(), len(body))
        # expect: a prefix of the whole text, in the deltas and in the outcome
        for kind in ("content", "reasoning", "refusal"):
            assert (whole[kind] or "").startswith(outcome[kind] or "")
        assert text_of(deltas) == (outcome["content"] or "")


@pytest.mark.parametrize("name", ["summary_parts", "interleaved_calls", "custom_tool", "half_characters"])
def test_split_at_every_byte(name: str) -> None:
    # given: a body and its outcome
    body = (FIXTURES / f"{name}.sse").read_bytes()
    _, whole = read(body, InterfaceOptions(), len(body))
    for at in range(1, len(body)):
        # if: it comes in two pieces
        decoder = StreamDecoder("responses", InterfaceOptions())
        decoder.feed(body[:at])
        decoder.feed(body[at:])
        decoder.close()
        # expect: the same outcome
        assert msgspec.json.decode(encode_outcome(decoder.finish())) == whole
