"""Passes the texts of an answer to the emitter: joins halves of characters, and splits off thinking if requested.

Only text from the lenient path can have half a character, so the strict path costs nothing.
"""

from typing import Literal

from tailrace.worker.interface.delta_emitter import DeltaEmitter
from tailrace.worker.interface.surrogates import SurrogateJoiner
from tailrace.worker.interface.think_tags import ThinkTagSplitter


class ChatTexts:
    """Takes content, reasoning and refusal in pieces.

    Args:
        emitter: gets the text to show.
        think_tags: `reasoning` turns text between `<think>` and `</think>` into reasoning.
    """

    __slots__ = ("_emitter", "_joiners", "_splitter")

    def __init__(self, emitter: DeltaEmitter, think_tags: Literal["keep", "reasoning"]) -> None:
        self._emitter = emitter
        self._splitter = ThinkTagSplitter() if think_tags == "reasoning" else None
        self._joiners: dict[str, SurrogateJoiner] = {}

    def add_content(self, text: str, loose: bool) -> None:
        """Adds a piece of the text for the user.

        Args:
            text: the piece.
            loose: it may start or end with half a character.
        """
        text = self.join_halves("content", text, loose)
        if self._splitter is None:
            self._emitter.add_content(text)
            return
        for thinking, piece in self._splitter.feed(text):
            self._show(thinking, piece)

    def add_reasoning(self, text: str, loose: bool) -> None:
        """Adds a piece of native reasoning; arguments as for `add_content`."""
        self._emitter.add_reasoning(self.join_halves("reasoning", text, loose), "reasoner_model")

    def add_refusal(self, text: str, loose: bool) -> None:
        """Adds a piece of a refusal; arguments as for `add_content`."""
        self._emitter.add_refusal(self.join_halves("refusal", text, loose))

    @property
    def joining(self) -> bool:
        """Whether non-ASCII text has arrived by the lenient path."""
        return bool(self._joiners)

    def join_halves(self, kind: str, text: str, loose: bool) -> str:
        """Returns the text with the halves of characters joined; half a character at its end is held back.

        Args:
            kind: texts of one kind follow each other; a call's arguments are a kind, named by the call's index.
            text: the piece.
            loose: as for `add_content`.
        """
        joiner = self._joiners.get(kind)
        if joiner is None:
            if not loose or text.isascii():
                return text
            joiner = self._joiners[kind] = SurrogateJoiner()
        return joiner.feed(text)

    def drain(self) -> dict[str, str]:
        """Shows the text that was held back; returns, by kind, that of the kinds which only `join_halves` knows."""
        left = {kind: half for kind, joiner in self._joiners.items() if (half := joiner.drain())}
        self.add_reasoning(left.pop("reasoning", ""), False)
        self.add_content(left.pop("content", ""), False)
        self.add_refusal(left.pop("refusal", ""), False)
        if self._splitter is not None:
            for thinking, text in self._splitter.drain():
                self._show(thinking, text)
        return left

    def _show(self, thinking: bool, text: str) -> None:
        if thinking:
            self._emitter.add_reasoning(text, "reasoner_model")
        else:
            self._emitter.add_content(text)
