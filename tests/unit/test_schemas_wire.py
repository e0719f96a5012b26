"""The wire forms of ids, entries, outcomes, job payloads and scripts: encoded, decoded, and refused."""

import json
import re
from pathlib import Path
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tailrace.schemas import codec
from tailrace.schemas.deltas import (
    FORMAT_VERSION,
    Accepted,
    AssistantDelta,
    AttemptStarted,
    Cancelled,
    Completed,
    ErrorInfo,
    Failed,
    Gap,
    Incomplete,
    LogEntry,
    MessageIds,
    ReaderEvent,
    ReasoningDelta,
    RetryScheduled,
    Stalled,
    ToolCallDelta,
    ToolCallPart,
    Usage,
)
from tailrace.schemas.errors import CursorInvalid, RequestRejected, TailError
from tailrace.schemas.ids import ACCEPTED, BEGINNING, EntryId, check_request_id
from tailrace.schemas.outcome import Outcome, ToolCall, terminal_of

ENTRIES: list[tuple[LogEntry | ReaderEvent, str]] = [
    (
        Accepted(1, "2026-01-01T00:00:00.000Z", "chat", "gpt-x"),
        '{"message_type":"accepted","v":1,"at":"2026-01-01T00:00:00.000Z","api":"chat","model":"gpt-x"}',
    ),
    (
        AttemptStarted(1, 2, "t", "lease_expired", MessageIds("message-a", "message-b")),
        '{"message_type":"attempt_started","v":1,"attempt":2,"at":"t","why":"lease_expired",'
        '"ids":{"assistant":"message-a","tool":"message-b"}}',
    ),
    (
        ReasoningDelta(0, 412, "I should", "non_reasoner_model"),
        '{"message_type":"reasoning_message","i":0,"ms":412,"reasoning":"I should","source":"non_reasoner_model"}',
    ),
    (ReasoningDelta(0, 0, ""), '{"message_type":"reasoning_message","i":0,"ms":0,"reasoning":""}'),
    (
        ToolCallDelta(1, 640, 0, ToolCallPart(name="search", tool_call_id="call_1")),
        '{"message_type":"tool_call_message","i":1,"ms":640,"call":0,'
        '"tool_call":{"name":"search","tool_call_id":"call_1"}}',
    ),
    (
        ToolCallDelta(1, 655, 0, ToolCallPart(arguments='{"q')),
        r'{"message_type":"tool_call_message","i":1,"ms":655,"call":0,"tool_call":{"arguments":"{\"q"}}',
    ),
    (AssistantDelta(2, 801, "Hello"), '{"message_type":"assistant_message","i":2,"ms":801,"content":"Hello"}'),
    (AssistantDelta(2, 801, refusal="No"), '{"message_type":"assistant_message","i":2,"ms":801,"refusal":"No"}'),
    (
        RetryScheduled(900, 1, "upstream_429", "t"),
        '{"message_type":"retry_scheduled","ms":900,"attempt":1,"reason":"upstream_429","until":"t"}',
    ),
    (
        Completed(2300, "stop", Usage(12, 30, 0, None)),
        '{"message_type":"completed","ms":2300,"finish_reason":"stop",'
        '"usage":{"input_tokens":12,"output_tokens":30,"cached_tokens":0}}',
    ),
    (Incomplete(1, "length"), '{"message_type":"incomplete","ms":1,"finish_reason":"length"}'),
    (
        Failed(1, ErrorInfo("upstream_401", "no", "operator")),
        '{"message_type":"failed","ms":1,"error":{"code":"upstream_401","message":"no","whose":"operator"}}',
    ),
    (Cancelled(0), '{"message_type":"cancelled","ms":0}'),
    (Gap("1-1", "1-5"), '{"message_type":"gap","after":"1-1","before":"1-5"}'),
    (Stalled(5000, "busy"), '{"message_type":"stalled","for_ms":5000,"why":"busy"}'),
]


@pytest.mark.parametrize(("entry", "raw"), ENTRIES)
def test_an_entry_on_the_wire(entry: LogEntry | ReaderEvent, raw: str) -> None:
    assert codec.encode_entry(entry).decode() == raw
    if not isinstance(entry, Gap | Stalled):
        assert codec.decode_entry(raw.encode()) == entry


@pytest.mark.parametrize("raw", [raw for entry, raw in ENTRIES if isinstance(entry, Gap | Stalled)])
def test_entries_made_by_readers_are_not_log_entries(raw: str) -> None:
    with pytest.raises(TailError):
        codec.decode_entry(raw.encode())


def test_an_entry_with_an_unknown_field_is_read() -> None:
    raw = b'{"message_type":"assistant_message","i":2,"ms":801,"content":"Hello","mood":"good"}'
    assert codec.decode_entry(raw) == AssistantDelta(2, 801, "Hello")


@pytest.mark.parametrize("raw", [b"", b"{", b"[]", b"{}", b'{"message_type":"new"}', b"\xff", b'{"message_type":7}'])
def test_bytes_that_are_not_an_entry_are_refused(raw: bytes) -> None:
    with pytest.raises(TailError, match="cannot be read"):
        codec.decode_entry(raw)


@pytest.mark.parametrize("version", [0, FORMAT_VERSION + 1])
def test_another_format_version_is_refused(version: int) -> None:
    with pytest.raises(TailError, match=f"format version {version}"):
        codec.decode_entry(codec.encode_entry(Accepted(version, "t", "chat", "m")))
    with pytest.raises(TailError, match=f"format version {version}"):
        codec.decode_outcome(codec.encode_outcome(Outcome(v=version, status="completed")))


