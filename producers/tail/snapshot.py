"""A snapshot: what the deltas of a request's attempt add up to so far, and the cursor behind which others follow.

It is made by the reader, from the log: whoever writes does nothing for it. Each entry is merged once.
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
"""No log gets there, and JavaScript still counts so far."""


class Snapshot(msgspec.Struct, frozen=True, omit_defaults=True, tag_field="message_type", tag="snapshot", kw_only=True):
    """A reader's merged state.

    Attributes:
        v: format version.
        cursor: the entries behind it go on from here.
        attempt: the attempt whose state it is; 0 before the first.
        started: the entry which that attempt began with.
        deltas: of a request that runs, or whose outcome we may not read: its deltas so far, those of a kind and index
            merged into one.
        outcome: of a request that has ended, as it was persisted; its terminal is the one entry behind `cursor`.
    """

    v: int
    cursor: str
    attempt: int
    started: AttemptStarted | None = None
    deltas: tuple[Delta, ...] = ()
    outcome: msgspec.Raw | msgspec.UnsetType = msgspec.UNSET


class SnapshotReader(PageReader, Protocol):
    """What a snapshot needs of the store."""

    async def log_bounds(self, request_id: str, cursor: EntryId) -> LogBounds | None:
        """One consistent look at a log; None when there is none."""
        ...

    async def record(self, request_id: str, *fields: str) -> Mapping[str, bytes] | None:
        """Fields of the record; None when there is no record."""
        ...


async def snapshot(reader: SnapshotReader, request_id: str, *, merged: bool = False) -> Snapshot:
    """The state of a request now.

    Args:
        reader: the store.
        request_id: the request.
        merged: give deltas also where the request has ended, in place of its outcome; so does whoever may not read it.

    Raises:
        UnknownRequest: no such id, or its lifetime is over.
        StoreError: Redis cannot be asked.
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
    """The state of a request whose log is gone: its outcome. Behind the cursor there is `forgotten_terminal` alone."""
    terminal = forgotten_terminal(outcome)
    cursor = EntryId(terminal.attempt, terminal.seq - 1)
    stored = msgspec.Raw(encode_outcome(outcome))
    return Snapshot(v=FORMAT_VERSION, cursor=str(cursor), attempt=terminal.attempt, outcome=stored)


def forgotten_terminal(outcome: Outcome) -> EntryId:
    """Where the terminal of a log that is gone is said to have been: behind whatever cursor a reader may have."""
    return EntryId(outcome.attempt or 0, FORGOTTEN_SEQ)


async def _outcome(reader: SnapshotReader, request_id: str) -> msgspec.Raw | None:
    try:
        record = await reader.record(request_id, "outcome")
    except StoreRefused:  # a user who reads logs alone; they have all that it shows
        return None
    if record is None or "outcome" not in record:
        raise UnknownRequest.of(request_id)
    return msgspec.Raw(record["outcome"])


async def _entry_before(reader: SnapshotReader, request_id: str, terminal: EntryId) -> EntryId:
    """The entry before a terminal. Whoever ends a request from outside begins an attempt with it."""
    if terminal.seq > 0:
        return EntryId(terminal.attempt, terminal.seq - 1)
    before, at = BEGINNING, BEGINNING
    while entries := await reader.page(request_id, at, terminal):
        before = next((entry.id for entry in reversed(entries) if entry.id < terminal), before)
        at = entries[-1].id.next()
    return before
