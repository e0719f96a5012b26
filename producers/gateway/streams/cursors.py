"""The event id of a stream that follows several requests: where it stands in each. Opaque to whoever keeps it.

One place a request, `<tag>:<cursor>`, joined by commas; the tag is short for the request's id, `!` behind a cursor says
that the request has ended there. So the order of the requests may change, some may leave, and others may join.
"""

from base64 import urlsafe_b64encode
from collections.abc import Iterable
from hashlib import sha256

from tailrace.schemas.errors import CursorInvalid
from tailrace.schemas.ids import EntryId

_TAG_BYTES = 6
_ENDED = "!"


class Places:
    """Where a stream stands in each of its requests.

    Args:
        request_ids: the requests.
        event_id: what an earlier stream gave; places of other requests in it are let go.

    Raises:
        CursorInvalid: the event id is none of ours.
    """

    def __init__(self, request_ids: Iterable[str], event_id: str | None = None) -> None:
        self._tags = {request_id: _tag(request_id) for request_id in request_ids}
        known = _read(event_id) if event_id else {}
        self._places = {tag: known[tag] for tag in self._tags.values() if tag in known}

    def cursor(self, request_id: str) -> str | None:
        """The last entry seen of a request; None before the first."""
        place = self._places.get(self._tags[request_id])
        return None if place is None else place.removesuffix(_ENDED)

    def has_ended(self, request_id: str) -> bool:
        """Whether its terminal has been seen."""
        return self._places.get(self._tags[request_id], "").endswith(_ENDED)

    def advance(self, request_id: str, cursor: str, *, ended: bool) -> str:
        """Moves on in one request; the event id from now on."""
        self._places[self._tags[request_id]] = cursor + _ENDED if ended else cursor
        return ",".join([f"{tag}:{place}" for tag, place in self._places.items()])


def _read(event_id: str) -> dict[str, str]:
    places: dict[str, str] = {}
    for part in event_id.split(","):
        tag, _, place = part.partition(":")
        try:
            EntryId.parse(place.removesuffix(_ENDED))
        except CursorInvalid:
            raise CursorInvalid("this is not an event id of a stream over several requests") from None
        places[tag] = place
    return places


def _tag(request_id: str) -> str:
    return urlsafe_b64encode(sha256(request_id.encode()).digest()[:_TAG_BYTES]).decode()
