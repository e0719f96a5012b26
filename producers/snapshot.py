"""A snapshot: what the deltas of a request's attempt add up to so far, and the cursor behind which others follow.

It is made by the reader, from the log: whoever writes does nothing for it. Each entry is merged once.
"""

from collections.abc import Mapping, Sequence
from typing import Protocol

import msgspec

from producers.store import Glimpse, RawEntry
from schemas.codec import decode_entry
from schemas.deltas import (
    DELTAS,
    FORMAT_VERSION,
    TERMINALS,
    AssistantDelta,
    AttemptStarted,
    Delta,
    ReasoningDelta,
    ToolCallDelta,
    ToolCallPart,
)
from schemas.errors import UnknownRequest
from schemas.ids import BEGINNING, EntryId


class Snapshot(msgspec.Struct, frozen=True, omit_defaults=True, tag_field="message_type", tag="snapshot", kw_only=True):
    """A reader's merged state.

    Attributes:
        v: format version.
        cursor: the entries behind it go on from here.
        attempt: the attempt whose state it is; 0 before the first.
        started: the entry which that attempt began with.
        deltas: of a request that runs: its deltas so far, those of a kind and index merged into one.
        outcome: of a request that has ended, as it was persisted; its terminal is the one entry behind `cursor`.
    """

    v: int = FORMAT_VERSION
    cursor: str
    attempt: int
    started: AttemptStarted | None = None
    deltas: tuple[Delta, ...] = ()
    outcome: msgspec.Raw | msgspec.UnsetType = msgspec.UNSET


class SnapshotReader(Protocol):
    """What a snapshot needs of the store."""

    async def glimpse(self, request_id: str, cursor: EntryId) -> Glimpse | None:
        """One consistent look at a log; None when there is none."""
        ...

    async def page(self, request_id: str, first: EntryId, last: EntryId) -> Sequence[RawEntry]:
        """A page of entries from `first` to `last`, both included."""
        ...

    async def record(self, request_id: str, *fields: str) -> Mapping[str, bytes] | None:
        """Fields of the record; None when there is no record."""
        ...


async def snapshot(reader: SnapshotReader, request_id: str, *, merged: bool = False) -> Snapshot:
    """The state of a request now.

    Args:
        reader: the store.
        request_id: the request.
        merged: give deltas also where the request has ended, in place of its outcome.

    Raises:
        UnknownRequest: no such id, or its lifetime is over.
        StoreError: Redis cannot be asked.
    """
    seen = await reader.glimpse(request_id, BEGINNING)
    if seen is None:
        raise _unknown(request_id)
    last = seen.last.id
    has_ended = isinstance(decode_entry(seen.last.raw), TERMINALS)
    if has_ended:
        last = await _entry_before(reader, request_id, last)
        if not merged:
            record = await reader.record(request_id, "outcome")
            if record is None or "outcome" not in record:
                raise _unknown(request_id)
            return Snapshot(cursor=str(last), attempt=seen.last.id.attempt, outcome=msgspec.Raw(record["outcome"]))
    state = _Merged()
    at = EntryId(last.attempt, 0)
    while at <= last and (entries := await reader.page(request_id, at, last)):
        for _, raw in entries:
            state.add(raw)
        at = entries[-1].id.next()
    return Snapshot(cursor=str(last), attempt=last.attempt, started=state.started, deltas=state.deltas())


async def _entry_before(reader: SnapshotReader, request_id: str, terminal: EntryId) -> EntryId:
    """The entry before a terminal. Whoever ends a request from outside begins an attempt with it."""
    if terminal.seq > 0:
        return EntryId(terminal.attempt, terminal.seq - 1)
    before, at = BEGINNING, BEGINNING
    while entries := await reader.page(request_id, at, terminal):
        before = next((entry.id for entry in reversed(entries) if entry.id < terminal), before)
        at = entries[-1].id.next()
    return before


class _Merged:
    """The deltas of one attempt, texts kept as parts and joined at the end."""

    def __init__(self) -> None:
        self.started: AttemptStarted | None = None
        self._parts: dict[tuple[type[Delta], int, int, bool], list[Delta]] = {}

    def add(self, raw: bytes) -> None:
        entry = decode_entry(raw)
        if isinstance(entry, AttemptStarted):
            self.started = entry
        elif isinstance(entry, DELTAS):
            call = entry.call if isinstance(entry, ToolCallDelta) else 0
            refused = isinstance(entry, AssistantDelta) and entry.refusal is not None
            self._parts.setdefault((type(entry), entry.i, call, refused), []).append(entry)

    def deltas(self) -> tuple[Delta, ...]:
        return tuple(_joined(parts) for parts in self._parts.values())


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


def _unknown(request_id: str) -> UnknownRequest:
    return UnknownRequest(f"no request has the id {request_id[:80]!r}, or its lifetime is over")
