"""Characters beyond the basic plane that a server cut in two: JSON can carry half of a pair in each of two chunks."""

import re

_SURROGATE = re.compile("[\ud800-\udfff]")
REPLACEMENT = "\N{REPLACEMENT CHARACTER}"


class HalvesJoiner:
    """Joins the halves of a text that comes in pieces. A half whose other half does not follow becomes U+FFFD."""

    __slots__ = ("_half",)

    def __init__(self) -> None:
        self._half = ""

    @property
    def holding(self) -> bool:
        """A half waits for the next piece."""
        return bool(self._half)

    def feed(self, piece: str) -> str:
        """The text that is certain now; at most one half of a character is held."""
        if not self._half and (piece.isascii() or not _SURROGATE.search(piece)):
            return piece
        text, self._half = self._half + piece, ""
        if "\ud800" <= text[-1:] <= "\udbff":
            text, self._half = text[:-1], text[-1]
        return text.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "replace")

    def drain(self) -> str:
        """What stands for a half that waited in vain."""
        half, self._half = self._half, ""
        return REPLACEMENT if half else ""
