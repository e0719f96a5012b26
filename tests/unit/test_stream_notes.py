"""The notes of a stream are bounded, whatever a server sends, and both interfaces use them."""

import json

from tailrace.schemas.interface_options import InterfaceOptions
from tailrace.worker.interface.stream_decoder import StreamDecoder
from tailrace.worker.interface.stream_notes import MAX_NOTE_CHARACTERS, MAX_NOTES, MAX_UNKNOWN_TYPES, StreamNotes
from tests.chat_reading import chunk, sse


def test_a_note_is_kept_once() -> None:
    notes = StreamNotes()
    notes.add_note("a")
    notes.add_note("a")
    assert notes.as_tuple() == ("a",)


def test_notes_are_bounded_in_number_and_length() -> None:
    notes = StreamNotes()
    for number in range(MAX_NOTES + 10):
        notes.add_note(f"{number:03}" + "x" * 2 * MAX_NOTE_CHARACTERS)
    assert [len(note) for note in notes.as_tuple()] == [MAX_NOTE_CHARACTERS] * MAX_NOTES


def test_unknown_events_are_counted_by_type_up_to_a_bound() -> None:
    notes = StreamNotes()
    for number in range(3000):
        notes.count_unknown_event(f"type {number}")
    notes.count_unknown_event("type 0")
    shown = notes.as_tuple()
    assert len(shown) == MAX_UNKNOWN_TYPES + 1
    assert shown[0] == "skipped events of unknown type 'type 0': 2"
    assert shown[-1] == f"skipped events of other unknown types: {3001 - 2 - (MAX_UNKNOWN_TYPES - 1)}"


def test_types_beyond_the_bound_are_counted_together() -> None:
    notes = StreamNotes()
    for number in range(3000):
        notes.count_unknown_event(f"type {number}")
    for _ in range(5):
        notes.count_unknown_event("type 2999")
    assert not any("type 2999" in note for note in notes.as_tuple())
    assert notes.as_tuple()[-1] == f"skipped events of other unknown types: {3005 - MAX_UNKNOWN_TYPES}"


def test_the_name_of_an_unknown_type_is_bounded_in_length() -> None:
    notes = StreamNotes()
    notes.count_unknown_event("x" * 100_000)
    assert len(notes.as_tuple()[0]) < 200


def test_a_chat_stream_that_contradicts_itself_in_every_chunk_has_bounded_notes() -> None:
    decoder = StreamDecoder("chat", InterfaceOptions())
    decoder.feed(sse([chunk(finish_reason=f"reason {number}") for number in range(500)]))
    assert len(decoder.finish().notes) == MAX_NOTES


def test_a_note_of_the_decoder_stands_beside_those_of_the_interface() -> None:
    decoder = StreamDecoder("chat", InterfaceOptions())
    chunks = [chunk(content="a", finish_reason="length"), chunk(finish_reason="stop")]
    decoder.feed(sse(chunks, done=False) + b"data: {no\n\n" + b"data: " + json.dumps(chunk()).encode() + b"\n\n")
    first, second = decoder.finish().notes
    assert first.startswith("the finish reason was first 'length'")
    assert second == "an event after the end of the answer is not JSON and was skipped"
