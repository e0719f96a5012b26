"""Encodes and decodes entries and outcomes as JSON, and job payloads as msgpack. Only this module checks versions."""

from collections.abc import Callable
from typing import Any

import msgspec

from tailrace.schemas.deltas import FORMAT_VERSION, Accepted, AttemptStarted, LogEntry, ReaderEvent
from tailrace.schemas.errors import TailError
from tailrace.schemas.outcome import Outcome

_json = msgspec.json.Encoder()
_entry = msgspec.json.Decoder(LogEntry)
_outcome = msgspec.json.Decoder(Outcome)
_msgpack = msgspec.msgpack.Encoder()

_FIRST_MEMBER = b'{"message_type":"'


class _Named(msgspec.Struct):
    message_type: str


_named = msgspec.json.Decoder(_Named)

READABLE_VERSIONS = frozenset({FORMAT_VERSION})
"""Readers also accept the previous version, once there is one."""

_VERSIONED = (Accepted, AttemptStarted)
"""The entries that carry a format version. A tuple, because `isinstance(x, A | B)` would build a union each time."""

encode_job = _msgpack.encode
"""arq's job serializer. Never pickle: a payload must not be able to run code."""


def decode_job(payload: bytes) -> dict[str, Any]:
    """arq's job deserializer."""
    return msgspec.msgpack.decode(payload, type=dict[str, Any])


encode_entry: Callable[[LogEntry | ReaderEvent], bytes] = _json.encode
"""An entry as one JSON object, `message_type` first."""


def decode_entry(raw: bytes) -> LogEntry:
    """Reads an entry.

    Raises:
        TailError: it is not an entry of a readable version.
    """
    try:
        entry = _entry.decode(raw)
    except msgspec.MsgspecError as error:
        raise TailError(f"an entry cannot be read: {error}") from error
    if isinstance(entry, _VERSIONED):
        _check_version(entry.v)
    return entry


def message_type(raw: bytes) -> bytes:
    """The `message_type` of an entry, read from the start of its bytes.

    Only an entry that starts differently, because another program wrote it, is decoded.

    Raises:
        TailError: there is none.
    """
    if raw.startswith(_FIRST_MEMBER):
        end = raw.find(b'"', len(_FIRST_MEMBER))
        if end > 0:
            return raw[len(_FIRST_MEMBER) : end]
    try:
        return _named.decode(raw).message_type.encode()
    except msgspec.MsgspecError as error:
        raise TailError(f"an entry cannot be read: {error}") from error


def encode_outcome(outcome: Outcome) -> bytes:
    """An outcome as one JSON object."""
    return _json.encode(outcome)


def decode_outcome(raw: bytes) -> Outcome:
    """Reads an outcome.

    Raises:
        TailError: it is not an outcome of a readable version.
    """
    try:
        outcome = _outcome.decode(raw)
    except msgspec.MsgspecError as error:
        raise TailError(f"an outcome cannot be read: {error}") from error
    _check_version(outcome.v)
    return outcome


def _check_version(version: int) -> None:
    if version not in READABLE_VERSIONS:
        raise TailError(f"format version {version} is newer than this reader ({FORMAT_VERSION}): upgrade tailrace here")
