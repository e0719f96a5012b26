"""One text of a response while it streams: its pieces, its whole value, and where it is said.

Knows nothing of items and events.
"""

from collections.abc import Callable
from typing import Literal

from tailrace.schemas.interface_options import InterfaceOptions
from tailrace.worker.interface.chat.think_tags import ThinkTagSplitter
from tailrace.worker.interface.emit import Emitter
from tailrace.worker.interface.lenient import as_objects, as_text, whole
from tailrace.worker.interface.responses.event import JsonObject
from tailrace.worker.interface.surrogates import HalvesJoiner

Channel = Literal["content", "refusal", "summary", "thought"]
"""What a text is: the answer, a refusal, a summary of the reasoning, or the reasoning itself."""

REASONING: tuple[Channel, ...] = ("summary", "thought")
REASONING_JOINT = "\n\n"
"""Between two parts of reasoning: they are paragraphs, often with a heading each."""

_PART_TYPES: dict[str, Channel] = {
    "output_text": "content",
    "refusal": "refusal",
    "summary_text": "summary",
    "reasoning_text": "thought",
}


def text_of_part(part: JsonObject, default: Channel) -> tuple[Channel, str]:
    """Channel and text of a content part or summary part; `default` where its type does not tell."""
    channel = _PART_TYPES.get(as_text(part.get("type")) or "", default)
    if channel == "content" and default in REASONING:
        channel = default  # some servers call the parts of a reasoning item `output_text`
    text = as_text(part.get("text"))
    if channel == "refusal":
        text = as_text(part.get("refusal")) or text
    return channel, text or ""


def texts_of_item(item: JsonObject) -> dict[Channel, list[str]]:
    """The texts of a finished message or reasoning item by channel, in order, empty ones left out."""
    own: Channel = "thought" if item.get("type") == "reasoning" else "content"
    texts: dict[Channel, list[str]] = {}
    places: tuple[tuple[str, Channel], ...] = (("summary", "summary"), ("content", own))
    for key, default in places:
        parts = item.get(key)
        if isinstance(parts, str):
            parts = [{"text": parts}]
        for part in as_objects(parts) or ():
            channel, text = text_of_part(part, default)
            if text:
                texts.setdefault(channel, []).append(text)
    return texts


class Part:
    """One text: the pieces that came, and the whole value that settles it."""

    __slots__ = ("_halves", "_opening", "_pieces", "_whole", "settled")

    def __init__(self) -> None:
        self._opening = ""
        self.settled = False
        self._pieces: list[str] = []
        self._whole: str | None = None
        self._halves = HalvesJoiner()

    @property
    def value(self) -> str:
        """The text as it stands: the whole value where there is one that differs, else the pieces."""
        if self._whole is not None:
            return self._whole
        if len(self._pieces) > 1:
            self._pieces = ["".join(self._pieces)]
        return self._pieces[0] if self._pieces else ""

    def open(self, text: str) -> None:
        """Takes the text that came with the event which announced the part."""
        if not (self._pieces or self.settled):
            self._opening = text

    def append(self, piece: str) -> str:
        """Takes a piece; gives what can be said of it.

        If the pieces begin like the opening text they repeat it, else they go on from it. Half of a surrogate pair
        waits for the other half.
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

    def settle(self, value: str) -> tuple[str, bool]:
        """Takes the whole value; gives what is still to be said of it, and whether it agrees with what was said.

        An empty value settles nothing: many servers leave out in the end what they have sent before. Of two whole
        values that differ, the first stands.
        """
        if not value:
            return "", True
        said = self.value
        self._opening, self._halves = "", HalvesJoiner()
        first, self.settled = not self.settled, True
        if value.startswith(said):
            rest = value[len(said) :]
            self._pieces.append(rest)
            if self._whole is not None:
                self._whole += rest
            return rest, True
        if first:
            self._whole = value
        return "", False

    def replace(self, value: str) -> None:
        """Puts another value in place of what was said."""
        self._whole, self.settled = value, True

    def drain(self) -> str:
        """At the end: what is to be said of a text of which only the opening came, or half a character."""
        rest = whole(self._opening) + self._halves.drain()
        self._opening = ""
        if rest:
            self._pieces.append(rest)
            if self._whole is not None:
                self._whole += rest
        return rest


class Stage:
    """Where items speak: the emitter, and the joint between parts of reasoning.

    A second stage, on an emitter of its own, makes the outcome: there each item says, one after the other, what it
    came to.

    Args:
        options: of the request.
        note: takes a sentence on where the server contradicted itself.
    """

    def __init__(self, options: InterfaceOptions, note: Callable[[str], None]) -> None:
        self.options = options
        self.emitter = Emitter()
        self.note = note
        self._reasoning_part: Part | None = None
        self._split_part: Part | None = None
        self._splitter = ThinkTagSplitter()

    def say(self, channel: Channel, part: Part, text: str) -> None:
        """Emits a piece of `part`."""
        if not text:
            return
        if channel == "content":
            self._say_content(part, text)
        elif channel == "refusal":
            self.emitter.refusal(text)
        else:
            if self._reasoning_part is not None and self._reasoning_part is not part:
                text = REASONING_JOINT + text
            self._reasoning_part = part
            self.emitter.reasoning(text, "reasoner_model")

    def drain(self) -> None:
        """Says what may have been the beginning of a tag."""
        for thinking, text in self._splitter.drain():
            self._say_split(thinking, text)

    def _say_content(self, part: Part, text: str) -> None:
        if self.options.think_tags == "keep":
            self.emitter.content(text)
            return
        if part is not self._split_part:
            self.drain()
            self._split_part, self._splitter = part, ThinkTagSplitter()
        for thinking, piece in self._splitter.feed(text):
            self._say_split(thinking, piece)

    def _say_split(self, thinking: bool, text: str) -> None:
        if thinking:
            self.emitter.reasoning(text, "reasoner_model")
        else:
            self.emitter.content(text)
