"""Decodes bodies that are not an event stream: one chunk per line, or one JSON document."""

from tailrace.worker.interface.sse import Event


class JSONLinesDecoder:
    """Decodes one chunk per line or, if the first line alone is not JSON, one document over many lines."""

    __slots__ = ("_document", "_partial")

    def __init__(self) -> None:
        self._partial: list[bytes] = []
        self._document: bool | None = None  # None until the first line has ended

    def feed(self, piece: bytes) -> list[Event]:
        """Returns the lines that end in this piece."""
        head, newline, tail = piece.rpartition(b"\n")
        if not newline or self._document:
            self._partial.append(piece)
            return []
        self._partial.append(head)
        text = b"".join(self._partial)
        if self._document is None and (start := text.lstrip()):
            self._document = not _is_json_line(start.split(b"\n", 1)[0])
            if self._document:
                self._partial = [text, newline, tail]
                return []
        self._partial = [tail] if tail else []
        return [("", line) for line in text.split(b"\n") if line.strip()]

    def close(self) -> list[Event]:
        """Returns the text after the last line end."""
        rest, self._partial = b"".join(self._partial), []
        return [("", rest)] if rest.strip() else []


def _is_json_line(line: bytes) -> bool:
    """Whether a line that starts with a bracket also ends with one, so that no longer document starts here."""
    line = line.rstrip()
    return line.endswith((b"}", b"]")) and len(line) > len(b"{}")
