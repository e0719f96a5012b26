"""Parses one response incrementally. Sans-IO, and the only module that uses httptools.

Source: RFC 9112 (HTTP/1.1), 4 to 6 and 9.
"""

from typing import NamedTuple

import httpx2
from httptools import HttpParserError, HttpParserUpgrade, HttpResponseParser

MAX_HEADER_BYTES = 100 * 1024
"""More bytes than this without a body are neither the head nor the trailers of a response."""


class ResponseHead(NamedTuple):
    """Status and headers of a response.

    Attributes:
        status: the final status, 200 or above; interim responses are skipped.
        reason: the reason phrase.
        headers: names and values as received.
    """

    status: int
    reason: bytes
    headers: list[tuple[bytes, bytes]]


class ResponseParser:
    """Parses one response, cut into any pieces. Each response has its own, so that nothing is left for the next one.

    Args:
        method: the request's method: a response to HEAD has no body.
    """

    __slots__ = (
        "_bodiless",
        "_framed",
        "_header_bytes",
        "_headers",
        "_parser",
        "_reason",
        "ended",
        "head",
        "on_body",
        "pieces",
        "reusable",
    )

    def __init__(self, method: str) -> None:
        self.head: ResponseHead | None = None
        self.pieces: list[bytes] = []
        """Pieces of the body; the reader clears the list when it takes them."""
        self.ended = False
        """Whether the whole response has arrived."""
        self.reusable = False
        """Whether the connection can serve another request."""
        self.on_body = self.pieces.append  # the parser calls it for each piece; nothing is cheaper
        self._bodiless = method == "HEAD"
        self._framed = False
        self._headers: list[tuple[bytes, bytes]] = []
        self._reason = b""
        self._header_bytes = 0
        self._parser = HttpResponseParser(self)
        # Some servers need these. They are safe here, since no other program parses the same bytes after us.
        self._parser.set_dangerous_leniencies(
            lenient_chunked_length=True, lenient_optional_cr_before_lf=True, lenient_spaces_after_chunk_size=True
        )

    def feed(self, data: bytes) -> None:
        """Parses the next bytes.

        Raises:
            httpx2.RemoteProtocolError: they are not a response. The pieces before them are in `pieces`.
        """
        before = len(self.pieces)
        try:
            self._parser.feed_data(data)
        except (HttpParserError, HttpParserUpgrade) as error:
            self.reusable = False
            if not self.ended:  # otherwise they follow the response, and only the connection is unusable
                raise httpx2.RemoteProtocolError(f"the server's answer is not HTTP: {error}") from error
        self._header_bytes = self._header_bytes + len(data) if len(self.pieces) == before else 0
        if self._header_bytes > MAX_HEADER_BYTES and not self.ended:
            raise httpx2.RemoteProtocolError(f"more than {MAX_HEADER_BYTES:,} bytes of headers")

    def feed_eof(self) -> None:
        """Handles the end of the connection.

        Raises:
            httpx2.RemoteProtocolError: the response is incomplete.
        """
        self.reusable = False
        if self.head is None:
            raise httpx2.RemoteProtocolError("the server closed the connection without a response")
        if self._framed and not self.ended:
            raise httpx2.RemoteProtocolError("the server closed the connection before the end of the body")
        self.ended = True

    # Callbacks of the parser

    def on_message_begin(self) -> None:
        if self.head is not None:
            raise ValueError("a second response arrived for one request")
        self._headers, self._reason = [], b""

    def on_status(self, reason: bytes) -> None:
        self._reason += reason

    def on_header(self, name: bytes, value: bytes) -> None:
        if self.head is None:  # otherwise it is a trailer, which is ignored
            self._headers.append((name, value))

    def on_headers_complete(self) -> None:
        status = self._parser.get_status_code()
        if status < 200:
            return
        self.head = ResponseHead(status, self._reason, self._headers)
        names = {name.lower() for name, _ in self._headers}
        self._framed = not names.isdisjoint((b"content-length", b"transfer-encoding"))
        self.ended = self._bodiless  # the parser does not know this, so that such a connection is not used again

    def on_message_complete(self) -> None:
        if self.head is not None and not self.ended:
            self.ended, self.reusable = True, self._parser.should_keep_alive()
