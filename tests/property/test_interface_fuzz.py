"""Whatever a server sends, there is no exception, no hang, and no earlier text is lost."""

import json
from pathlib import Path
from typing import Any, cast

import msgspec
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from tailrace.schemas.codec import decode_outcome, encode_entry, encode_outcome
from tailrace.schemas.deltas import Delta
from tailrace.schemas.interface_options import InterfaceOptions
from tailrace.schemas.outcome import Outcome
from tests.chat_reading import JsonObject, call_part, chunk, in_pieces, joined, read, sse

FIXTURES = sorted((Path(__file__).parents[1] / "fixtures" / "chat").glob("*.sse"))
OPTIONS = st.sampled_from([InterfaceOptions(), InterfaceOptions(use_assistant_message=True, think_tags="reasoning")])

WORDS = (
    "id model choices index delta message content role refusal reasoning text type reasoning_content reasoning_details "
    "tool_calls function function_call name arguments finish_reason usage prompt_tokens completion_tokens_details "
    "error code detail thinking"
)
words = st.sampled_from(WORDS.split())
anything = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=6) | words,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(words | st.text(max_size=3), inner, max_size=4),
    max_leaves=12,
)


def mutated(given: Any, data: st.DataObject) -> Any:
    """The value with one of its parts, at any depth, replaced by another value."""
    if not data.draw(st.integers(0, 3)):
        return data.draw(anything)
    if isinstance(given, dict) and given:
        fields = cast("JsonObject", given)
        key = data.draw(st.sampled_from(sorted(fields)))
        return fields | {key: mutated(fields[key], data)}
    if isinstance(given, list) and given:
        elements = cast("list[Any]", given)
        return [mutated(elements[0], data), *elements[1:]]
    return data.draw(anything)


def check(deltas: list[Delta], outcome: Outcome) -> None:
    """Everything can be published and persisted, and the deltas add up to the outcome's texts."""
    for delta in deltas:
        encode_entry(delta)
    assert decode_outcome(encode_outcome(outcome)) == outcome
    texts = joined(deltas)
    assert texts.get(("content", None)) == outcome.content
    assert texts.get(("reasoning", None)) == outcome.reasoning
    assert texts.get(("refusal", None)) == outcome.refusal
    assert (outcome.status == "failed") == (outcome.error is not None)


@settings(max_examples=400, deadline=None)
@given(st.binary(max_size=200), st.lists(st.integers(0, 200), max_size=8), OPTIONS)
@example(b"\xef\xbb\xbf", [], InterfaceOptions())
@example(b"data:\n\ndata\n\n:\n\nevent\nid\nretry: x\n\n\r\r\n", [3], InterfaceOptions())
@example(b"data: " + b"[" * 200_000 + b"\n\n", [], InterfaceOptions())
@example(b"{" * 100_000, [], InterfaceOptions())
def test_random_bytes(body: bytes, cuts: list[int], options: InterfaceOptions) -> None:
    deltas, outcome = read(in_pieces(body, cuts), options)

    check(deltas, outcome)
    assert outcome.status == "failed" or b"[DONE]" in body
    assert (deltas, outcome) == read(body, options)


@settings(max_examples=400, deadline=None)
@given(st.lists(anything, max_size=4), OPTIONS, st.booleans())
def test_random_json(values: list[Any], options: InterfaceOptions, ascii_only: bool) -> None:
    events = [f"data: {json.dumps(value, ensure_ascii=ascii_only)}\n\n" for value in values]
    body = "".join(events).encode("utf-8", "surrogatepass")

    check(*read(body, options))


@settings(max_examples=400, deadline=None)
@given(st.data(), OPTIONS)
def test_a_chunk_of_the_wrong_shape_loses_no_earlier_text(data: st.DataObject, options: InterfaceOptions) -> None:
    model: JsonObject = chunk(
        content="later", reasoning="later", tool_calls=[call_part(0, '{"q":1}', name="find", call_id="kz_0")]
    ) | {"usage": {"prompt_tokens": 1, "completion_tokens": 2, "prompt_tokens_details": {"cached_tokens": 1}}}
    wrong = mutated(model, data)
    before = [chunk(reasoning="First I look."), chunk(content="The ferry leaves at six.")]

    deltas, outcome = read(sse([*before, wrong, chunk(content="!", finish_reason="stop")]), options)

    check(deltas, outcome)
    assert (outcome.reasoning or "").startswith("First I look.")
    assert (outcome.content or "").startswith("The ferry leaves at six.")
    assert (outcome.content or "").endswith("!") or outcome.status == "failed"


@pytest.mark.parametrize("path", FIXTURES, ids=lambda path: path.stem)
def test_truncated_at_every_byte(path: Path) -> None:
    body = path.read_bytes()
    whole = joined(read(body)[0])
    step = max(1, len(body) // 400)

    for end in range(0, len(body), step):
        deltas, outcome = read(body[:end])

        check(deltas, outcome)
        for key, text in joined(deltas).items():
            if key[0] != "arguments":  # they may end with half a member that is taken out later, or be `{}`
                assert whole.get(key, "").startswith(text.removesuffix("\ufffd"))  # or with half a pair
        if outcome.status == "failed":
            assert not any(call.complete for call in outcome.tool_calls)


@pytest.mark.parametrize("path", FIXTURES, ids=lambda path: path.stem)
def test_split_at_every_byte(path: Path) -> None:
    body = path.read_bytes()
    at_once = read(body)

    assert read([body[at : at + 1] for at in range(len(body))]) == at_once
    for at in range(0, len(body), max(1, len(body) // 200)):
        assert read([body[:at], body[at:]]) == at_once


@settings(max_examples=200, deadline=None)
@given(st.lists(st.sampled_from(FIXTURES), min_size=1, max_size=2), st.binary(max_size=12), st.integers(0, 4000))
def test_a_body_with_random_bytes_inserted(paths: list[Path], noise: bytes, at: int) -> None:
    body = b"".join(path.read_bytes() for path in paths)

    check(*read(body[:at] + noise + body[at:]))


def test_every_outcome_is_json() -> None:
    """Given halves of pairs everywhere, expect an outcome that can be encoded as UTF-8."""
    half = "\ud83d"
    given = chunk(content=half, refusal=half, reasoning=half, tool_calls=[call_part(0, half, name=half, call_id=half)])
    given |= {"model": half, "id": half, "usage": {half: half}}

    deltas, outcome = read(sse([given, given]))

    check(deltas, outcome)
    assert msgspec.json.decode(encode_outcome(outcome))["content"] == "\ufffd\ufffd"
