"""The event id of a stream over several requests: one cursor for each of them. Readers treat it as opaque.

Its form is `<tag>:<cursor>` for each request, joined by commas. The tag is a short hash of the request's id; `!` after
a cursor marks the request's terminal. Requests may therefore change their order, leave the stream or join it.
"""

from base64 import urlsafe_b64encode
from collections.abc import Iterable
from hashlib import sha256

from tailrace.schemas.errors import CursorInvalid
from tailrace.schemas.ids import EntryId

_TAG_BYTES = 6
_ENDED = "!"


class CombinedCursor:
    """The position of a stream in each of its requests.

    Args:
        request_ids: the requests.
        event_id: the last event id of an earlier stream; positions of other requests in it are dropped.

    Raises:
        CursorInvalid: the event id is malformed.
    """

    def __init__(self, request_ids: Iterable[str], event_id: str | None = None) -> None:
        self._tags = {request_id: _tag(request_id) for request_id in request_ids}
        known = _parse(event_id) if event_id else {}
        self._positions = {tag: known[tag] for tag in self._tags.values() if tag in known}

    def cursor(self, request_id: str) -> str | None:
        """The cursor of the last entry seen of a request; None before the first."""
        position = self._positions.get(self._tags[request_id])
        return None if position is None else position.removesuffix(_ENDED)

    def has_ended(self, request_id: str) -> bool:
        """Whether the reader has seen the request's terminal."""
        return self._positions.get(self._tags[request_id], "").endswith(_ENDED)

    def advance(self, request_id: str, cursor: str, *, ended: bool) -> str:
        """Moves the position in one request and returns the new event id."""
        self._positions[self._tags[request_id]] = cursor + _ENDED if ended else cursor
        return ",".join([f"{tag}:{position}" for tag, position in self._positions.items()])


def _parse(event_id: str) -> dict[str, str]:
    positions: dict[str, str] = {}
    for part in event_id.split(","):
        tag, _, position = part.partition(":")
        try:
            EntryId.parse(position.removesuffix(_ENDED))
        except CursorInvalid:
            raise CursorInvalid("this is not an event id of a stream over several requests") from None
        positions[tag] = position
    return positions


def _tag(request_id: str) -> str:
    return urlsafe_b64encode(sha256(request_id.encode()).digest()[:_TAG_BYTES]).decode()
