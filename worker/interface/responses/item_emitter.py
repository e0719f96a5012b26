"""Passes the texts of items to the emitter: separates parts of reasoning, and splits off thinking if requested.

Knows nothing of items or events.
"""

from tailrace.schemas.interface_options import InterfaceOptions
from tailrace.worker.interface.delta_emitter import DeltaEmitter
from tailrace.worker.interface.responses.text_part import REASONING_JOINT, TextChannel, TextPart
from tailrace.worker.interface.stream_notes import StreamNotes
from tailrace.worker.interface.think_tags import ThinkTagSplitter


class ItemEmitter:
    """Emits the texts of items.

    A second one, with a delta emitter of its own, makes the outcome: there each item emits its final text, one item
    after the other.

    Args:
        options: those of the request.
        notes: gets a note if the server contradicts itself.
    """

    def __init__(self, options: InterfaceOptions, notes: StreamNotes) -> None:
        self.options = options
        self.deltas = DeltaEmitter()
        self.notes = notes
        self._reasoning_part: TextPart | None = None
        self._split_part: TextPart | None = None
        self._splitter = ThinkTagSplitter()

    def emit_text(self, channel: TextChannel, part: TextPart, text: str) -> None:
        """Emits a piece of `part`."""
        if not text:
            return
        if channel == "content":
            self._emit_content(part, text)
        elif channel == "refusal":
            self.deltas.add_refusal(text)
        else:
            if self._reasoning_part is not None and self._reasoning_part is not part:
                text = REASONING_JOINT + text
            self._reasoning_part = part
            self.deltas.add_reasoning(text, "reasoner_model")

    def drain(self) -> None:
        """Emits what was held back as the possible start of a tag."""
        for thinking, text in self._splitter.drain():
            self._emit_split(thinking, text)

    def _emit_content(self, part: TextPart, text: str) -> None:
        if self.options.think_tags == "keep":
            self.deltas.add_content(text)
            return
        if part is not self._split_part:
            self.drain()
            self._split_part, self._splitter = part, ThinkTagSplitter()
        for thinking, piece in self._splitter.feed(text):
            self._emit_split(thinking, piece)

    def _emit_split(self, thinking: bool, text: str) -> None:
        if thinking:
            self.deltas.add_reasoning(text, "reasoner_model")
        else:
            self.deltas.add_content(text)
