"""The rules for odd servers must not change ordinary streams, whose answer is the joined fragments.

The oracle accumulates by index, as the SDK does. There are few different fragments, which repeat, and some of them look
like cases of the rules for odd servers.
"""

import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tailrace.schemas.interface_options import InterfaceOptions
from tests.chat_reading import JsonObject, call, call_part, chunk, in_pieces, joined, read, sse

PLAIN = InterfaceOptions(put_inner_thoughts_in_kwarg=False)
FRAGMENTS = (
    "1",
    "ha",
    "\n",
    " ",
    "{}",
    "{",
    "}",
    "[DONE]",
    "data: x",
    "<think>",
    "</think>",
    "null",
    "é",
    "\u2028",
    '"',
)
KINDS = ("content", "refusal", "reasoning")
Call = tuple[str | None, str, str]

fragments = st.sampled_from(FRAGMENTS)
leaves: st.SearchStrategy[Any] = st.sampled_from(["", "1", "haha", 1, None])
values: st.SearchStrategy[Any] = st.recursive(leaves, lambda inner: st.dictionaries(fragments, inner))
arguments = st.dictionaries(st.sampled_from(["a", "b", "{}"]), values, max_size=3).map(json.dumps)
cuts = st.lists(st.integers(0, 2000), max_size=6)


def calls_of(body: bytes) -> list[Call]:
    _, outcome = read(body, PLAIN)
    return [(each.id, each.name, each.arguments) for each in outcome.tool_calls]


@given(texts=st.lists(st.tuples(st.sampled_from(KINDS), fragments), max_size=12), at=cuts)
@settings(max_examples=60)
def test_texts_are_the_fragments_joined(texts: list[tuple[str, str]], at: list[int]) -> None:
    # given: fragments that repeat or equal the text so far; the reasoning in one field or in two
    for twice in (False, True):
        chunks: list[JsonObject] = []
        for kind, text in texts:
            delta: JsonObject = {kind: text}
            if twice and kind == "reasoning":
                delta["reasoning_content"] = text
            chunks.append({"choices": [{"index": 0, "delta": delta}]})
        # if: the stream is read
        deltas, outcome = read(in_pieces(sse([*chunks, chunk(finish_reason="stop")]), at), PLAIN)
        # expect: every fragment once, in the outcome and in the deltas
        for kind, text in (
            ("content", outcome.content),
            ("refusal", outcome.refusal),
            ("reasoning", outcome.reasoning),
        ):
            true = "".join(text for of_kind, text in texts if of_kind == kind)
            assert (text or "") == joined(deltas).get((kind, None), "") == true
        assert not outcome.notes


@given(given_arguments=st.lists(arguments, min_size=1, max_size=4), data=st.data())
@settings(max_examples=80)
def test_parallel_calls_are_kept_apart_by_index(given_arguments: list[str], data: st.DataObject) -> None:
    # given: calls with the same name and often the same arguments, each started by a chunk with id and name
    chunks: list[JsonObject] = []
    streams: list[list[JsonObject]] = []
    for index, text in enumerate(given_arguments):
        sizes = data.draw(st.lists(st.integers(1, 3), max_size=12))
        pieces: list[str] = []
        rest = text
        for size in sizes:
            pieces.append(rest[:size])
            rest = rest[size:]
        begin = call(index, "", name="find_ferry", call_id=f"call_{index}")
        streams.append([begin, *(call(index, piece) for piece in [*pieces, rest] if piece)])
    # if: they come one after the other or interleaved
    if data.draw(st.booleans()):
        while any(streams):
            chunks.append(data.draw(st.sampled_from([stream for stream in streams if stream])).pop(0))
    else:
        chunks = [each for stream in streams for each in stream]
    body = sse([*chunks, chunk(finish_reason="tool_calls")])
    # expect: the same calls
    true = {(f"call_{index}", "find_ferry", text) for index, text in enumerate(given_arguments)}
    assert set(calls_of(body)) == true
    assert len(calls_of(body)) == len(true)


