"""Decodes a response body into deltas. The worker and `tailrace replay` both use it.

Owns the `[DONE]` marker, truncation, and bodies that are not an event stream (an HTML page, a JSON error, a whole
answer that was not streamed, chunks as JSON lines). Knows nothing of HTTP or time.
"""

import re
from typing import Literal

import msgspec

from tailrace.schemas.deltas import Api, Delta, ErrorInfo
from tailrace.schemas.errors import UpstreamError, UpstreamProtocol
from tailrace.schemas.interface_options import InterfaceOptions
from tailrace.schemas.outcome import Outcome
from tailrace.worker.interface.json_lines import JSONLinesDecoder
from tailrace.worker.interface.sse import Event, SSEDecoder
from tailrace.worker.interface.stream_interface import StreamInterface

Form = Literal["sse", "jsonl"]

MAX_EVENT_BYTES = 64 * 1024 * 1024
"""A larger event is refused: no model sends one."""

_DONE = b"done"
_WORDS = frozenset({_DONE, b"ping", b"keep-alive", b"keepalive", b"heartbeat"})
"""Data that is not JSON but has a meaning, in upper or lower case, in brackets, in quotes or bare."""

_AROUND_WORDS = b' \t\r\n"[]'
_WORD_BYTES = 16
_BOM = b"\xef\xbb\xbf"
_SHOWN_CHARACTERS = 200
_SHOWN_BYTES = 4 * _SHOWN_CHARACTERS
_PAGE_BYTES = 4096
_array = msgspec.json.Decoder(list[msgspec.Raw])
_TAG = re.compile(r"<(script|style)\b.*?</\1>|<[^>]*(?:>|\Z)", re.DOTALL | re.IGNORECASE)


