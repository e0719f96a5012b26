"""Encodes requests. Pure."""

import httpx2


def encode_head(request: httpx2.Request) -> bytes:
    """Request line and headers, up to the blank line (RFC 9112, 3 and 5).

    Raises:
        httpx2.LocalProtocolError: a name or a value has a line end, which could inject headers.
    """
    lines = [b"%b %b HTTP/1.1" % (request.method.encode("ascii"), request.url.raw_path)]
    lines += [b"%b: %b" % header for header in request.headers.raw]
    head = b"\r\n".join(lines)
    if head.count(b"\n") != len(lines) - 1 or head.count(b"\r") != len(lines) - 1 or b"\0" in head:
        raise httpx2.LocalProtocolError("a header of the request has a line end or a null byte in it")
    return head + b"\r\n\r\n"


def encode_chunk(part: bytes) -> bytes:
    """A chunk of a body of unknown length (RFC 9112, 7.1); an empty one ends the body."""
    return b"%x\r\n%b\r\n" % (len(part), part)
