"""Deltas in the making: message index, merging within one take, and the parts the outcome is joined from.

Knows nothing of chunks and JSON. What is added between two takes becomes as few deltas as possible: neighbours of the
same kind (and the same call) are one delta.
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
    """Neighbouring texts of one kind. `call` and `source` stand where the kind has one."""

    kind: _Kind
    texts: list[str]
    call: int = 0
    source: ReasoningSource | None = None
    part: ToolCallPart | None = None


class Emitter:
    """Collects what is to be shown; `take` hands it out as deltas."""

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
        # By call. What is of no call stands with the last that has spoken: where calls follow each other, all stays in
        # order.
        self._reasoning: defaultdict[int, list[str]] = defaultdict(list)
        self._content: defaultdict[int, list[str]] = defaultdict(list)
        self._refusal: list[str] = []
        # Without what was taken out of calls; None as long as nothing was.
        self._own_content: list[str] | None = None
        self._native_reasoning: list[str] | None = None
        self.reasoning_source: ReasoningSource | None = None
        """Where the first piece of reasoning came from."""

    def reasoning(self, text: str, source: ReasoningSource, call: int | None = None) -> None:
        """A piece of reasoning: `reasoner_model` for native one, `non_reasoner_model` for inner thoughts of a call."""
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

    def content(self, text: str, call: int | None = None) -> None:
        """A piece of the text for the user; out of a call of the assistant's tool, or what stands beside the calls."""
        if text:
            if call is None:
                call = max(self._content, default=0)
                if self._own_content is not None:
                    self._own_content.append(text)
            elif self._own_content is None:
                self._own_content = [self.content_text or ""]
            self._content[call].append(text)
            self._add(_Kind.CONTENT, text, call)

    def refusal(self, text: str) -> None:
        """A piece of a refusal."""
        if text:
            self._refusal.append(text)
            self._add(_Kind.REFUSAL, text)

    def tool_name(self, call: int, name: str | None, tool_call_id: str | None) -> None:
        """The name of a call with its id, or what came late of either; what is None is left out."""
        part = ToolCallPart(name=name, tool_call_id=tool_call_id)
        self._pieces.append(_Piece(_Kind.TOOL_NAME, [], call, part=part))

    def tool_arguments(self, call: int, text: str) -> None:
        """A piece of a call's arguments, as it is to be shown."""
        if text:
            self._add(_Kind.TOOL_ARGUMENTS, text, call)

    def take(self, ms: int) -> list[Delta]:
        """What was added since the last take, as deltas.

        Args:
            ms: milliseconds since the attempt began; stands in each delta.
        """
        if not self._pieces:
            return []
        pieces, self._pieces = self._pieces, []
        if len(pieces) == 1:
            return [self._delta(pieces[0], ms)]
        return [self._delta(piece, ms) for piece in pieces]

    @property
    def reasoning_text(self) -> str | None:
        """All reasoning so far, call by call, None where there was none."""
        return _call_by_call(self._reasoning)

    @property
    def content_text(self) -> str | None:
        """All text shown so far, call by call, None where there was none."""
        return _call_by_call(self._content)

    @property
    def own_content_text(self) -> str | None:
        """The text shown so far but for what was taken out of calls, None where there was none."""
        return self.content_text if self._own_content is None else "".join(self._own_content) or None

    @property
    def native_reasoning_text(self) -> str | None:
        """The reasoning so far but for the inner thoughts of calls, None where there was none."""
        return self.reasoning_text if self._native_reasoning is None else "".join(self._native_reasoning) or None

    @property
    def refusal_text(self) -> str | None:
        """All of the refusal so far, None where there was none."""
        return "".join(self._refusal) or None

    def _add(self, kind: _Kind, text: str, call: int = 0) -> None:
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
            return ToolCallDelta(self._turn(ToolCallDelta), ms, piece.call, ToolCallPart(arguments=text))
        if kind is _Kind.CONTENT:
            return AssistantDelta(self._turn(AssistantDelta), ms, content=text, call=piece.call or None)
        if kind is _Kind.REASONING:
            index, said = self._turn(ReasoningDelta), self._source
            self._source = piece.source
            return ReasoningDelta(index, ms, text, piece.source if piece.source != said else None, piece.call or None)
        if kind is _Kind.REFUSAL:
            return AssistantDelta(self._turn(AssistantDelta), ms, refusal=text)
        return ToolCallDelta(self._turn(ToolCallDelta), ms, piece.call, piece.part or ToolCallPart())

    def _turn(self, of_type: type[Delta]) -> int:
        """The message index: it grows when the type differs from that of the delta before."""
        if of_type is not self._type:
            self._type = of_type
            self._index += 1
            self._source = None
        return self._index


def _call_by_call(texts: dict[int, list[str]]) -> str | None:
    """Calls may be interleaved: what each of them says stays in one piece."""
    return "".join("".join(texts[call]) for call in sorted(texts)) or None
