"""A request's bytes. Pure."""

import httpx2


def head_of(request: httpx2.Request) -> bytes:
    """Request line and headers, to the blank line (RFC 9112, 3 and 5).

    Raises:
        httpx2.LocalProtocolError: a name or a value would end its line, and so could say more than it should.
    """
    lines = [b"%b %b HTTP/1.1" % (request.method.encode("ascii"), request.url.raw_path)]
    lines += [b"%b: %b" % header for header in request.headers.raw]
    head = b"\r\n".join(lines)
    if head.count(b"\n") != len(lines) - 1 or head.count(b"\r") != len(lines) - 1 or b"\0" in head:
        raise httpx2.LocalProtocolError("a header of the request has a line end or a null byte in it")
    return head + b"\r\n\r\n"


def chunk_of(part: bytes) -> bytes:
    """A part of a body whose length nobody knows (RFC 9112, 7.1); an empty one ends the body."""
    return b"%x\r\n%b\r\n" % (len(part), part)
