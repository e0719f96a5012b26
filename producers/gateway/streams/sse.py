"""Entries as frames of an event stream (WHATWG HTML, "Server-sent events"). Pure: bytes in, bytes out, nothing decoded.

Knows nothing of sockets, and of an entry only that it is one JSON object with `message_type` first.
"""

CONTENT_TYPE = "text/event-stream; charset=utf-8"

HEADERS = {
    "content-type": CONTENT_TYPE,
    "cache-control": "no-store, no-transform",  # a proxy that compresses would wait for more to compress
    "x-accel-buffering": "no",  # nginx, and proxies that follow it
}
"""What an event stream is answered with, so that nobody on the way stores, compresses or holds it back."""

HEARTBEAT = b":\n\n"
"""A comment: it keeps the connection alive and moves no cursor, for it has no id."""


def frame(raw: bytes, *, name: bytes, event_id: str | None) -> bytes:
    """One frame.

    Args:
        raw: a JSON text; its bytes pass as they are, but for line ends, which JSON has only between its tokens.
        name: the event's name.
        event_id: the cursor behind this frame; None leaves the reader's cursor where it is.
    """
    if b"\n" in raw or b"\r" in raw:
        raw = b"\ndata: ".join(raw.splitlines())
    if event_id is None:
        return b"event: %b\ndata: %b\n\n" % (name, raw)
    return b"id: %b\nevent: %b\ndata: %b\n\n" % (event_id.encode(), name, raw)


def retry(after_ms: int) -> bytes:
    """How long a reader is to wait before it comes back, in milliseconds."""
    return b"retry: %d\n\n" % after_ms


def addressed(raw: bytes, request_id: str, cursor: str | None) -> bytes:
    """An entry with `request_id` and `entry_id` put first, for a stream that follows several requests."""
    entry_id = b"null" if cursor is None else b'"%b"' % cursor.encode()
    return b'{"request_id":"%b","entry_id":%b,%b' % (request_id.encode(), entry_id, raw.lstrip()[1:])
