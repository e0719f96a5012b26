"""The deltas of one attempt, merged by kind and index; the snapshot and the collapsed view are made from this.

Pure: deltas in, deltas out. Knows nothing of logs, attempts or cursors.
"""

import msgspec

from tailrace.schemas.deltas import AssistantDelta, Delta, ReasoningDelta, ToolCallDelta, ToolCallPart


class MergedDeltas:
    """Keeps the parts and joins them when asked, so that adding a delta costs the same however long the answer is."""

    def __init__(self) -> None:
        self._parts: dict[tuple[type[Delta], int, int, bool], list[Delta]] = {}

    def add_delta(self, delta: Delta) -> None:
        """Adds the next delta."""
        call = delta.call or 0
        refused = isinstance(delta, AssistantDelta) and delta.refusal is not None
        self._parts.setdefault((type(delta), delta.i, call, refused), []).append(delta)

    def merged(self) -> tuple[Delta, ...]:
        """The merged deltas, in the order in which each began.

        Reasoning and text taken out of several tool calls are kept apart by `call`.
        """
        for parts in self._parts.values():
            parts[:] = [_joined(parts)]  # so that they are joined once
        return tuple(parts[0] for parts in self._parts.values())


def _joined(parts: list[Delta]) -> Delta:
    match first := parts[0]:
        case ReasoningDelta():
            text = "".join(part.reasoning for part in parts if isinstance(part, ReasoningDelta))
            return msgspec.structs.replace(first, reasoning=text)
        case AssistantDelta(refusal=str()):
            text = "".join(part.refusal or "" for part in parts if isinstance(part, AssistantDelta))
            return msgspec.structs.replace(first, refusal=text)
        case AssistantDelta():
            text = "".join(part.content or "" for part in parts if isinstance(part, AssistantDelta))
            return msgspec.structs.replace(first, content=text)
        case ToolCallDelta():
            return msgspec.structs.replace(first, tool_call=_joined_call(parts))


def _joined_call(parts: list[Delta]) -> ToolCallPart:
    pieces = [part.tool_call for part in parts if isinstance(part, ToolCallDelta)]
    names, ids = [piece.name for piece in pieces], [piece.tool_call_id for piece in pieces]
    arguments = [piece.arguments for piece in pieces if piece.arguments is not None]
    return ToolCallPart(
        name="".join(name for name in names if name) or None,
        arguments="".join(arguments) if arguments else None,
        tool_call_id="".join(piece for piece in ids if piece) or None,
    )
