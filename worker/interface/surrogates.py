"""Joins surrogate pairs that a server cut in two: each half may be in a separate chunk."""

import re

_SURROGATE = re.compile("[\ud800-\udfff]")
REPLACEMENT = "\N{REPLACEMENT CHARACTER}"


class SurrogateJoiner:
    """Joins the surrogates of a text that arrives in pieces. A lone surrogate becomes U+FFFD."""

    __slots__ = ("_half",)

    def __init__(self) -> None:
        self._half = ""

    @property
    def holding(self) -> bool:
        """Whether half a pair waits for the next piece."""
        return bool(self._half)

    def feed(self, piece: str) -> str:
        """Returns the text that is certain now; at most half a pair is held back."""
        if not self._half and (piece.isascii() or not _SURROGATE.search(piece)):
            return piece
        text, self._half = self._half + piece, ""
        if "\ud800" <= text[-1:] <= "\udbff":
            text, self._half = text[:-1], text[-1]
        return text.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "replace")

    def drain(self) -> str:
        """Returns U+FFFD for a half that is still held back, else nothing."""
        half, self._half = self._half, ""
        return REPLACEMENT if half else ""