class StreamDecoder:
    """Decodes one response body, cut into any pieces.

    Args:
        api: that of the request.
        options: those of the request.
        form: `sse`, or `jsonl` for one chunk per line. A body that starts with `{` or `[` is read as lines in any case.
    """

    def __init__(self, api: Api, options: InterfaceOptions, form: Form = "sse") -> None:
        self.done = False
        """Whether the answer has ended, so that reading can stop."""
        self.failure: UpstreamError | None = None
        """The error, if any; later bytes are ignored."""
        self._interface = _make_interface(api, options)
        self._events = SSEDecoder()
        self._lines: JSONLinesDecoder | None = JSONLinesDecoder() if form == "jsonl" else None
        self._head = b""  # the start of the body, until its form is recognized
        self._recognized = False
        self._size = 0  # bytes since the last event
        self._closed = False
        self._ends_with_event = api == "responses"  # chat has usage after the end, and [DONE]
        self._read_any = False
        self._beginning = b""

    @property
    def interface(self) -> StreamInterface:
        """The interface that the events are fed into."""
        return self._interface

    def feed(self, body: bytes, ms: int = 0) -> list[Delta]:
        """Returns the deltas of the next piece of the body. Never raises: see `failure`.

        Args:
            body: the piece, cut at any byte.
            ms: milliseconds since the attempt began.
        """
        if self.done or self.failure is not None:
            return []
        if not self._recognized:
            body = self._recognize(body)
        elif not self._read_any and len(self._beginning) < _SHOWN_BYTES:
            self._beginning += body[:_SHOWN_BYTES]
        events = self._events.feed(body) if self._lines is None else self._lines.feed(body)
        self._size = self._size + len(body) if not events else 0
        if self._size > MAX_EVENT_BYTES:
            self._set_failure(f"an event of the stream has more than {MAX_EVENT_BYTES:,} bytes")
        return self._read(events, ms)

    def close(self, ms: int = 0) -> list[Delta]:
        """Returns everything that is still held back and detects truncation. Nothing is read afterwards."""
        if self._closed:
            return []
        self._closed = True
        deltas: list[Delta] = []
        if not self.done and self.failure is None:
            deltas = self._read(self._last_events(), ms, at_end=True)
        deltas += self._interface.drain(ms)
        if self.failure is None:
            self.failure = self._interface.failure
        if self.failure is None and not self.done and not self._interface.ended:
            self.failure = self._truncation()
        return deltas

    def finish(self, error: ErrorInfo | None = None, cancelled: bool = False) -> Outcome:
        """Returns the outcome; `failure` counts if no error is given."""
        if error is None and self.failure is not None:
            error = ErrorInfo(self.failure.code, str(self.failure), self.failure.whose)
        return self._interface.finish(error=error, cancelled=cancelled)

    def _read(self, events: list[Event], ms: int, *, at_end: bool = False) -> list[Delta]:
        deltas: list[Delta] = []
        for name, data in events:
            deltas += self._read_event(name, data, ms, at_end)
            if self.done or self.failure is not None:
                break
        return deltas

    def _read_event(self, name: str, data: bytes, ms: int, at_end: bool) -> list[Delta]:
        if len(data) < _WORD_BYTES and (word := data.strip(_AROUND_WORDS).lower()) in _WORDS:
            self.done = word == _DONE
            return []
        if data.startswith(b"[") and (elements := _objects(data)):
            return self._read([(name, element) for element in elements], ms)
        try:
            deltas = self._interface.read(name, data, ms)
        except UpstreamProtocol as error:
            if self._interface.ended:
                self._interface.notes.add_note("an event after the end of the answer is not JSON and was skipped")
            elif not at_end:  # at the end, half an event means truncation
                self.failure = error
            return []
        self._read_any = True
        if self._interface.failure is not None:
            self.failure = self._interface.failure
        elif self._ends_with_event and self._interface.ended:
            self.done = True
        return deltas

    def _recognize(self, body: bytes) -> bytes:
        """Determines the form of the body from its start; returns the bytes to decode now."""
        self._head += body
        text = self._head.removeprefix(_BOM).lstrip()
        is_page = text.startswith(b"<")
        if not text or _BOM.startswith(self._head) or (is_page and len(text) < _PAGE_BYTES):
            return b""
        head, self._head, self._recognized = self._head, b"", True
        self._beginning = text[:_SHOWN_BYTES]
        if is_page:
            self._set_failure(_describe_page(text))
            return b""
        if text[:1] in b"{[" and self._lines is None:
            self._lines = JSONLinesDecoder()
        return head if self._lines is None else head.removeprefix(_BOM)

    def _last_events(self) -> list[Event]:
        if self._head.lstrip().startswith(b"<"):
            self._set_failure(_describe_page(self._head))
            return []
        if self._lines is not None:
            return self._lines.close()
        return self._events.close()

    def _truncation(self) -> UpstreamProtocol:
        """The error for a body without an end: it was cut off, or it never was a stream."""
        is_stream = self._read_any or self._events.comments or self._beginning.startswith((b"data", b"event"))
        if is_stream or not self._beginning:
            reason = "the body ended before the answer did" if self._beginning else "the body is empty"
            return UpstreamProtocol(reason, code="upstream_truncated")
        shown = self._beginning[:_SHOWN_BYTES].decode("utf-8", "replace")[:_SHOWN_CHARACTERS]
        return UpstreamProtocol(f"the body is not an event stream; it begins with {shown!r}", code="upstream_malformed")

    def _set_failure(self, message: str) -> None:
        if self.failure is None:
            self.failure = UpstreamProtocol(message, code="upstream_malformed")


def _objects(data: bytes) -> list[bytes]:
    """The objects of a JSON array; empty if the data is not an array or has other elements."""
    try:
        elements = [bytes(element) for element in _array.decode(data)]
    except (msgspec.MsgspecError, ValueError, RecursionError):
        return []
    return elements if all(element.startswith(b"{") for element in elements) else []


def _describe_page(page: bytes) -> str:
    """An error message with the text of an HTML page, without its markup."""
    text = " ".join(_TAG.sub(" ", page[:_PAGE_BYTES].decode("utf-8", "replace")).split())
    return f"the body is a page, not an event stream: {text[:_SHOWN_CHARACTERS]!r}"


def _make_interface(api: Api, options: InterfaceOptions) -> StreamInterface:
    if api == "responses":
        from tailrace.worker.interface.responses.responses_interface import ResponsesInterface

        return ResponsesInterface(options)
    from tailrace.worker.interface.chat.chat_interface import ChatInterface

    return ChatInterface(options)
