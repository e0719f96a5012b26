"""Log entries as frames of an event stream (WHATWG HTML, "Server-sent events"). Pure: bytes in, bytes out.

Knows nothing of sockets, and of an entry only that it is one JSON object with `message_type` first; decodes nothing.
"""

CONTENT_TYPE = "text/event-stream; charset=utf-8"

HEADERS = {
    "content-type": CONTENT_TYPE,
    "cache-control": "no-store, no-transform",  # a proxy that compresses would buffer frames
    "x-accel-buffering": "no",  # nginx, and proxies that follow its example
}
"""Response headers that keep proxies from storing, compressing or buffering an event stream."""

HEARTBEAT = b":\n\n"
"""A comment. It keeps the connection open and, having no id, does not move the reader's cursor."""


def frame(raw: bytes, *, name: bytes, event_id: str | None) -> bytes:
    """One frame.

    Args:
        raw: a JSON text. Its bytes are passed on unchanged except for line ends, which JSON allows only between tokens.
        name: the event's name.
        event_id: the reader's cursor after this frame; None leaves the cursor unchanged.
    """
    if b"\n" in raw or b"\r" in raw:
        raw = b"\ndata: ".join(raw.splitlines())
    if event_id is None:
        return b"event: %b\ndata: %b\n\n" % (name, raw)
    return b"id: %b\nevent: %b\ndata: %b\n\n" % (event_id.encode(), name, raw)


def retry(after_ms: int) -> bytes:
    """The frame that sets how long a reader waits before it reconnects, in milliseconds."""
    return b"retry: %d\n\n" % after_ms


def with_request_id(raw: bytes, request_id: str, cursor: str | None) -> bytes:
    """An entry with `request_id` and `entry_id` as its first members, for a stream over several requests."""
    entry_id = b"null" if cursor is None else b'"%b"' % cursor.encode()
    return b'{"request_id":"%b","entry_id":%b,%b' % (request_id.encode(), entry_id, raw.lstrip()[1:])
