"""From a request to the frames of its event stream: cursor, snapshot, format, gaps, and requests that have ended.

Uses only the client. Knows nothing of connections or of access.
"""

from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing
from typing import Literal, NamedTuple

import msgspec

from tailrace.producers.client import Client
from tailrace.producers.gateway.streams import sse
from tailrace.producers.gateway.streams.combined_cursor import CombinedCursor
from tailrace.producers.tail.letta import LettaItem
from tailrace.producers.tail.snapshot import Snapshot, forgotten_terminal, snapshot_of
from tailrace.producers.tail.tail import Tail
from tailrace.schemas.codec import decode_entry, encode_entry, message_type
from tailrace.schemas.deltas import TERMINALS, Gap
from tailrace.schemas.errors import CursorInvalid, UnknownRequest
from tailrace.schemas.ids import ACCEPTED, EntryId
from tailrace.schemas.letta import LettaView
from tailrace.schemas.outcome import Outcome, terminal_of

Format = Literal["raw", "letta"]

_TERMINALS = frozenset(str(kind.__struct_config__.tag).encode() for kind in TERMINALS)
_VERSIONED = frozenset({b"accepted", b"attempt_started"})

FROM_BEGINNING = "-1"
"""Values of `after` for the beginning of the log, besides none."""


class FollowOptions(NamedTuple):
    """How a caller wants to follow a request. `after` is None for the beginning."""

    after: str | None = None
    snapshot: bool = False
    format: Format = "raw"


class FrameContent(NamedTuple):
    """The content of one frame: the reader's cursor after it (None: unchanged), the event's name, its JSON."""

    cursor: str | None
    name: bytes
    raw: bytes
    is_terminal: bool = False


FrameContents = AsyncGenerator[FrameContent, None]


def parse_cursor(text: str | None) -> str | None:
    """Checks a caller's cursor; None for the beginning.

    Raises:
        CursorInvalid: it is malformed.
    """
    if text is None or text in ("", FROM_BEGINNING):
        return None
    return str(EntryId.parse(text))


async def follow(client: Client, request_id: str, options: FollowOptions) -> FrameContents | None:
    """The part of a request that a reader has yet to receive; None if it has received the terminal.

    A request that Redis has forgotten but the database of outcomes has not is followed from there: a gap if the reader
    has a cursor, a snapshot, the terminal.

    Raises:
        UnknownRequest: no such id, or its lifetime is over.
        StoreUnavailable: Redis or the database could not be reached.
    """
    try:
        return await _follow_log(client, request_id, options)
    except UnknownRequest:
        if options.format == "letta":  # the ids of Letta messages were in the log
            raise
        outcome = await client.result(request_id)
        if outcome is None:
            raise
        return _follow_outcome(outcome, options.after)


async def _follow_log(client: Client, request_id: str, options: FollowOptions) -> FrameContents | None:
    if options.snapshot and options.after is None:
        snapshot = await client.snapshot(request_id, merged=options.format == "letta")
        tail = await client.tail(request_id, snapshot.cursor).__aenter__()
        return _prepend(_snapshot_content(snapshot, options.format), _contents(tail, options.format))
    try:
        tail = await client.tail(request_id, options.after).__aenter__()
    except CursorInvalid:  # the cursor is well-formed, so the log has lost the entry
        gap = Gap(after=options.after or "", before=str(ACCEPTED))
        tail = await client.tail(request_id).__aenter__()
        return _prepend(FrameContent(None, b"gap", encode_entry(gap)), _contents(tail, options.format))
    return None if tail.is_finished else _contents(tail, options.format)


def _follow_outcome(outcome: Outcome, after: str | None) -> FrameContents | None:
    terminal_id = str(forgotten_terminal(outcome))
    if after == terminal_id:
        return None
    snapshot = snapshot_of(outcome)
    terminal = encode_entry(terminal_of(outcome, 0))
    contents = [FrameContent(terminal_id, message_type(terminal), terminal, is_terminal=True)]
    if after != snapshot.cursor:
        contents.insert(0, _snapshot_content(snapshot, "raw"))
        if after is not None:
            contents.insert(0, FrameContent(None, b"gap", encode_entry(Gap(after=after, before=terminal_id))))
    return _iterate(contents)


async def _iterate(contents: Sequence[FrameContent]) -> FrameContents:
    for content in contents:
        yield content


async def frames(contents: FrameContents) -> AsyncGenerator[bytes, None]:
    """The frames of a stream over one request: the event id is the cursor."""
    async with aclosing(contents):
        async for cursor, name, raw, _ in contents:
            yield sse.frame(raw, name=name, event_id=cursor)


async def frames_of_several(
    request_id: str, contents: FrameContents, combined: CombinedCursor
) -> AsyncGenerator[bytes, None]:
    """The frames of one request on a stream over several: the event id is the combined cursor of all of them."""
    async with aclosing(contents):
        async for cursor, name, raw, is_terminal in contents:
            event_id = None if cursor is None else combined.advance(request_id, cursor, ended=is_terminal)
            yield sse.frame(sse.with_request_id(raw, request_id, cursor), name=name, event_id=event_id)


def _contents(tail: Tail, format: Format) -> FrameContents:
    """The contents of an entered tail. Closing them ends it; a tail that was only entered holds no resources."""
    return _letta_contents(tail.letta()) if format == "letta" else tail.in_form(_raw_content)


def _raw_content(cursor: str | None, raw: bytes, _event: object) -> FrameContent:
    """An entry as it is in the log. Only entries that carry the format's version are decoded, to check it."""
    name = message_type(raw)
    if name in _VERSIONED:
        decode_entry(raw)
    return FrameContent(cursor, name, raw, name in _TERMINALS)


async def _letta_contents(items: AsyncGenerator[LettaItem, None]) -> FrameContents:
    async with aclosing(items):
        async for cursor, entry, message in items:
            name: str = message["message_type"]
            yield FrameContent(cursor, name.encode(), msgspec.json.encode(message), isinstance(entry, TERMINALS))


async def _prepend(first: FrameContent, others: FrameContents) -> FrameContents:
    async with aclosing(others):
        yield first
        async for content in others:
            yield content


def _snapshot_content(snapshot: Snapshot, format: Format) -> FrameContent:
    if format == "raw":
        return FrameContent(snapshot.cursor, b"snapshot", msgspec.json.encode(snapshot))
    view = LettaView(snapshot.started) if snapshot.started else None
    body = {
        "message_type": "snapshot",
        "v": snapshot.v,
        "cursor": snapshot.cursor,
        "attempt": snapshot.attempt,
        "messages": [view.message(delta) for delta in snapshot.deltas] if view else [],
    }
    return FrameContent(snapshot.cursor, b"snapshot", msgspec.json.encode(body))
