"""Entries as frames: bytes pass as they are, names come from their front, ids move the reader or do not."""

import json

import pytest

from tailrace.producers.gateway.streams import sse
from tailrace.schemas.codec import encode_entry, message_type
from tailrace.schemas.deltas import AssistantDelta, Gap
from tailrace.schemas.errors import TailError

ENTRY = encode_entry(AssistantDelta(i=0, ms=4, content='a\nb "quoted" \u2028 <script> €'))


def test_the_bytes_of_an_entry_stand_in_its_frame_as_they_are() -> None:
    assert sse.frame(ENTRY, name=message_type(ENTRY), event_id="1-7") == (
        b"id: 1-7\nevent: assistant_message\ndata: " + ENTRY + b"\n\n"
    )


def test_what_the_reader_itself_says_has_no_id() -> None:
    gap = encode_entry(Gap(after="1-2", before="1-9"))
    assert b"id:" not in sse.frame(gap, name=message_type(gap), event_id=None)


@pytest.mark.parametrize("raw", [b'{"i": 1, "message_type": "gap"}', b'{ "message_type" : "gap"}'])
def test_a_name_is_found_wherever_others_put_it(raw: bytes) -> None:
    assert message_type(raw) == b"gap"


@pytest.mark.parametrize("raw", [b"", b"{}", b'{"message_type":"gap', b'{"message_type": 1}', b"[]"])
def test_what_is_no_entry_has_no_name(raw: bytes) -> None:
    with pytest.raises(TailError):
        message_type(raw)


@pytest.mark.parametrize("line_end", ["\n", "\r", "\r\n"])
def test_line_ends_between_tokens_do_not_break_the_frame(line_end: str) -> None:
    # given an entry that others wrote over several lines, if a reader joins the data lines, expect the same JSON
    raw = f'{{{line_end}"message_type": "gap",{line_end}{line_end}"after": "1-2"}}'.encode()
    lines = sse.frame(raw, name=b"gap", event_id="1-7").decode().splitlines()
    assert lines[:2] == ["id: 1-7", "event: gap"]
    assert lines[-1] == ""
    assert all(line.startswith("data: ") for line in lines[2:-1])
    assert json.loads("\n".join(line.removeprefix("data: ") for line in lines[2:-1])) == json.loads(raw)


def test_an_entry_among_those_of_several_requests_says_whose_it_is() -> None:
    assert json.loads(sse.with_request_id(ENTRY, "one", "1-7")) == {
        "request_id": "one",
        "entry_id": "1-7",
        **json.loads(ENTRY),
    }
    assert json.loads(sse.with_request_id(ENTRY, "one", None))["entry_id"] is None


def test_heartbeat_and_retry_are_no_events() -> None:
    assert sse.HEARTBEAT.startswith(b":")
    assert sse.retry(1500) == b"retry: 1500\n\n"
