"""The protocol that the interfaces of both APIs implement, for the code that drives them."""

from typing import Protocol

from tailrace.schemas.deltas import Delta, ErrorInfo
from tailrace.schemas.errors import UpstreamError
from tailrace.schemas.outcome import Outcome
from tailrace.worker.interface.stream_notes import StreamNotes


class StreamInterface(Protocol):
    """Turns the stream of one model call into deltas and, at the end, the outcome.

    Order of use: `read` any number of times (or `feed`, which each interface has for its own decoded chunks), `drain`
    once, `finish` once. `finish` drains if the caller did not.
    """

    def read(self, event: str, data: bytes, ms: int = 0) -> list[Delta]:
        """Decodes one event of the stream and returns its deltas.

        Args:
            event: the SSE event name, empty if there was none.
            data: the event's data; never the `[DONE]` marker.
            ms: milliseconds since the attempt began.

        Raises:
            UpstreamProtocol: the data cannot be decoded; the interface is unchanged.
        """
        ...

    def drain(self, ms: int = 0) -> list[Delta]:
        """Returns everything that is still held back. Nothing may be read afterwards; a second call returns nothing."""
        ...

    def finish(self, *, error: ErrorInfo | None = None, cancelled: bool = False) -> Outcome:
        """Returns the outcome of the call.

        Args:
            error: why the call failed, if the caller knows; otherwise `failure` counts.
            cancelled: whether the request was cancelled.
        """
        ...

    @property
    def ended(self) -> bool:
        """Whether the model has ended: a finish reason or a terminal event was seen."""
        ...

    @property
    def failure(self) -> UpstreamError | None:
        """The error that the server reported inside the stream, if any. Nothing after it counts."""
        ...

    @property
    def notes(self) -> StreamNotes:
        """Contradictions of the server; they become the outcome's notes."""
        ...
