"""What must go back to the server with a tool call beside text and arguments: reasoning in the form it came in.

Sources: DeepSeek's guide to its thinking mode (`reasoning_content`), OpenRouter's guide to reasoning tokens
(`reasoning_details`), LiteLLM's to `thinking_blocks`. `reasoning` alone is not sent back: several servers that send it
refuse it in a request.
"""

from typing import Any

from tailrace.worker.interface.lenient import is_shallow, wholesome

JsonObject = dict[str, Any]

_TEXTS = frozenset({"text", "summary", "thinking"})


class BlockJoiner:
    """Joins blocks of reasoning that come in fragments.

    A fragment continues the last block if both have the same type and index, the block has no signature yet, and the
    fragment is no encrypted block, which always comes whole.
    """

    __slots__ = ("_blocks", "_last", "_texts")

    def __init__(self) -> None:
        self._blocks: list[JsonObject] = []
        self._last: JsonObject = {}
        self._texts: dict[str, list[str]] = {}

    def add_fragments(self, fragments: list[JsonObject]) -> None:
        """The fragments of one chunk."""
        for fragment in fragments:
            last = self._last
            if (
                not last
                or fragment.get("index") != last.get("index")
                or fragment.get("type") != last.get("type")
                or "data" in fragment
                or last.get("signature")
            ):
                self._close_block()
                last = self._last
            for name, value in fragment.items():
                if name in _TEXTS and isinstance(value, str):
                    self._texts.setdefault(name, []).append(value)
                elif value is not None or name not in last:
                    last[name] = value

    def joined_blocks(self) -> list[JsonObject]:
        """All blocks, whole; those nested too deeply to be encoded are left out."""
        self._close_block()
        return [wholesome(block) for block in self._blocks if is_shallow(block)]

    def _close_block(self) -> None:
        for name, texts in self._texts.items():
            self._last[name] = "".join(texts)
        if self._last:
            self._blocks.append(self._last)
        self._last, self._texts = {}, {}


class MessageExtra:
    """Gathers the members of the assistant message that its text and its calls do not show.

    Attributes:
        has_reasoning_content: the server sent the field `reasoning_content`, be it empty.
    """

    __slots__ = ("_details", "_thinking", "has_reasoning_content")

    def __init__(self) -> None:
        self.has_reasoning_content = False
        self._details: BlockJoiner | None = None
        self._thinking: BlockJoiner | None = None

    def add_blocks(self, details: list[JsonObject] | None, thinking: list[JsonObject] | None) -> None:
        """The fragments of `reasoning_details` and of `thinking_blocks` in one chunk."""
        if details:
            self._details = self._details or BlockJoiner()
            self._details.add_fragments(details)
        if thinking:
            self._thinking = self._thinking or BlockJoiner()
            self._thinking.add_fragments(thinking)

    def members(self, reasoning: str | None) -> JsonObject:
        """The members.

        Args:
            reasoning: the model's own reasoning, without the inner thoughts of calls.
        """
        members: JsonObject = {}
        if self.has_reasoning_content:
            members["reasoning_content"] = reasoning or ""
        if self._details is not None:
            members["reasoning_details"] = self._details.joined_blocks()
        if self._thinking is not None:
            members["thinking_blocks"] = self._thinking.joined_blocks()
        return members
