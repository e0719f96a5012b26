"""Bodies that are no event stream: a chunk on each line, or one JSON document."""

from tailrace.worker.interface.sse import Event


class LineDecoder:
    """A chunk on each line; or, where already the first line is no JSON by itself, one document over many lines."""

    __slots__ = ("_document", "_partial")

    def __init__(self) -> None:
        self._partial: list[bytes] = []
        self._document: bool | None = None  # None as long as the first line has not ended

    def feed(self, piece: bytes) -> list[Event]:
        """The lines that are whole with this piece."""
        head, newline, tail = piece.rpartition(b"\n")
        if not newline or self._document:
            self._partial.append(piece)
            return []
        self._partial.append(head)
        text = b"".join(self._partial)
        if self._document is None and (begun := text.lstrip()):
            self._document = not _is_json_line(begun.split(b"\n", 1)[0])
            if self._document:
                self._partial = [text, newline, tail]
                return []
        self._partial = [tail] if tail else []
        return [("", line) for line in text.split(b"\n") if line.strip()]

    def close(self) -> list[Event]:
        """What follows the last line end."""
        rest, self._partial = b"".join(self._partial), []
        return [("", rest)] if rest.strip() else []


def _is_json_line(line: bytes) -> bool:
    """Whether a line that begins with a bracket also ends with one, so that it is no beginning of a document."""
    line = line.rstrip()
    return line.endswith((b"}", b"]")) and len(line) > len(b"{}")
