"""Decodes bytes into server-sent events, incrementally. Knows nothing of what the events contain.

Source: WHATWG HTML, "Server-sent events", 9.2.6 Interpreting an event stream. The decoder is more
lenient in four ways: an event that lacks its blank line at the end of the body is still an event; a field named `error`
(as llama.cpp's server sends its errors) is the data of an event of that name; a line that starts like JSON is data,
since no field has such a name; and data that ends an object is an event of its own if the next line starts another
object, because some servers leave out the blank lines and no JSON has two objects in a row.
"""

import re

_LINE_END = re.compile(rb"\r\n|\n|\r")
_BOM = b"\xef\xbb\xbf"
_BEGINNINGS = (b"{", b"[DONE]")
_JSON = (b"{", b"}", b"[", b"]", b'"')

Event = tuple[str, bytes]
"""The event's name, empty if it had none, and its data."""


class SSEDecoder:
    """Decodes a body, cut into any pieces. The cost of a byte does not depend on the length of the event."""

    __slots__ = ("_at_start", "_data", "_late_name", "_name", "_partial", "_skip_lf", "comments")

    def __init__(self) -> None:
        self._partial: list[bytes] = []  # pieces of a line that has not ended
        self._data: list[bytes] = []
        self._name = ""
        self._late_name = ""  # arrived after the data: of this event, or of the next if no blank line separates them
        self._skip_lf = False  # the last piece ended in a CR, which already ended a line
        self._at_start = True
        self.comments = 0
        """The number of comment lines, which a server sends to show that it is alive."""

    def feed(self, piece: bytes) -> list[Event]:
        """Returns the events that end in this piece."""
        if piece.startswith(b"data: {") and piece.endswith(b"}\n\n") and self._is_one_event(piece):
            return [("", piece[6:-2])]
        if self._skip_lf and piece:
            self._skip_lf = False
            piece = piece.removeprefix(b"\n")
        if b"\n" not in piece and b"\r" not in piece:
            if piece:
                self._partial.append(piece)
            return []
        if b"\r" in piece:
            self._skip_lf = piece.endswith(b"\r")
            lines = _LINE_END.split(piece)
        else:
            lines = piece.split(b"\n")
        if self._partial:
            self._partial.append(lines[0])
            lines[0] = b"".join(self._partial)
            self._partial = []
        if rest := lines.pop():
            self._partial.append(rest)
        return self._events(lines)

    def _is_one_event(self, piece: bytes) -> bool:
        """Whether a piece that starts and ends like an event is exactly one, with none unfinished. Nearly all are."""
        unfinished = self._partial or self._data or self._name or self._skip_lf or self._at_start
        return not unfinished and b"\r" not in piece and piece.count(b"\n") == 2

    def close(self) -> list[Event]:
        """Returns the last event, if the body ended without the blank line after it."""
        lines = [b"".join(self._partial), b""] if self._partial else [b""]
        self._partial = []
        return self._events(lines)

    def _events(self, lines: list[bytes]) -> list[Event]:
        if self._at_start and lines:
            self._at_start = False
            lines[0] = lines[0].removeprefix(_BOM)
        events: list[Event] = []
        for line in lines:
            if line.startswith(b"data:"):
                value = line[6:] if line.startswith(b" ", 5) else line[5:]
            elif line:
                value = self._field(line)
            elif self._data:
                data = self._data[0] if len(self._data) == 1 else b"\n".join(self._data)
                if data:
                    events.append((self._late_name or self._name, data))
                self._data, self._name, self._late_name = [], "", ""
                continue
            else:
                self._name = ""
                continue
            if value is not None:
                if self._data and value.startswith(_BEGINNINGS) and self._data[-1].rstrip().endswith(b"}"):
                    events.append((self._name, b"\n".join(self._data)))
                    self._data, self._name, self._late_name = [], self._late_name, ""
                self._data.append(value)
        return events

    def _field(self, line: bytes) -> bytes | None:
        """Reads a line other than `data:`; returns its data, if it has any."""
        if line.startswith(b":"):
            self.comments += 1
            return None
        if (text := line.strip()).startswith(_JSON):
            return text
        field, _, value = line.partition(b":")
        value = value.removeprefix(b" ")
        if field == b"data":
            return value
        if field in (b"event", b"error"):
            name = value.decode("utf-8", "replace") if field == b"event" else "error"
            if self._data:
                self._late_name = name
            else:
                self._name = name
        return value if field == b"error" else None
