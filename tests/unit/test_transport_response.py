"""Parsing responses from bytes that are cut anywhere, and bytes that are not a response."""

from itertools import pairwise

import httpx2
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tailrace.worker.upstream.transport.response import MAX_HEADER_BYTES, ResponseParser

BODY = b"data: one\n\ndata: two\n\n"
CHUNKED = b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n"
WHOLE = {
    "chunked": CHUNKED + b"b\r\ndata: one\n\n\r\nb\r\ndata: two\n\n\r\n0\r\n\r\n",
    "chunked, with extension and trailer": CHUNKED + b"16;a=b\r\n" + BODY + b"\r\n0\r\nx-trailer: 1\r\n\r\n",
    "chunked, spaces after the size": CHUNKED + b"16  \r\n" + BODY + b"\r\n0\r\n\r\n",
    "content-length": b"HTTP/1.1 200 OK\r\ncontent-length: 22\r\n\r\n" + BODY,
    "both, of which chunked counts": CHUNKED[:-2] + b"content-length: 3\r\n\r\n16\r\n" + BODY + b"\r\n0\r\n\r\n",
    "after others": b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 Early Hints\r\nlink: a\r\n\r\n"
    b"HTTP/1.1 200 OK\r\ncontent-length: 22\r\n\r\n" + BODY,
    "bare line feeds": b"HTTP/1.1 200 OK\ncontent-length: 22\n\n" + BODY,
    "Apache's offer of another protocol": b"HTTP/1.1 200 OK\r\nupgrade: h2\r\nconnection: Upgrade, Keep-Alive\r\n"
    b"content-length: 22\r\n\r\n" + BODY,
}
TO_THE_CLOSE = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\n\r\n" + BODY


def read(*pieces: bytes, method: str = "POST", eof: bool = False) -> ResponseParser:
    """A parser that was fed these bytes."""
    reader = ResponseParser(method)
    for piece in pieces:
        reader.feed(piece)
    if eof:
        reader.feed_eof()
    return reader


def body(reader: ResponseParser) -> bytes:
    return b"".join(reader.pieces)


@pytest.mark.parametrize("case", WHOLE)
@pytest.mark.parametrize("length", [1, 1000])
def test_a_response_at_once_and_byte_by_byte(case: str, length: int) -> None:
    raw = WHOLE[case]
    reader = read(*(raw[start : start + length] for start in range(0, len(raw), length)))
    assert (body(reader), reader.ended, reader.reusable) == (BODY, True, True)
    assert reader.head is not None
    assert (reader.head.status, reader.head.reason) == (200, b"OK")
    assert not {b"link", b"x-trailer"} & {name for name, _ in reader.head.headers}


@given(st.sampled_from(sorted(WHOLE)), st.lists(st.integers(0, 200)))
def test_a_response_cut_anywhere(case: str, cuts: list[int]) -> None:
    raw = WHOLE[case]
    bounds = [0, *sorted(min(cut, len(raw)) for cut in cuts), len(raw)]
    reader = read(*(raw[start:end] for start, end in pairwise(bounds)))
    assert (body(reader), reader.ended, reader.reusable) == (BODY, True, True)


@given(st.sampled_from(sorted(WHOLE)), st.integers(0, 300))
def test_a_truncated_response_is_an_error(case: str, cut: int) -> None:
    raw = WHOLE[case]
    reader = read(raw[: min(cut, len(raw) - 1)])
    assert not reader.ended
    with pytest.raises(httpx2.RemoteProtocolError):
        reader.feed_eof()


def test_a_body_without_length_ends_with_the_connection() -> None:
    reader = read(TO_THE_CLOSE)
    assert not reader.ended
    reader.feed_eof()
    assert (body(reader), reader.ended, reader.reusable) == (BODY, True, False)


@pytest.mark.parametrize(
    ("raw", "method"),
    [
        (b"HTTP/1.1 204 No Content\r\n\r\n", "POST"),
        (b"HTTP/1.1 304 Not Modified\r\ncontent-length: 5\r\n\r\n", "GET"),
        (b"HTTP/1.1 200 OK\r\ncontent-length: 5\r\n\r\n", "HEAD"),
        (b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n", "HEAD"),
        (b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n", "POST"),
    ],
)
def test_a_response_without_a_body(raw: bytes, method: str) -> None:
    reader = read(raw, method=method)
    assert (body(reader), reader.ended) == (b"", True)


@pytest.mark.parametrize(
    "raw",
    [
        WHOLE["content-length"].replace(b"OK\r\n", b"OK\r\nconnection: close\r\n"),
        WHOLE["content-length"].replace(b"HTTP/1.1", b"HTTP/1.0"),
        WHOLE["content-length"] + b"more",
        WHOLE["content-length"] + WHOLE["content-length"],
        WHOLE["chunked"] + b"\x00",
    ],
)
def test_a_connection_that_cannot_be_used_again(raw: bytes) -> None:
    # given a server that announces a close or sends unexpected bytes, expect the whole response all the same
    reader = read(raw)
    assert (body(reader), reader.ended, reader.reusable) == (BODY, True, False)


@pytest.mark.parametrize(
    ("raw", "before"),
    [
        (b"nonsense\r\n\r\n", b""),
        (b"\x16\x03\x01", b""),
        (b"HTTP/1.1 200 OK\r\ncontent-length: many\r\n\r\n", b""),
        (b"HTTP/1.1 200 OK\r\ncontent-length: 1\r\ncontent-length: 2\r\n\r\n", b""),
        (b"HTTP/1.1 101 Switching Protocols\r\nconnection: upgrade\r\nupgrade: x\r\n\r\n", b""),
        (CHUNKED + b"b\r\ndata: one\n\n\r\nZZ\r\n", b"data: one\n\n"),
    ],
)
def test_bytes_that_are_not_a_response(raw: bytes, before: bytes) -> None:
    reader = ResponseParser("POST")
    with pytest.raises(httpx2.RemoteProtocolError):
        reader.feed(raw)
    assert body(reader) == before
    assert not reader.reusable


@pytest.mark.parametrize(
    ("first", "again"),
    [
        (b"HTTP/1.1 200 OK\r\nx: ", b"a" * 1024),
        (b"HTTP/1.1 200 OK\r\n", b"x: a\r\n" * 100),
        (b"\r\n", b"HTTP/1.1 102 Processing\r\n\r\n" * 40),
        (CHUNKED + b"0\r\nx: ", b"a" * 1024),
        (CHUNKED + b"1;", b"a" * 1024),
    ],
)
def test_headers_without_end_are_refused(first: bytes, again: bytes) -> None:
    # given an endless head, trailer or chunk parameter, expect an error
    pieces = [first, *[again] * (MAX_HEADER_BYTES // len(again) + 1)]
    with pytest.raises(httpx2.RemoteProtocolError):
        read(*pieces)


def test_the_limit_of_headers_does_not_apply_to_a_body() -> None:
    reader = read(b"HTTP/1.1 200 OK\r\n\r\n")
    for _ in range(10):
        reader.feed(b"a" * MAX_HEADER_BYTES)
    assert len(body(reader)) == 10 * MAX_HEADER_BYTES
