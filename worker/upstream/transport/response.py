"""Bytes to one response, incrementally; sans-IO round httptools, and the only place that knows it.

Source: RFC 9112 (HTTP/1.1), 4 to 6 and 9.
"""

from typing import NamedTuple

import httpx2
from httptools import HttpParserError, HttpParserUpgrade, HttpResponseParser

MAX_QUIET_BYTES = 100 * 1024
"""So many bytes without any of a body are no head and no trailer of a response."""


class Head(NamedTuple):
    """What stands before the body.

    Attributes:
        status: 200 and above: those before the final one are passed over.
        reason: the words behind it.
        headers: names and values as they came.
    """

    status: int
    reason: bytes
    headers: list[tuple[bytes, bytes]]


class ResponseReader:
    """Takes a response in any pieces. Serves once: nothing of one response can be left for the next.

    Args:
        method: of the request: the answer to a HEAD has no body.
    """

    __slots__ = (
        "_bodiless",
        "_framed",
        "_headers",
        "_parser",
        "_quiet_bytes",
        "_reason",
        "ended",
        "head",
        "on_body",
        "pieces",
        "reusable",
    )

    def __init__(self, method: str) -> None:
        self.head: Head | None = None
        self.pieces: list[bytes] = []
        """Of the body; whoever takes them clears the list."""
        self.ended = False
        """Whether the response is whole."""
        self.reusable = False
        """Whether another may follow on the same connection."""
        self.on_body = self.pieces.append  # the parser calls it for each piece, and nothing is cheaper
        self._bodiless = method == "HEAD"
        self._framed = False
        self._headers: list[tuple[bytes, bytes]] = []
        self._reason = b""
        self._quiet_bytes = 0
        self._parser = HttpResponseParser(self)
        # Servers in the wild; nobody stands behind us who might read the same bytes in another way.
        self._parser.set_dangerous_leniencies(
            lenient_chunked_length=True, lenient_optional_cr_before_lf=True, lenient_spaces_after_chunk_size=True
        )

    def feed(self, data: bytes) -> None:
        """Takes the next bytes in.

        Raises:
            httpx2.RemoteProtocolError: they are no response. What stood before them is in `pieces`.
        """
        before = len(self.pieces)
        try:
            self._parser.feed_data(data)
        except (HttpParserError, HttpParserUpgrade) as error:
            self.reusable = False
            if not self.ended:  # otherwise they follow the response, and harm only the connection
                raise httpx2.RemoteProtocolError(f"the server's answer is not HTTP: {error}") from error
        self._quiet_bytes = self._quiet_bytes + len(data) if len(self.pieces) == before else 0
        if self._quiet_bytes > MAX_QUIET_BYTES and not self.ended:
            raise httpx2.RemoteProtocolError(f"more than {MAX_QUIET_BYTES:,} bytes of headers")

    def feed_eof(self) -> None:
        """The server sends no more.

        Raises:
            httpx2.RemoteProtocolError: something is missing.
        """
        self.reusable = False
        if self.head is None:
            raise httpx2.RemoteProtocolError("the server closed the connection without an answer")
        if self._framed and not self.ended:
            raise httpx2.RemoteProtocolError("the server closed the connection before the end of the body")
        self.ended = True

    # What the parser calls

    def on_message_begin(self) -> None:
        if self.head is not None:
            raise ValueError("nobody asked for another response")
        self._headers, self._reason = [], b""

    def on_status(self, reason: bytes) -> None:
        self._reason += reason

    def on_header(self, name: bytes, value: bytes) -> None:
        if self.head is None:  # otherwise a trailer, which nobody here reads
            self._headers.append((name, value))

    def on_headers_complete(self) -> None:
        status = self._parser.get_status_code()
        if status < 200:
            return
        self.head = Head(status, self._reason, self._headers)
        names = {name.lower() for name, _ in self._headers}
        self._framed = not names.isdisjoint((b"content-length", b"transfer-encoding"))
        self.ended = self._bodiless  # not to be told to the parser: such a connection does not serve again

    def on_message_complete(self) -> None:
        if self.head is not None and not self.ended:
            self.ended, self.reusable = True, self._parser.should_keep_alive()
