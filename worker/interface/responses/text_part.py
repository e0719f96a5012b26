"""One text of a response while it streams: its pieces, and the complete value that the server sends at the end.

Knows nothing of items or events.
"""

from typing import Literal

from tailrace.worker.interface.lenient import as_objects, as_text, replace_lone_surrogates
from tailrace.worker.interface.responses.event import JsonObject
from tailrace.worker.interface.surrogates import SurrogateJoiner

TextChannel = Literal["content", "refusal", "summary", "thought"]
"""The kind of a text: the answer, a refusal, a summary of the reasoning, or the reasoning itself."""

REASONING: tuple[TextChannel, ...] = ("summary", "thought")
REASONING_JOINT = "\n\n"
"""Separates two parts of reasoning: they are paragraphs, often with a heading each."""

_PART_TYPES: dict[str, TextChannel] = {
    "output_text": "content",
    "refusal": "refusal",
    "summary_text": "summary",
    "reasoning_text": "thought",
}


def text_of_part(part: JsonObject, default: TextChannel) -> tuple[TextChannel, str]:
    """Channel and text of a content part or summary part; `default` is used if its type is not known."""
    channel = _PART_TYPES.get(as_text(part.get("type")) or "", default)
    if channel == "content" and default in REASONING:
        channel = default  # some servers call the parts of a reasoning item `output_text`
    text = as_text(part.get("text"))
    if channel == "refusal":
        text = as_text(part.get("refusal")) or text
    return channel, text or ""


def texts_of_item(item: JsonObject) -> dict[TextChannel, list[str]]:
    """The texts of a finished message or reasoning item by channel, in order, without empty ones."""
    own: TextChannel = "thought" if item.get("type") == "reasoning" else "content"
    texts: dict[TextChannel, list[str]] = {}
    places: tuple[tuple[str, TextChannel], ...] = (("summary", "summary"), ("content", own))
    for key, default in places:
        parts = item.get(key)
        if isinstance(parts, str):
            parts = [{"text": parts}]
        for part in as_objects(parts) or ():
            channel, text = text_of_part(part, default)
            if text:
                texts.setdefault(channel, []).append(text)
    return texts


class TextPart:
    """One text: its pieces so far, and its final value, if it has arrived.

    Attributes:
        settled: whether the final value has arrived.
    """

    __slots__ = ("_halves", "_opening", "_pieces", "_whole", "settled")

    def __init__(self) -> None:
        self._opening = ""
        self.settled = False
        self._pieces: list[str] = []
        self._whole: str | None = None
        self._halves = SurrogateJoiner()

    @property
    def value(self) -> str:
        """The text so far: the final value if it differs from the pieces, else the pieces."""
        if self._whole is not None:
            return self._whole
        if len(self._pieces) > 1:
            self._pieces = ["".join(self._pieces)]
        return self._pieces[0] if self._pieces else ""

    def set_opening(self, text: str) -> None:
        """Takes the text of the event that announced the part."""
        if not (self._pieces or self.settled):
            self._opening = text

    def add_piece(self, piece: str) -> str:
        """Adds a piece; returns what can be shown of it.

        Pieces that start like the opening text repeat it, others continue it. Half of a surrogate pair is held back.
        """
        piece = self._halves.feed(piece)
        if self._opening and piece:
            if not (piece.startswith(self._opening) or self._opening.startswith(piece)):
                piece = self._opening + piece
            self._opening = ""
        if self._whole is not None:
            self._whole += piece
        self._pieces.append(piece)
        return piece

    def set_final_value(self, value: str) -> tuple[str, bool]:
        """Takes the final value; returns what is still to be shown of it, and whether it agrees with what was shown.

        An empty value is ignored: many servers omit at the end what they sent before. Of two final values that
        differ, the first counts.
        """
        if not value:
            return "", True
        shown = self.value
        self._opening, self._halves = "", SurrogateJoiner()
        first, self.settled = not self.settled, True
        if value.startswith(shown):
            rest = value[len(shown) :]
            self._pieces.append(rest)
            if self._whole is not None:
                self._whole += rest
            return rest, True
        if first:
            self._whole = value
        return "", False

    def replace_value(self, value: str) -> None:
        """Replaces the text with another one."""
        self._whole, self.settled = value, True

    def drain(self) -> str:
        """Ends the part; returns what is still to be shown: an opening without pieces, or half a character."""
        rest = replace_lone_surrogates(self._opening) + self._halves.drain()
        self._opening = ""
        if rest:
            self._pieces.append(rest)
            if self._whole is not None:
                self._whole += rest
        return rest
