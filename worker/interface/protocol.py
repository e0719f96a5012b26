"""What the two interfaces, Chat Completions and Responses, have in common for those who drive them."""

from typing import Protocol

from tailrace.schemas.deltas import Delta, ErrorInfo
from tailrace.schemas.errors import UpstreamError
from tailrace.schemas.outcome import Outcome


class Interface(Protocol):
    """One model call: what the server sends goes in, deltas and at last the outcome come out.

    Order of use: `read` any number of times (or the `feed` that each interface has for its own decoded chunks),
    `drain` once, `finish` once. `finish` drains what nobody drained.
    """

    def read(self, event: str, data: bytes, ms: int = 0) -> list[Delta]:
        """Decodes and takes in one event of the stream.

        Args:
            event: the SSE event name, empty where there was none.
            data: the event's data; never the `[DONE]` marker.
            ms: milliseconds since the attempt began.

        Raises:
            UpstreamProtocol: the data cannot be read at all; the interface is as it was before.
        """
        ...

    def drain(self, ms: int = 0) -> list[Delta]:
        """All that is still held back. Nothing is read after it; a second call gives nothing."""
        ...

    def finish(self, *, error: ErrorInfo | None = None, cancelled: bool = False) -> Outcome:
        """What the call came to.

        Args:
            error: why it failed, where whoever read the stream knows; else `failure` counts.
            cancelled: somebody asked to stop.
        """
        ...

    @property
    def ended(self) -> bool:
        """The model has come to its end: a finish reason, or a terminal event, was seen."""
        ...

    @property
    def failure(self) -> UpstreamError | None:
        """The error the server reported inside the stream, if any: nothing after it counts."""
        ...
