"""Splits text into what stands between `<think>` and `</think>` and what does not; only where a request asks for it."""

from collections.abc import Iterator

_OPEN = "<think>"
_CLOSE = "</think>"


class ThinkTagSplitter:
    """Takes text in pieces. Held is only what may be the beginning of the next tag; the tags themselves go."""

    __slots__ = ("_held", "_thinking")

    def __init__(self) -> None:
        self._held = ""
        self._thinking = False

    def feed(self, piece: str) -> Iterator[tuple[bool, str]]:
        """Pieces of the text, each with whether it is thinking."""
        text, self._held = self._held + piece, ""
        while text:
            tag = _CLOSE if self._thinking else _OPEN
            before, found, after = text.partition(tag)
            if not found:
                cut = len(before) - _overlap(before, tag)
                before, self._held = before[:cut], before[cut:]
            if before:
                yield self._thinking, before
            if found:
                self._thinking = not self._thinking
            text = after

    def drain(self) -> Iterator[tuple[bool, str]]:
        """What was held: it is no tag after all."""
        held, self._held = self._held, ""
        if held:
            yield self._thinking, held


def _overlap(text: str, tag: str) -> int:
    """How many characters at the end of the text may begin the tag."""
    for length in range(min(len(tag) - 1, len(text)), 0, -1):
        if text.endswith(tag[:length]):
            return length
    return 0
