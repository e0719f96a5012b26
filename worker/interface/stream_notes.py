"""Collects the outcome's notes: contradictions of a server and unknown events. Their number and size are bounded."""

from collections import Counter

MAX_NOTES = 40
MAX_NOTE_CHARACTERS = 500
MAX_UNKNOWN_TYPES = 8
_MAX_COUNTED_TYPES = 1000
_MAX_TYPE_CHARACTERS = 80


class StreamNotes:
    """Sentences, each kept once, and counts of the events that were skipped."""

    def __init__(self) -> None:
        self._sentences: dict[str, None] = {}
        self._unknown_types: Counter[str] = Counter()
        self._uncounted_types = 0

    def add_note(self, sentence: str) -> None:
        """Adds a sentence if there is room."""
        if len(self._sentences) < MAX_NOTES:
            self._sentences[sentence[:MAX_NOTE_CHARACTERS]] = None

    def count_unknown_event(self, event_type: str) -> None:
        """Counts an event that was skipped because its type is not known."""
        event_type = event_type[:_MAX_TYPE_CHARACTERS]
        if event_type in self._unknown_types or len(self._unknown_types) < _MAX_COUNTED_TYPES:
            self._unknown_types[event_type] += 1
        else:
            self._uncounted_types += 1

    def as_tuple(self) -> tuple[str, ...]:
        """The sentences, then the counts."""
        shown = self._unknown_types.most_common(MAX_UNKNOWN_TYPES)
        counts = [f"skipped events of unknown type {name!r}: {count}" for name, count in shown]
        rest = self._unknown_types.total() - sum(count for _, count in shown) + self._uncounted_types
        if rest:
            counts.append(f"skipped events of other unknown types: {rest}")
        return (*self._sentences, *counts)
