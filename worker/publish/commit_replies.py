"""Turns the replies to a commit into a result for each batch.

Pure: knows Redis' replies and redis-py's errors, but no connection.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from enum import Enum
from typing import Any

from redis import exceptions as refusals

from tailrace.broker.cluster import Redirect
from tailrace.schemas.errors import TailraceError
from tailrace.schemas.ids import EntryId
from tailrace.worker.publish.log_buffer import Batch

_ID_TOO_SMALL = "equal or smaller"


@dataclass(frozen=True, slots=True)
class Written:
    """The batch is in its log, written by this commit or by an earlier sending of it."""


@dataclass(frozen=True, slots=True)
class Moved:
    """Another node of the cluster has the log or is receiving it; nothing was written."""

    redirect: Redirect


@dataclass(frozen=True, slots=True)
class Rejected:
    """The batch was not written, for this reason."""

    error: TailraceError


Result = Written | Moved | Rejected
WRITTEN = Written()


class AttemptState(Enum):
    """Whether an attempt is still the current one of its request on a server."""

    KNOWN = "known"
    FORGOTTEN = "forgotten"
    HALF_MOVED = "half moved"
    """Only one of the record and the log is on this node: the slot is moving, and the other will follow."""


def batch_reply(replies: Sequence[Any], end: int, commands: int) -> Any:
    """The reply that decides about a batch: the first entry's id, None, or an error.

    In a transaction, an entry of a log is refused only for the same reason as the first one. If the server refuses the
    whole transaction, the error is the reply to a command that was to be queued.

    Args:
        replies: to the whole commit.
        end: the index after the last reply to this batch.
        commands: how many entries it has.
    """
    executed = replies[end - 1]
    if commands == 1:
        return executed
    if isinstance(executed, list):
        return executed[0]  # pyright: ignore[reportUnknownVariableType] - a reply has no type
    queued = replies[end - commands - 2 : end - 1]
    return next((reply for reply in queued if isinstance(reply, Exception)), executed)


def says_id_too_small(error: Exception) -> bool:
    """Whether an entry was refused because the log already has its id or a later one."""
    return _ID_TOO_SMALL in str(error)


def is_written_before(batch: Batch, last_entry: object) -> bool:
    """Whether an earlier sending of a batch was executed.

    Args:
        batch: a batch whose first id was too small.
        last_entry: the reply to XREVRANGE for the last entry of its log.
    """
    last = last_id(last_entry)
    return last is not None and last.attempt == batch.log.attempt and last.seq >= batch.first + len(batch.entries) - 1


def last_id(last_entry: object) -> EntryId | None:
    """The id in a reply to XREVRANGE for one entry; None if the log is empty or gone."""
    if not isinstance(last_entry, list) or not last_entry:
        return None
    entries: list[Any] = last_entry  # pyright: ignore[reportUnknownVariableType] - a reply has no type
    return EntryId.parse(entries[0][0])


def attempt_state(
    fields: object, last_entry: object, expected: Sequence[bytes], moved: Sequence[Redirect | None], *, asking: bool
) -> AttemptState | Moved:
    """The state of an attempt on a node.

    Args:
        fields: attempt and token in the record.
        last_entry: the reply to XREVRANGE for the last entry of the log.
        expected: attempt and token of the writer.
        moved: the node's redirects for the record and for the log.
        asking: whether the slot was moving to this node when the writer was sent here.
    """
    record_moved, log_moved = moved
    if fields == expected:
        return AttemptState.KNOWN
    if log_moved is not None:
        return Moved(log_moved)
    if record_moved is not None:
        return AttemptState.HALF_MOVED
    if asking and fields == [None, None] and last_id(last_entry) is not None:
        return AttemptState.HALF_MOVED
    return AttemptState.FORGOTTEN


def listened_channels(counts: object, channels: set[bytes]) -> set[bytes]:
    """The channels that have a listener; all of them if our user may not run PUBSUB.

    Args:
        counts: the reply to PUBSUB NUMSUB.
        channels: the channels in the command.
    """
    if not isinstance(counts, list):
        return channels
    pairs: list[Any] = counts  # pyright: ignore[reportUnknownVariableType] - a reply has no type
    return {channel for channel, count in zip(pairs[::2], pairs[1::2], strict=True) if count}


def raise_if_not_primary(replies: Sequence[object]) -> None:
    """Raises the error of a server that became a replica or is not ready: the next connection finds the primary."""
    for reply in replies:
        if isinstance(reply, refusals.ReadOnlyError | refusals.ConnectionError):
            raise reply
