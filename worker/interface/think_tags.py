"""Splits text at `<think>` and `</think>`, for requests that ask for it."""

from collections.abc import Iterator

_OPEN = "<think>"
_CLOSE = "</think>"


class ThinkTagSplitter:
    """Splits text that arrives in pieces. It holds back only a possible start of a tag, and removes the tags."""

    __slots__ = ("_held", "_thinking")

    def __init__(self) -> None:
        self._held = ""
        self._thinking = False

    def feed(self, piece: str) -> Iterator[tuple[bool, str]]:
        """Yields pieces of the text, each with whether it is thinking."""
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
        """Yields what was held back, which is not a tag after all."""
        held, self._held = self._held, ""
        if held:
            yield self._thinking, held


def _overlap(text: str, tag: str) -> int:
    """How many characters at the end of the text may be the start of the tag."""
    for length in range(min(len(tag) - 1, len(text)), 0, -1):
        if text.endswith(tag[:length]):
            return length
    return 0
