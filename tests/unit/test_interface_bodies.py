"""Bodies that are not an event stream, and where the decoder stops."""

import pytest

from tailrace.schemas.interface_options import InterfaceOptions
from tailrace.worker.interface.json_lines import JSONLinesDecoder
from tailrace.worker.interface.stream_decoder import MAX_EVENT_BYTES, StreamDecoder
from tests.chat_reading import chunk, read, sse


@pytest.mark.parametrize("lead", [b"", b"\n", b" \r\n\n"])
@pytest.mark.parametrize(
    ("body", "events"),
    [
        (b'{"a":1}\n{"b":2}\n', [b'{"a":1}', b'{"b":2}']),
        (b'{"a":1}\r\n\r\n{"b":2}', [b'{"a":1}\r', b'{"b":2}']),
        (b'{\n "a": 1\n}\n', [b'{\n "a": 1\n}\n']),
        (b'{"a":\n1}', [b'{"a":\n1}']),
    ],
)
def test_lines_or_one_document(lead: bytes, body: bytes, events: list[bytes]) -> None:
    for size in (1, 2, 100):
        decoder, whole = JSONLinesDecoder(), lead + body
        pieces = [whole[start : start + size] for start in range(0, len(whole), size)]
        found = [event for piece in pieces for event in decoder.feed(piece)] + decoder.close()
        assert [data.strip() for _, data in found] == [event.strip() for event in events]


def test_nothing_is_read_after_done() -> None:
    # given: events after [DONE]; expect: the decoder is done and ignores them
    decoder = StreamDecoder("chat", InterfaceOptions())
    deltas = decoder.feed(sse([chunk(content="a", finish_reason="stop")]) + sse([chunk(content="b")]))
    assert decoder.done
    assert deltas != []
    assert decoder.feed(sse([chunk(content="c")])) == []
    assert decoder.close() == []
    assert decoder.finish().content == "a"


def test_nothing_is_read_after_a_failure_and_held_back_deltas_are_shown() -> None:
    decoder = StreamDecoder("chat", InterfaceOptions())
    held = chunk(tool_calls=[{"index": 0, "function": {"name": "find", "arguments": "{"}}])
    assert decoder.feed(sse([held, {"error": {"message": "no", "code": 500}}, chunk(content="b")], done=False)) == []
    assert decoder.failure is not None
    assert decoder.failure.code == "upstream_500"
    assert decoder.feed(sse([chunk(content="c")])) == []
    assert len(decoder.close()) == 2
    assert decoder.finish().error is not None


def test_an_event_without_end_is_a_failure() -> None:
    decoder = StreamDecoder("chat", InterfaceOptions())
    decoder.feed(b"data: ")
    for _ in range(MAX_EVENT_BYTES // (1 << 22) + 1):
        decoder.feed(b"x" * (1 << 22))
    assert decoder.failure is not None
    assert decoder.failure.code == "upstream_malformed"


def test_the_error_for_a_page_shows_its_text() -> None:
    page = b"<html><script>var a;</script><body>\n<h1>502</h1> Bad   gateway " + b"<p></p>" * 2000
    for pieces in ([page], [page[at : at + 9] for at in range(0, len(page), 9)]):
        _, outcome = read(pieces)
        assert outcome.error is not None
        assert outcome.error.message == "the body is a page, not an event stream: '502 Bad gateway'"


def test_an_empty_body() -> None:
    _, outcome = read(b"")
    assert outcome.error is not None
    assert (outcome.error.code, outcome.error.message) == ("upstream_truncated", "the body is empty")


def test_a_cancelled_answer_keeps_its_text_so_far() -> None:
    decoder = StreamDecoder("chat", InterfaceOptions())
    decoder.feed(sse([chunk(content="a")], done=False))
    decoder.close()
    outcome = decoder.finish(cancelled=True)
    assert (outcome.status, outcome.content, outcome.error) == ("cancelled", "a", None)
