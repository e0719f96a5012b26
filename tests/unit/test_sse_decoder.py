"""Decoding server-sent events from bytes that are cut anywhere."""

import pytest

from tailrace.worker.interface.sse import Event, SSEDecoder


def events_of(pieces: list[bytes]) -> list[Event]:
    decoder = SSEDecoder()
    return [event for piece in pieces for event in decoder.feed(piece)] + decoder.close()


@pytest.mark.parametrize(
    ("body", "events"),
    [
        (b"data: a\n\ndata:b\n\n", [("", b"a"), ("", b"b")]),
        (b"data: a\r\n\r\ndata: b\r\n\r\n", [("", b"a"), ("", b"b")]),
        (b"data: a\r\rdata: b\r\r", [("", b"a"), ("", b"b")]),
        (b"data: a\rdata: b\n\r\n", [("", b"a\nb")]),
        (b"\xef\xbb\xbfdata: a\n\n", [("", b"a")]),
        (b": c\n\n:\ndata: a\n: d\ndata: b\n\n", [("", b"a\nb")]),
        (b"event: x\nid: 1\nretry: 5\ndata: a\n\ndata: b\n\n", [("x", b"a"), ("", b"b")]),
        (b"event: x\n\ndata: a\n\n", [("", b"a")]),
        (b"data\n\ndata:\n\ndata: \n\n", []),
        (b"data\ndata: a\n\n", [("", b"\na")]),
        (b"data:  a\n\n", [("", b" a")]),
        (b"data: a", [("", b"a")]),
        (b"data: a\n", [("", b"a")]),
        (b"nonsense\ndata: a\n\n", [("", b"a")]),
        (b"error: {}\n\n", [("error", b"{}")]),
        (b"data: \xf0\x9f\x9b\xb6\n\n", [("", b"\xf0\x9f\x9b\xb6")]),
        (b"", []),
        (b'data: {"a": {}}\ndata: {"b": 1}\ndata: [DONE]\n', [("", b'{"a": {}}'), ("", b'{"b": 1}'), ("", b"[DONE]")]),
        (b'data: {"a":\ndata: {"b": 1}\ndata: }\n\n', [("", b'{"a":\n{"b": 1}\n}')]),
        (b'data: [{"a": 1},\ndata: {"b": 1}]\n\n', [("", b'[{"a": 1},\n{"b": 1}]')]),
        (b'data: {}\nerror: {"a": 1}\n\n', [("", b"{}"), ("error", b'{"a": 1}')]),
        (b'data:\n {"a": 1}\n\ndata: {\n  "a": 2\n}\n\n', [("", b'\n{"a": 1}'), ("", b'{\n"a": 2\n}')]),
        (b'data: {}\n\n{"a": 1}\n\n[DONE]', [("", b"{}"), ("", b'{"a": 1}'), ("", b"[DONE]")]),
        (b"event: x\ndata: {}\nevent: y\ndata: {}\nevent: z\n\n", [("x", b"{}"), ("z", b"{}")]),
    ],
)
def test_events(body: bytes, events: list[Event]) -> None:
    assert events_of([body]) == events
    assert events_of([body[at : at + 1] for at in range(len(body))]) == events
    for at in range(len(body)):
        assert events_of([body[:at], body[at:]]) == events


def test_an_event_is_returned_with_the_byte_that_ends_it() -> None:
    # given: a CR that ends the blank line, and its LF in the next piece
    decoder = SSEDecoder()
    assert decoder.feed(b"data: a\r\n\r") == [("", b"a")]
    assert decoder.feed(b"\ndata: b\r\n\r\n") == [("", b"b")]


def test_comments_are_counted() -> None:
    decoder = SSEDecoder()
    decoder.feed(b": a\n\n: b\n\n")
    assert decoder.comments == 2


def test_an_event_of_several_hundred_kilobytes_in_small_pieces() -> None:
    data = b"x" * 600_000
    body = b"data: " + data + b"\n\ndata: b\n\n"
    assert events_of([body[at : at + 100] for at in range(0, len(body), 100)]) == [("", data), ("", b"b")]