SAME = '{"mill":1}'
OTHER = '{"mill":2}'
NOT_REPEATED: dict[str, tuple[list[JsonObject], list[Call]]] = {
    "the same call under two ids and one index": (
        [call(0, SAME, name="turn", call_id="call_1"), call(0, SAME, name="turn", call_id="call_2")],
        [("call_1", "turn", SAME), ("call_2", "turn", SAME)],
    ),
    "the same call under one id and two indexes": (
        [call(0, SAME, name="turn", call_id="x"), call(1, SAME, name="turn", call_id="x")],
        [("x", "turn", SAME), ("x", "turn", SAME)],
    ),
    "the same call without ids, under one index": (
        [call(0, SAME, name="turn"), call(0, SAME, name="turn")],
        [(None, "turn", SAME), (None, "turn", SAME)],
    ),
    "the same call without ids and indexes": (
        [call(None, SAME, name="turn"), call(None, SAME, name="turn")],
        [(None, "turn", SAME), (None, "turn", SAME)],
    ),
    "the same call twice in one chunk": (
        [chunk(tool_calls=[call_part(0, SAME, name="turn", call_id=""), call_part(0, SAME, name="turn", call_id="")])],
        [(None, "turn", SAME), (None, "turn", SAME)],
    ),
    "calls that share an id and begin one after the other": (
        [call(0, "", name="turn", call_id="x"), call(1, "", name="turn", call_id="x"), call(0, SAME), call(1, OTHER)],
        [("x", "turn", SAME), ("x", "turn", OTHER)],
    ),
    "calls that share an id and begin in one chunk": (
        [
            chunk(tool_calls=[call_part(index, "{", name="turn", call_id="x") for index in (0, 1)]),
            call(0, SAME[1:]),
            call(1, OTHER[1:]),
        ],
        [("x", "turn", SAME), ("x", "turn", OTHER)],
    ),
    "calls without arguments under random ids and one index": (
        [call(0, "", name="turn", call_id="a1B2c3D4e"), call(0, "", name="stop", call_id="Zx9y8w7v6")],
        [("a1B2c3D4e", "turn", "{}"), ("Zx9y8w7v6", "stop", "{}")],
    ),
    "the same without an index, and with the same name": (
        [call(None, "", name="turn", call_id="a1B2c3D4e"), call(None, "", name="turn", call_id="Zx9y8w7v6")],
        [("a1B2c3D4e", "turn", "{}"), ("Zx9y8w7v6", "turn", "{}")],
    ),
    "the index begins again behind a text": (
        [
            call(0, SAME, name="turn", call_id="call_1"),
            chunk(content="so"),
            call(0, SAME, name="turn", call_id="call_2"),
        ],
        [("call_1", "turn", SAME), ("call_2", "turn", SAME)],
    ),
    "id and name are empty in what follows": (
        [
            call(0, "", name="turn", call_id="call_1"),
            call(0, SAME, name="", call_id=""),
            call(0, "", name="", call_id=""),
        ],
        [("call_1", "turn", SAME)],
    ),
    "id and name in every chunk, the last one with nothing else": (
        [call(0, each, name="turn", call_id="call_1") for each in ('{"mill"', ":1}", "")],
        [("call_1", "turn", SAME)],
    ),
}


@pytest.mark.parametrize("case", NOT_REPEATED)
def test_calls_that_look_like_one_call(case: str) -> None:
    # given: calls that differ in one member only; expect: each of them
    chunks, expected = NOT_REPEATED[case]
    assert calls_of(sse([*chunks, chunk(finish_reason="tool_calls")])) == expected


def test_input_of_a_custom_tool_is_free_text() -> None:
    # given: a custom tool's input with a fragment that looks like whole arguments and comes twice
    def part(text: str, **begin: Any) -> JsonObject:
        return chunk(tool_calls=[{"index": 0, "custom": {"input": text} | begin}])

    chunks = [
        chunk(tool_calls=[{"index": 0, "id": "call_1", "custom": {"name": "run"}}]),
        part("{}"),
        part("{}"),
        part("1"),
    ]
    # expect: all of it
    assert calls_of(sse([*chunks, chunk(finish_reason="tool_calls")])) == [("call_1", "run", "{}{}1")]