def test_any_text_is_read_back_equal() -> None:
    for text in ("\x00\x1f", '"\\/', "é𝄞\u2028", "\n\r\t", "</script>"):
        raw = codec.encode_entry(AssistantDelta(0, 0, text))
        assert b"\n" not in raw
        assert codec.decode_entry(raw) == AssistantDelta(0, 0, text)


OUTCOME = Outcome(
    status="incomplete",
    request_id="one",
    attempt=2,
    submitted_at="a",
    started_at="b",
    finished_at="c",
    finish_reason="length",
    content="Hi",
    reasoning="hm",
    reasoning_source="reasoner_model",
    tool_calls=(ToolCall("call_1", "f", "{", False),),
    usage=Usage(1, 2, 3, 4),
    model="m",
    upstream_id="chatcmpl-1",
    items=({"type": "reasoning", "encrypted_content": "x"},),
    notes=("two finish reasons",),
    metadata={"a": [1, None]},
)


def test_an_outcome_is_read_back_equal() -> None:
    assert codec.decode_outcome(codec.encode_outcome(OUTCOME)) == OUTCOME


def test_an_encoded_outcome_has_every_field_even_if_it_is_empty() -> None:
    fields = json.loads(codec.encode_outcome(Outcome(status="completed")))
    for name in ("status", "finish_reason", "content", "refusal", "reasoning", "tool_calls", "usage", "model", "error"):
        assert name in fields


@pytest.mark.parametrize("raw", [b"", b"{}", b'{"kind":"outcome"}', b'{"kind":"other","status":"completed"}'])
def test_bytes_that_are_not_an_outcome_are_refused(raw: bytes) -> None:
    with pytest.raises(TailError, match="cannot be read"):
        codec.decode_outcome(raw)


@pytest.mark.parametrize("status", ["completed", "incomplete", "failed", "cancelled"])
def test_the_terminals_type_is_the_outcomes_status(status: Any) -> None:
    terminal = terminal_of(Outcome(status=status, finish_reason="stop", usage=Usage(1)), 7)
    fields = json.loads(codec.encode_entry(terminal))
    assert (fields["message_type"], fields["ms"], fields["usage"]) == (status, 7, {"input_tokens": 1})
    assert ("error" in fields) == (status == "failed")


def test_job_payloads_are_msgpack_and_never_pickle() -> None:
    job: dict[str, Any] = {"t": 1, "f": "generate", "a": ("one",), "k": {}, "et": 5}
    packed = codec.encode_job(job)
    assert codec.decode_job(packed) == {**job, "a": ["one"]}
    with pytest.raises(msgspec.MsgspecError):
        codec.decode_job(b"\x80\x04\x95\x00")  # the start of a pickle


@given(st.integers(0, 10**18), st.integers(0, 10**18))
def test_entry_ids_are_read_back_equal(attempt: int, seq: int) -> None:
    entry_id = EntryId(attempt, seq)
    assert EntryId.parse(str(entry_id)) == EntryId.parse(str(entry_id).encode()) == entry_id
    assert entry_id < entry_id.next() < EntryId(attempt + 1, 0)


def test_ids_order_as_redis_orders_them() -> None:
    ordered = ["0-0", "0-1", "1-0", "1-9", "1-10", "2-0", "10-0"]
    assert [str(entry_id) for entry_id in sorted(EntryId.parse(text) for text in reversed(ordered))] == ordered
    assert (str(BEGINNING), str(ACCEPTED)) == ("0-0", "0-1")


@pytest.mark.parametrize(
    "text", ["", "1", "1-", "-1", "1-1-1", "a-b", "1-1\n", "+1-1", "1 -1", "1_0-1", "1" * 20 + "-1"]
)
def test_text_that_is_not_an_entry_id_is_refused(text: str) -> None:
    with pytest.raises(CursorInvalid):
        EntryId.parse(text)


@given(st.text())
def test_an_entry_id_is_read_unchanged_or_refused(text: str) -> None:
    fits = re.fullmatch(r"[A-Za-z0-9_-]{1,64}", text, re.ASCII) is not None
    if fits:
        assert check_request_id(text) == text
    else:
        with pytest.raises(RequestRejected, match="cannot be used"):
            check_request_id(text)


@pytest.mark.parametrize("text", ["a" * 64, "A-Z_0", "-", "_"])
def test_valid_request_ids(text: str) -> None:
    assert check_request_id(text) == text


@pytest.mark.parametrize("text", ["", "a" * 65, "a b", "a}b", "a\n", "é", "a:b", "a/b", "\u0661"])
def test_invalid_request_ids(text: str) -> None:
    with pytest.raises(RequestRejected):
        check_request_id(text)


_PAGE = (Path(__file__).parents[2] / "docs" / "wire.md").read_text()
_EXAMPLES = [line for block in re.findall(r"```json\n(.*?)```", _PAGE, re.DOTALL) for line in block.splitlines()]


@pytest.mark.parametrize("raw", _EXAMPLES)
def test_an_example_of_the_page_has_the_wire_form(raw: str) -> None:
    assert codec.encode_entry(codec.decode_entry(raw.encode())).decode() == raw


def test_the_page_shows_every_entry_and_the_outcome() -> None:
    shown = {json.loads(raw)["message_type"] for raw in _EXAMPLES}
    assert shown == {type(entry).__struct_config__.tag for entry, _ in ENTRIES if not isinstance(entry, Gap | Stalled)}
    [outcome] = re.findall(r"```outcome\n(.*?)\n```", _PAGE)
    fields = json.loads(codec.encode_outcome(codec.decode_outcome(outcome.encode())))
    assert set(json.loads(outcome)) <= set(fields)
