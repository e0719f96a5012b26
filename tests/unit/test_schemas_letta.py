"""The Letta form against an independent model of its rules: ids, dates, otids and payloads."""

import uuid
from datetime import UTC, datetime, timedelta
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from tailrace.schemas.codec import decode_entry, encode_entry
from tailrace.schemas.deltas import (
    FORMAT_VERSION,
    AssistantDelta,
    AttemptStarted,
    Delta,
    MessageIds,
    ReasoningDelta,
    ReasoningSource,
    ToolCallDelta,
    ToolCallPart,
)
from tailrace.schemas.ids import message_id, otid
from tailrace.schemas.letta import LettaView

A = uuid.UUID("0f8fad5b-d9cb-469f-a165-70867728950e")
T = uuid.UUID("7c9e6679-7425-40de-944b-e07fc1f90ae7")
BEGAN = datetime(2026, 1, 1, 12, 0, 0, 250_000, tzinfo=UTC)
ATTEMPT = AttemptStarted(
    FORMAT_VERSION, 1, "2026-01-01T12:00:00.250Z", "first", MessageIds(message_id(str(A)), message_id(str(T)))
)

texts = st.text(max_size=5)
reasoning = st.tuples(st.just("reasoning_message"), texts, st.sampled_from(["non_reasoner_model", "reasoner_model"]))
calls = st.tuples(st.just("tool_call_message"), texts, st.sampled_from(["name", "arguments"]))
content = st.tuples(st.just("assistant_message"), texts, st.sampled_from(["content", "refusal"]))
piece_lists = st.lists(st.tuples(st.one_of(reasoning, calls, content), st.integers(0, 10_000)), max_size=40)

Piece = tuple[tuple[str, str, str], int]


def on_the_wire(pieces: list[Piece]) -> list[Delta]:
    """What a worker publishes for these pieces: `i` counts runs of one type, and only a new `source` is set."""
    deltas: list[Delta] = []
    run, before, known = -1, "", ""
    for (kind, text, detail), ms in pieces:
        if kind != before:
            run, before, known = run + 1, kind, ""
        if kind == "reasoning_message":
            source: Any = None if detail == known else detail
            known = detail
            deltas.append(ReasoningDelta(run, ms, text, source))
        elif kind == "tool_call_message":
            part = ToolCallPart(name=text, tool_call_id="call_1") if detail == "name" else ToolCallPart(arguments=text)
            deltas.append(ToolCallDelta(run, ms, 0, part))
        else:
            payload: dict[str, Any] = {detail: text}
            deltas.append(AssistantDelta(run, ms, **payload))
    return deltas


def expected_messages(pieces: list[Piece]) -> list[dict[str, Any]]:
    """The rules of Letta messages, applied to the pieces alone."""
    messages: list[dict[str, Any]] = []
    index = 0
    for position, ((kind, text, detail), ms) in enumerate(pieces):
        if position and pieces[position - 1][0][0] != kind:
            index += 1
        of = A if kind == "assistant_message" else T
        message: dict[str, Any] = {
            "id": f"message-{of}",
            "date": (BEGAN + timedelta(milliseconds=ms)).isoformat(timespec="milliseconds"),
            "message_type": kind,
            "otid": str(uuid.UUID(int=(of.int >> 7 << 7) | index)),
        }
        if kind == "reasoning_message":
            message |= {"reasoning": text, "source": detail}
        elif kind == "assistant_message":
            message |= {"content": text}
        elif detail == "name":
            message |= {"tool_call": {"name": text, "tool_call_id": "call_1"}}
        else:
            message |= {"tool_call": {"arguments": text}}
        messages.append(message)
    return messages


@given(piece_lists)
def test_the_view_makes_the_expected_messages(pieces: list[Piece]) -> None:
    view = LettaView(ATTEMPT)
    messages: list[dict[str, Any]] = []
    for delta in on_the_wire(pieces):
        read = decode_entry(encode_entry(delta))
        assert isinstance(read, ReasoningDelta | ToolCallDelta | AssistantDelta)
        messages.append(view.message(read))
    assert messages == expected_messages(pieces)


def test_dates_are_utc_with_an_offset() -> None:
    message = LettaView(ATTEMPT).message(AssistantDelta(0, 812, "x"))
    assert message["date"] == "2026-01-01T12:00:01.062+00:00"


def test_a_view_in_the_middle_of_a_run_leaves_the_source_out() -> None:
    view = LettaView(ATTEMPT)
    assert "source" not in view.message(ReasoningDelta(3, 0, "so"))
    # but has it from the next run on, and does not carry it into another run
    source: ReasoningSource = "reasoner_model"
    assert view.message(ReasoningDelta(4, 0, "so", source))["source"] == source
    assert view.message(ReasoningDelta(4, 0, "on"))["source"] == source
    assert "source" not in view.message(ReasoningDelta(6, 0, "again"))


@given(st.uuids(version=4), st.integers(0, 127))
def test_an_otid_has_the_index_in_its_low_seven_bits(of: uuid.UUID, index: int) -> None:
    made = uuid.UUID(otid(f"message-{of}", index))
    assert made.int & 0x7F == index
    assert made.int >> 7 == of.int >> 7


@given(st.uuids(version=4))
def test_no_two_runs_share_an_otid(of: uuid.UUID) -> None:
    made = [otid(f"message-{of}", index) for index in range(600)]
    assert len(set(made)) == 600
    assert all(uuid.UUID(one).version == 4 for one in made)
