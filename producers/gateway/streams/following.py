"""From a request to the frames of its event stream: cursor, snapshot, form, gap, and what is over already.

Uses the client alone. Knows nothing of connections and of who may read.
"""

from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing
from typing import Literal, NamedTuple

import msgspec

from tailrace.producers.client import Client
from tailrace.producers.gateway.streams import sse
from tailrace.producers.gateway.streams.cursors import Places
from tailrace.producers.tail.letta import LettaItem
from tailrace.producers.tail.snapshot import Snapshot, forgotten_terminal, snapshot_of
from tailrace.schemas.codec import decode_entry, encode_entry, message_type
from tailrace.schemas.deltas import TERMINALS, Gap
from tailrace.schemas.errors import CursorInvalid, UnknownRequest
from tailrace.schemas.ids import ACCEPTED, EntryId
from tailrace.schemas.letta import LettaView
from tailrace.schemas.outcome import Outcome, terminal_of

Form = Literal["raw", "letta"]

_TERMINALS = frozenset(str(kind.__struct_config__.tag).encode() for kind in TERMINALS)
_VERSIONED = frozenset({b"accepted", b"attempt_started"})

BEGINNING_ASKED = "-1"
"""What `after` may say for the beginning, beside being left out."""


class Wanted(NamedTuple):
    """How somebody wants to follow a request. `after` is None from the beginning."""

    after: str | None = None
    snapshot: bool = False
    form: Form = "raw"


class Piece(NamedTuple):
    """What becomes one frame: where it leaves the reader (None: where it was), its name, its JSON."""

    cursor: str | None
    name: bytes
    raw: bytes
    is_terminal: bool = False


Pieces = AsyncGenerator[Piece, None]


def cursor_of(text: str | None) -> str | None:
    """A cursor as a caller gave it; None for the beginning.

    Raises:
        CursorInvalid: it is malformed.
    """
    if text is None or text in ("", BEGINNING_ASKED):
        return None
    return str(EntryId.parse(text))


async def follow(client: Client, request_id: str, wanted: Wanted, *, has_ended: bool) -> Pieces | None:
    """What is to come of a request; None where nothing is: it has ended, and the cursor is its terminal's.

    One that Redis has forgotten, and the database of outcomes has not, is followed from there: a gap for who has a
    cursor, its snapshot, its terminal.

    Raises:
        UnknownRequest: no such id, or its lifetime is over.
        StoreUnavailable: Redis, or that database, could not be reached.
    """
    try:
        return await _in_redis(client, request_id, wanted, has_ended=has_ended)
    except UnknownRequest:
        outcome = None if wanted.form == "letta" else await client.result(request_id)  # Letta's ids went with the log
        if outcome is None:
            raise
        return _forgotten(outcome, wanted.after)


async def _in_redis(client: Client, request_id: str, wanted: Wanted, *, has_ended: bool) -> Pieces | None:
    if wanted.snapshot and wanted.after is None:
        taken = await client.snapshot(request_id, merged=wanted.form == "letta")
        pieces = await _opened(client, request_id, taken.cursor, wanted.form)
        return _after(_snapshot(taken, wanted.form), pieces)
    try:
        pieces = await _opened(client, request_id, wanted.after, wanted.form)
    except CursorInvalid:  # its form is right, so the log has lost what this reader had seen
        lost = Gap(after=wanted.after or "", before=str(ACCEPTED))
        pieces = await _opened(client, request_id, None, wanted.form)
        return _after(Piece(None, b"gap", encode_entry(lost)), pieces)
    if wanted.after is None or not has_ended:
        return pieces
    first = await anext(pieces, None)
    return None if first is None else _after(first, pieces)


def _forgotten(outcome: Outcome, after: str | None) -> Pieces | None:
    terminal_id = str(forgotten_terminal(outcome))
    if after == terminal_id:
        return None
    taken = snapshot_of(outcome)
    terminal = encode_entry(terminal_of(outcome, 0))
    pieces = [_snapshot(taken, "raw"), Piece(terminal_id, message_type(terminal), terminal, is_terminal=True)]
    if after == taken.cursor:
        del pieces[0]
    elif after is not None:
        pieces.insert(0, Piece(None, b"gap", encode_entry(Gap(after=after, before=terminal_id))))
    return _told(pieces)


async def _told(pieces: Sequence[Piece]) -> Pieces:
    for piece in pieces:
        yield piece


async def frames(pieces: Pieces) -> AsyncGenerator[bytes, None]:
    """The frames of a stream that follows one request: the event id is its cursor."""
    async with aclosing(pieces):
        async for cursor, name, raw, _ in pieces:
            yield sse.frame(raw, name=name, event_id=cursor)


async def frames_among(request_id: str, pieces: Pieces, places: Places) -> AsyncGenerator[bytes, None]:
    """The frames of one of several requests on a stream: the event id is the place in all of them."""
    async with aclosing(pieces):
        async for cursor, name, raw, is_terminal in pieces:
            place = None if cursor is None else places.advance(request_id, cursor, ended=is_terminal)
            yield sse.frame(sse.addressed(raw, request_id, cursor), name=name, event_id=place)


async def _opened(client: Client, request_id: str, after: str | None, form: Form) -> Pieces:
    if form == "letta":
        return _letta(await client.open_letta(request_id, after))
    return await client.open_tail_as(_piece, request_id, after)


def _piece(cursor: str | None, raw: bytes, _said: object) -> Piece:
    """An entry as it stands in the log. One that begins something is read for its format's version."""
    name = message_type(raw)
    if name in _VERSIONED:
        decode_entry(raw)
    return Piece(cursor, name, raw, name in _TERMINALS)


async def _letta(items: AsyncGenerator[LettaItem, None]) -> Pieces:
    async with aclosing(items):
        async for cursor, entry, message in items:
            name: str = message["message_type"]
            yield Piece(cursor, name.encode(), msgspec.json.encode(message), isinstance(entry, TERMINALS))


async def _after(first: Piece, others: Pieces) -> Pieces:
    async with aclosing(others):
        yield first
        async for piece in others:
            yield piece


def _snapshot(taken: Snapshot, form: Form) -> Piece:
    if form == "raw":
        return Piece(taken.cursor, b"snapshot", msgspec.json.encode(taken))
    view = LettaView(taken.started) if taken.started else None
    shown = {
        "message_type": "snapshot",
        "v": taken.v,
        "cursor": taken.cursor,
        "attempt": taken.attempt,
        "messages": [view.message(delta) for delta in taken.deltas] if view else [],
    }
    return Piece(taken.cursor, b"snapshot", msgspec.json.encode(shown))
