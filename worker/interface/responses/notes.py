"""What the outcome tells of a server's contradictions and novelties: bounded, whatever the server sends."""

from collections import Counter

MAX_NOTES = 40
MAX_UNKNOWN_TYPES = 8


class Notes:
    """Sentences, each once, and a count of the events that were skipped."""

    def __init__(self) -> None:
        self._sentences: dict[str, None] = {}
        self._unknown: Counter[str] = Counter()

    def add(self, sentence: str) -> None:
        """One more sentence, while there is room."""
        if len(self._sentences) < MAX_NOTES:
            self._sentences[sentence] = None

    def skipped(self, event_type: str) -> None:
        """An event of a type not known here was skipped."""
        self._unknown[event_type[:80]] += 1

    def all(self) -> tuple[str, ...]:
        """The sentences, then the counts."""
        shown = self._unknown.most_common(MAX_UNKNOWN_TYPES)
        counts = [f"skipped events of unknown type {name!r}: {count}" for name, count in shown]
        rest = self._unknown.total() - sum(count for _, count in shown)
        if rest:
            counts.append(f"skipped events of other unknown types: {rest}")
        return (*self._sentences, *counts)
