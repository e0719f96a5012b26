"""A snapshot: the merged deltas of a request's current attempt, and the cursor from which a tail continues.

The reader makes it from the log; writers do nothing for it.
"""

from collections.abc import Mapping
from contextlib import aclosing
from typing import Protocol

import msgspec

from tailrace.producers.store import LogBounds
from tailrace.producers.tail.attempt_pages import PageReader, attempt_until
from tailrace.producers.tail.merged import MergedDeltas
from tailrace.schemas.codec import decode_entry, encode_outcome
from tailrace.schemas.deltas import DELTAS, FORMAT_VERSION, TERMINALS, AttemptStarted, Delta
from tailrace.schemas.errors import StoreRefused, UnknownRequest
from tailrace.schemas.ids import BEGINNING, EntryId
from tailrace.schemas.outcome import Outcome

FORGOTTEN_SEQ = 2**53 - 1
"""Above every entry of a real log, and the largest integer that JavaScript represents exactly."""


class Snapshot(msgspec.Struct, frozen=True, omit_defaults=True, tag_field="message_type", tag="snapshot", kw_only=True):
    """The merged state of a request.

    Attributes:
        v: format version.
        cursor: the entries after it continue this state.
        attempt: the current attempt; 0 before the first.
        started: the first entry of that attempt.
        deltas: the deltas so far, merged by kind and index; empty if there is an outcome.
        outcome: the outcome of a request that has ended, as JSON; only the terminal comes after `cursor`.
    """

    v: int
    cursor: str
    attempt: int
    started: AttemptStarted | None = None
    deltas: tuple[Delta, ...] = ()
    outcome: msgspec.Raw | msgspec.UnsetType = msgspec.UNSET


class SnapshotReader(PageReader, Protocol):
    """The part of the store that a snapshot needs."""

    async def log_bounds(self, request_id: str, cursor: EntryId) -> LogBounds | None:
        """One consistent read of a log's bounds; None if there is no log."""
        ...

    async def record(self, request_id: str, *fields: str) -> Mapping[str, bytes] | None:
        """Fields of the record; None if there is no record."""
        ...


async def snapshot(reader: SnapshotReader, request_id: str, *, merged: bool = False) -> Snapshot:
    """The state of a request now.

    Args:
        reader: the store.
        request_id: the request.
        merged: give deltas instead of the outcome if the request has ended.

    Raises:
        UnknownRequest: no request has this id, or its lifetime is over.
        StoreError: Redis is unreachable, or it refuses.
    """
    seen = await reader.log_bounds(request_id, BEGINNING)
    if seen is None:
        raise UnknownRequest.of(request_id)
    last = seen.last.id
    has_ended = isinstance(decode_entry(seen.last.raw), TERMINALS)
    if has_ended:
        last = await _entry_before(reader, request_id, last)
        outcome = None if merged else await _outcome(reader, request_id)
        if outcome is not None:
            return Snapshot(v=FORMAT_VERSION, cursor=str(last), attempt=seen.last.id.attempt, outcome=outcome)
    started: AttemptStarted | None = None
    merged_deltas = MergedDeltas()
    async with aclosing(attempt_until(reader, request_id, last)) as entries:
        async for _, entry in entries:
            if isinstance(entry, AttemptStarted):
                started = entry
            elif isinstance(entry, DELTAS):
                merged_deltas.add_delta(entry)
    return Snapshot(
        v=FORMAT_VERSION, cursor=str(last), attempt=last.attempt, started=started, deltas=merged_deltas.merged()
    )


def snapshot_of(outcome: Outcome) -> Snapshot:
    """The state of a request whose log is gone: its outcome. Only `forgotten_terminal` comes after the cursor."""
    terminal = forgotten_terminal(outcome)
    cursor = EntryId(terminal.attempt, terminal.seq - 1)
    stored = msgspec.Raw(encode_outcome(outcome))
    return Snapshot(v=FORMAT_VERSION, cursor=str(cursor), attempt=terminal.attempt, outcome=stored)


def forgotten_terminal(outcome: Outcome) -> EntryId:
    """The cursor for the terminal of a log that is gone: after every cursor that a reader may have."""
    return EntryId(outcome.attempt or 0, FORGOTTEN_SEQ)


async def _outcome(reader: SnapshotReader, request_id: str) -> msgspec.Raw | None:
    try:
        record = await reader.record(request_id, "outcome")
    except StoreRefused:  # this Redis user may read logs only; the deltas show the same
        return None
    if record is None or "outcome" not in record:
        raise UnknownRequest.of(request_id)
    return msgspec.Raw(record["outcome"])


async def _entry_before(reader: SnapshotReader, request_id: str, terminal: EntryId) -> EntryId:
    """The entry before a terminal. A terminal that no worker wrote begins an attempt of its own."""
    if terminal.seq > 0:
        return EntryId(terminal.attempt, terminal.seq - 1)
    before, at = BEGINNING, BEGINNING
    while entries := await reader.page(request_id, at, terminal):
        before = next((entry.id for entry in reversed(entries) if entry.id < terminal), before)
        at = entries[-1].id.next()
    return before
