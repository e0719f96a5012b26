"""The plain texts of an answer on their way to the emitter: halves of characters joined, thinking split off if asked.

Only what came by the lenient path can hold half a character, so the strict path costs nothing.
"""

from typing import Literal

from tailrace.worker.interface.chat.think_tags import ThinkTagSplitter
from tailrace.worker.interface.emit import Emitter
from tailrace.worker.interface.surrogates import HalvesJoiner


class ChatTexts:
    """Content, reasoning and refusal, in pieces.

    Args:
        emitter: gets what is to be shown.
        think_tags: `reasoning` makes what stands between `<think>` and `</think>` reasoning.
    """

    __slots__ = ("_emitter", "_joiners", "_splitter")

    def __init__(self, emitter: Emitter, think_tags: Literal["keep", "reasoning"]) -> None:
        self._emitter = emitter
        self._splitter = ThinkTagSplitter() if think_tags == "reasoning" else None
        self._joiners: dict[str, HalvesJoiner] = {}

    def content(self, text: str, loose: bool) -> None:
        """A piece of the text for the user.

        Args:
            text: the piece.
            loose: it may begin or end with half a character.
        """
        text = self.joined("content", text, loose)
        if self._splitter is None:
            self._emitter.content(text)
            return
        for thinking, piece in self._splitter.feed(text):
            self._show(thinking, piece)

    def reasoning(self, text: str, loose: bool) -> None:
        """A piece of native reasoning; arguments as for `content`."""
        self._emitter.reasoning(self.joined("reasoning", text, loose), "reasoner_model")

    def refusal(self, text: str, loose: bool) -> None:
        """A piece of a refusal; arguments as for `content`."""
        self._emitter.refusal(self.joined("refusal", text, loose))

    @property
    def joining(self) -> bool:
        """Text that was not plain ASCII has come by the lenient path."""
        return bool(self._joiners)

    def joined(self, kind: str, text: str, loose: bool) -> str:
        """The text of this kind with characters that were cut in two made whole; half of one is held."""
        joiner = self._joiners.get(kind)
        if joiner is None:
            if not loose or text.isascii():
                return text
            joiner = self._joiners[kind] = HalvesJoiner()
        return joiner.feed(text)

    def drain(self) -> dict[str, str]:
        """Shows what was held. What was held of kinds that `joined` alone knows is given back, by kind."""
        left = {kind: half for kind, joiner in self._joiners.items() if (half := joiner.drain())}
        self.reasoning(left.pop("reasoning", ""), False)
        self.content(left.pop("content", ""), False)
        self.refusal(left.pop("refusal", ""), False)
        if self._splitter is not None:
            for thinking, text in self._splitter.drain():
                self._show(thinking, text)
        return left

    def _show(self, thinking: bool, text: str) -> None:
        if thinking:
            self._emitter.reasoning(text, "reasoner_model")
        else:
            self._emitter.content(text)
