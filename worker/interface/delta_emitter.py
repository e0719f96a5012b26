"""Makes deltas from pieces of text: numbers the messages, merges neighbours and joins the texts of the outcome.

Knows nothing of chunks or JSON. The pieces added between two calls of `take_deltas` become as few deltas as possible:
neighbours of the same kind and the same call are one delta.
"""

from collections import defaultdict
from enum import Enum, auto

import msgspec

from tailrace.schemas.deltas import AssistantDelta, Delta, ReasoningDelta, ReasoningSource, ToolCallDelta, ToolCallPart


class _Kind(Enum):
    REASONING = auto()
    CONTENT = auto()
    REFUSAL = auto()
    TOOL_NAME = auto()
    TOOL_ARGUMENTS = auto()


class _Piece(msgspec.Struct, frozen=True, gc=False):
    """Neighbouring texts of one kind. `call` and `source` are set if the kind has one."""

    kind: _Kind
    texts: list[str]
    call: int = 0
    source: ReasoningSource | None = None
    part: ToolCallPart | None = None


class DeltaEmitter:
    """Collects the pieces to show; `take_deltas` returns them as deltas."""

    __slots__ = (
        "_content",
        "_index",
        "_native_reasoning",
        "_own_content",
        "_pieces",
        "_reasoning",
        "_refusal",
        "_source",
        "_type",
        "reasoning_source",
    )

    def __init__(self) -> None:
        self._pieces: list[_Piece] = []
        self._index = -1
        self._type: type[Delta] | None = None
        self._source: ReasoningSource | None = None
        # By call. Text outside calls is kept with the last call that had text, so that sequential calls stay in order.
        self._reasoning: defaultdict[int, list[str]] = defaultdict(list)
        self._content: defaultdict[int, list[str]] = defaultdict(list)
        self._refusal: list[str] = []
        # The same without text taken out of calls; None until there is such text.
        self._own_content: list[str] | None = None
        self._native_reasoning: list[str] | None = None
        self.reasoning_source: ReasoningSource | None = None
        """The source of the first piece of reasoning."""

    def add_reasoning(self, text: str, source: ReasoningSource, call: int | None = None) -> None:
        """Adds native reasoning (`reasoner_model`) or inner thoughts of a call (`non_reasoner_model`)."""
        if not text:
            return
        call = max(self._reasoning, default=0) if call is None else call
        if source == "non_reasoner_model":
            if self._native_reasoning is None:
                self._native_reasoning = [self.reasoning_text or ""]
        elif self._native_reasoning is not None:
            self._native_reasoning.append(text)
        self._reasoning[call].append(text)
        self.reasoning_source = self.reasoning_source or source
        last = self._pieces[-1] if self._pieces else None
        if last is not None and last.kind is _Kind.REASONING and last.source == source and last.call == call:
            last.texts.append(text)
        else:
            self._pieces.append(_Piece(_Kind.REASONING, [text], call, source))

    def add_content(self, text: str, call: int | None = None) -> None:
        """Adds text for the user: from a call of the assistant tool, or, without `call`, from outside the calls."""
        if text:
            if call is None:
                call = max(self._content, default=0)
                if self._own_content is not None:
                    self._own_content.append(text)
            elif self._own_content is None:
                self._own_content = [self.content_text or ""]
            self._content[call].append(text)
            self._add_piece(_Kind.CONTENT, text, call)

    def add_refusal(self, text: str) -> None:
        """Adds a piece of a refusal."""
        if text:
            self._refusal.append(text)
            self._add_piece(_Kind.REFUSAL, text)

    def add_tool_name(self, call: int, name: str | None, tool_call_id: str | None) -> None:
        """Adds the name of a call with its id, or the one that arrived late; None is left out."""
        part = ToolCallPart(name=name, tool_call_id=tool_call_id)
        self._pieces.append(_Piece(_Kind.TOOL_NAME, [], call, part=part))

    def add_tool_arguments(self, call: int, text: str) -> None:
        """Adds a piece of a call's arguments, as it is shown."""
        if text:
            self._add_piece(_Kind.TOOL_ARGUMENTS, text, call)

    def take_deltas(self, ms: int) -> list[Delta]:
        """Returns the pieces added since the last call, as deltas.

        Args:
            ms: milliseconds since the attempt began; each delta carries it.
        """
        if not self._pieces:
            return []
        pieces, self._pieces = self._pieces, []
        if len(pieces) == 1:
            return [self._delta(pieces[0], ms)]
        return [self._delta(piece, ms) for piece in pieces]

    @property
    def reasoning_text(self) -> str | None:
        """All reasoning so far, call by call; None if there was none."""
        return _call_by_call(self._reasoning)

    @property
    def content_text(self) -> str | None:
        """All text shown so far, call by call; None if there was none."""
        return _call_by_call(self._content)

    @property
    def own_content_text(self) -> str | None:
        """The text shown so far, without text taken out of calls; None if there was none."""
        return self.content_text if self._own_content is None else "".join(self._own_content) or None

    @property
    def native_reasoning_text(self) -> str | None:
        """The reasoning so far, without the inner thoughts of calls; None if there was none."""
        return self.reasoning_text if self._native_reasoning is None else "".join(self._native_reasoning) or None

    @property
    def refusal_text(self) -> str | None:
        """The refusal so far; None if there was none."""
        return "".join(self._refusal) or None

    def _add_piece(self, kind: _Kind, text: str, call: int = 0) -> None:
        if self._pieces:
            last = self._pieces[-1]
            if last.kind is kind and last.call == call:
                last.texts.append(text)
                return
        self._pieces.append(_Piece(kind, [text], call))

    def _delta(self, piece: _Piece, ms: int) -> Delta:
        kind = piece.kind
        text = piece.texts[0] if len(piece.texts) == 1 else "".join(piece.texts)
        if kind is _Kind.TOOL_ARGUMENTS:
            return ToolCallDelta(self._next_index(ToolCallDelta), ms, piece.call, ToolCallPart(arguments=text))
        if kind is _Kind.CONTENT:
            return AssistantDelta(self._next_index(AssistantDelta), ms, content=text, call=piece.call or None)
        if kind is _Kind.REASONING:
            index, before = self._next_index(ReasoningDelta), self._source
            self._source = piece.source
            return ReasoningDelta(index, ms, text, piece.source if piece.source != before else None, piece.call or None)
        if kind is _Kind.REFUSAL:
            return AssistantDelta(self._next_index(AssistantDelta), ms, refusal=text)
        return ToolCallDelta(self._next_index(ToolCallDelta), ms, piece.call, piece.part or ToolCallPart())

    def _next_index(self, of_type: type[Delta]) -> int:
        """The message index, which grows when the type differs from that of the previous delta."""
        if of_type is not self._type:
            self._type = of_type
            self._index += 1
            self._source = None
        return self._index


def _call_by_call(texts: dict[int, list[str]]) -> str | None:
    """Joins the texts so that each call's text stays in one piece, although calls may be interleaved."""
    return "".join("".join(texts[call]) for call in sorted(texts)) or None
