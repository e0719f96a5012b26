"""Collects the reasoning that must go back to the server with a tool call, in the form in which it arrived.

Sources: DeepSeek's guide to its thinking mode (`reasoning_content`), OpenRouter's guide to reasoning tokens
(`reasoning_details`), LiteLLM's guide to `thinking_blocks`. The field `reasoning` is not sent back: several servers
that send it refuse it in a request.
"""

from typing import Any

from tailrace.worker.interface.lenient import is_shallow, replace_lone_surrogates_in

JsonObject = dict[str, Any]

_TEXTS = frozenset({"text", "summary", "thinking"})


class BlockJoiner:
    """Joins blocks of reasoning that arrive in fragments.

    A fragment continues the last block if both have the same type and index, the block has no signature yet, and the
    fragment is not an encrypted block, which always arrives whole.
    """

    __slots__ = ("_blocks", "_last", "_texts")

    def __init__(self) -> None:
        self._blocks: list[JsonObject] = []
        self._last: JsonObject = {}
        self._texts: dict[str, list[str]] = {}

    def add_fragments(self, fragments: list[JsonObject]) -> None:
        """Adds the fragments of one chunk."""
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
        """All blocks; those nested too deeply to be encoded are left out."""
        self._close_block()
        return [replace_lone_surrogates_in(block) for block in self._blocks if is_shallow(block)]

    def _close_block(self) -> None:
        for name, texts in self._texts.items():
            self._last[name] = "".join(texts)
        if self._last:
            self._blocks.append(self._last)
        self._last, self._texts = {}, {}


class MessageExtra:
    """Collects the members of the assistant message besides its content and its calls.

    Attributes:
        has_reasoning_content: whether the server sent the field `reasoning_content`, even if empty.
    """

    __slots__ = ("_details", "_thinking", "has_reasoning_content")

    def __init__(self) -> None:
        self.has_reasoning_content = False
        self._details: BlockJoiner | None = None
        self._thinking: BlockJoiner | None = None

    def add_blocks(self, details: list[JsonObject] | None, thinking: list[JsonObject] | None) -> None:
        """Adds the fragments of `reasoning_details` and of `thinking_blocks` of one chunk."""
        if details:
            self._details = self._details or BlockJoiner()
            self._details.add_fragments(details)
        if thinking:
            self._thinking = self._thinking or BlockJoiner()
            self._thinking.add_fragments(thinking)

    def members(self, reasoning: str | None) -> JsonObject:
        """Returns the members.

        Args:
            reasoning: the native reasoning, without inner thoughts of calls.
        """
        members: JsonObject = {}
        if self.has_reasoning_content:
            members["reasoning_content"] = reasoning or ""
        if self._details is not None:
            members["reasoning_details"] = self._details.joined_blocks()
        if self._thinking is not None:
            members["thinking_blocks"] = self._thinking.joined_blocks()
        return members
