"""The event streams open in this gateway: how many there may be, and how all of them end when the gateway stops.

Knows nothing of routes or of what the streams send.
"""

import logging
import time
from collections.abc import Sequence

from tailrace.producers.gateway.metrics import GatewayCounts
from tailrace.producers.gateway.streams.event_stream import EventStream, Frames, StreamEnd, StreamLimits
from tailrace.schemas.errors import LimitExceeded, TailraceError
from tailrace.telemetry.logging import fields

FULL_RETRY_MS = 5_000
"""The time after which a reader reconnects that found no room for its stream."""

_logger = logging.getLogger("tailrace.gateway")


class OpenStreams:
    """The open streams of one gateway.

    Args:
        max_streams: how many may be open at once.
        limits: the limits of each.
        counts: where ended streams are counted.

    Attributes:
        is_stopping: whether the gateway is stopping, so that no stream may begin.
    """

    def __init__(self, max_streams: int, limits: StreamLimits, counts: GatewayCounts) -> None:
        self._max_streams = max_streams
        self._limits = limits
        self._counts = counts
        self._streams: set[EventStream] = set()
        self.is_stopping = False

    def __len__(self) -> int:
        return len(self._streams)

    @property
    def is_full(self) -> bool:
        """Whether the maximum of streams is open."""
        return len(self._streams) >= self._max_streams

    def check_room(self) -> None:
        """Returns if one more stream may begin.

        Raises:
            LimitExceeded: too many streams are open, or the gateway is stopping.
        """
        if self.is_stopping or self.is_full:
            raise LimitExceeded("this gateway cannot open another event stream now", 503, FULL_RETRY_MS / 1000)

    def open_stream(self, followers: Sequence[Frames], request_ids: Sequence[str]) -> EventStream:
        """Makes a stream that ends when its requests end or when the gateway stops.

        Args:
            followers: the frames of each request.
            request_ids: the requests, in the same order.

        Raises:
            LimitExceeded: the last place was taken since `check_room`, or the gateway is stopping.
        """
        self.check_room()
        began_s = time.monotonic()

        def ended(end: StreamEnd, error: TailraceError | None) -> None:
            self._streams.discard(stream)
            self._counts.streams_ended.increment(end)
            _log_end(request_ids, end, time.monotonic() - began_s, error)

        stream = EventStream(followers, self._limits, ended)
        self._streams.add(stream)
        return stream

    def stop(self) -> None:
        """Ends all streams with a hint when to reconnect, and lets no other begin."""
        self.is_stopping = True
        for stream in tuple(self._streams):
            stream.stop()


def _log_end(request_ids: Sequence[str], end: StreamEnd, after_s: float, error: TailraceError | None) -> None:
    one = request_ids[0] if len(request_ids) == 1 else None
    level, why = (logging.INFO, "") if error is None else (logging.WARNING, f": {error}")
    _logger.log(
        level,
        "stream %s %s after %.1f s%s",
        one or f"of {len(request_ids)} requests",
        end,
        after_s,
        why,
        extra=fields(
            "stream_ended",
            one,
            end=end,
            requests=len(request_ids),
            s=round(after_s, 3),
            code=error and error.code,
            why=error,
        ),
    )
