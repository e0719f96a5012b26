"""Request ids, entry ids and cursors: their forms and their order. Generates no ids. Pure."""

import re
from typing import NamedTuple, Self

from tailrace.schemas.errors import CursorInvalid, RequestRejected, UnknownRequest

REQUEST_ID_PATTERN = re.compile(r"[A-Za-z0-9_-]{1,64}\Z")
_ENTRY_ID_PATTERN = re.compile(r"([0-9]{1,19})-([0-9]{1,19})\Z")
_MESSAGE_ID_PREFIX = "message-"


class EntryId(NamedTuple):
    """`<attempt>-<seq>`: the id of an entry in a log, gapless within an attempt. Its order is that of Redis."""

    attempt: int
    seq: int

    def __str__(self) -> str:
        return f"{self.attempt}-{self.seq}"

    def next(self) -> "EntryId":
        """The id after this one in the same attempt."""
        return EntryId(self.attempt, self.seq + 1)

    @classmethod
    def parse(cls, text: str | bytes) -> Self:
        """Reads `<attempt>-<seq>`.

        Raises:
            CursorInvalid: when the text has another form.
        """
        plain = text.decode("utf-8", "replace") if isinstance(text, bytes) else text
        match = _ENTRY_ID_PATTERN.match(plain)
        if match is None:
            raise CursorInvalid(f"{plain[:80]!r} is not a cursor: use <attempt>-<seq> as an entry gave it, such as 1-7")
        return cls(int(match[1]), int(match[2]))


BEGINNING = EntryId(0, 0)
"""The cursor before the first entry: tailing from here replays everything."""

ACCEPTED = EntryId(0, 1)
"""The id of the first entry of every log, written by submit."""


def check_request_id(request_id: str) -> str:
    """Returns the id if a caller may choose it.

    Raises:
        RequestRejected: when it has another form than `[A-Za-z0-9_-]{1,64}`.
    """
    if REQUEST_ID_PATTERN.match(request_id) is None:
        raise RequestRejected(
            f"id {request_id[:80]!r} cannot be used: take 1 to 64 characters out of A-Z a-z 0-9 _ and -"
        )
    return request_id


def check_known_form(request_id: str) -> None:
    """Checks that a request with this id can exist, before the id becomes part of a key.

    Raises:
        UnknownRequest: the id has another form than `[A-Za-z0-9_-]{1,64}`.
    """
    if REQUEST_ID_PATTERN.match(request_id) is None:
        raise UnknownRequest.of(request_id)


def message_id(uuid: str) -> str:
    """The message id for a uuid in its usual text form: `message-<uuid>`."""
    return _MESSAGE_ID_PREFIX + uuid


def otid(of_message_id: str, index: int) -> str:
    """The uuid inside a message id with its low 7 bits replaced by the message index.

    An index beyond 127 also changes the bits above, so that no two runs of deltas share an otid.

    Args:
        of_message_id: `message-<uuid>`.
        index: number of the run of deltas, from 0.
    """
    number = int(of_message_id.removeprefix(_MESSAGE_ID_PREFIX).replace("-", ""), 16)
    mixed = ((number ^ (index >> 7 << 7)) & ~0x7F) | (index & 0x7F)
    text = f"{mixed & (1 << 128) - 1:032x}"
    return "-".join((text[:8], text[8:12], text[12:16], text[16:20], text[20:]))
