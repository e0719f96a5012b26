"""Entries as frames: bytes are unchanged, names come from the beginning of an entry, ids are cursors."""

import json

import pytest

from tailrace.producers.gateway.streams import sse
from tailrace.schemas.codec import encode_entry, message_type
from tailrace.schemas.deltas import AssistantDelta, Gap
from tailrace.schemas.errors import TailError

ENTRY = encode_entry(AssistantDelta(i=0, ms=4, content='a\nb "quoted" \u2028 <script> €'))


def test_a_frame_contains_the_bytes_of_its_entry_unchanged() -> None:
    assert sse.frame(ENTRY, name=message_type(ENTRY), event_id="1-7") == (
        b"id: 1-7\nevent: assistant_message\ndata: " + ENTRY + b"\n\n"
    )


def test_an_event_of_the_reader_has_no_id() -> None:
    gap = encode_entry(Gap(after="1-2", before="1-9"))
    assert b"id:" not in sse.frame(gap, name=message_type(gap), event_id=None)


@pytest.mark.parametrize("raw", [b'{"i": 1, "message_type": "gap"}', b'{ "message_type" : "gap"}'])
def test_the_name_is_found_in_any_json_layout(raw: bytes) -> None:
    assert message_type(raw) == b"gap"


@pytest.mark.parametrize("raw", [b"", b"{}", b'{"message_type":"gap', b'{"message_type": 1}', b"[]"])
def test_text_that_is_not_an_entry_is_rejected(raw: bytes) -> None:
    with pytest.raises(TailError):
        message_type(raw)


@pytest.mark.parametrize("line_end", ["\n", "\r", "\r\n"])
def test_line_ends_between_tokens_do_not_break_the_frame(line_end: str) -> None:
    # an entry written over several lines is the same JSON after the reader joins its data lines
    raw = f'{{{line_end}"message_type": "gap",{line_end}{line_end}"after": "1-2"}}'.encode()
    lines = sse.frame(raw, name=b"gap", event_id="1-7").decode().splitlines()
    assert lines[:2] == ["id: 1-7", "event: gap"]
    assert lines[-1] == ""
    assert all(line.startswith("data: ") for line in lines[2:-1])
    assert json.loads("\n".join(line.removeprefix("data: ") for line in lines[2:-1])) == json.loads(raw)


def test_an_entry_on_a_stream_over_several_requests_names_its_request() -> None:
    assert json.loads(sse.with_request_id(ENTRY, "one", "1-7")) == {
        "request_id": "one",
        "entry_id": "1-7",
        **json.loads(ENTRY),
    }
    assert json.loads(sse.with_request_id(ENTRY, "one", None))["entry_id"] is None


def test_heartbeat_and_retry_are_not_events() -> None:
    assert sse.HEARTBEAT.startswith(b":")
    assert sse.retry(1500) == b"retry: 1500\n\n"
