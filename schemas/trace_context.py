"""The trace of which a request is part: W3C Trace Context, `traceparent` of version 00. Pure.

Source: https://www.w3.org/TR/trace-context/#traceparent-header
"""

import re
from hashlib import sha256
from typing import NamedTuple

_FORM = re.compile(r"00-([0-9a-f]{32})-([0-9a-f]{16})-([0-9a-f]{2})\Z")
SAMPLED = 1


class TraceContext(NamedTuple):
    """A parent span. `flags` are those of the header; bit 0 means that the span is recorded."""

    trace_id: int
    span_id: int
    flags: int

    def __str__(self) -> str:
        """The header's value."""
        return f"00-{self.trace_id:032x}-{self.span_id:016x}-{self.flags:02x}"


def parse_traceparent(text: str) -> TraceContext:
    """Parses the value of a `traceparent` header.

    Raises:
        ValueError: it has another form, or an id is zero.
    """
    match = _FORM.match(text)
    if match is not None:
        found = TraceContext(*(int(part, 16) for part in match.groups()))
        if found.trace_id and found.span_id:
            return found
    raise ValueError("is not a traceparent: give 00-<32 hex digits>-<16 hex digits>-<2 hex digits>, or leave it out")


def ids_of(request_id: str) -> tuple[int, int]:
    """Trace id and span id of a request without a trace, the same in every process.

    All workers that take part in a request thus put their spans under the same one.
    """
    digest = sha256(b"tailrace " + request_id.encode()).digest()
    return int.from_bytes(digest[:16]) or 1, int.from_bytes(digest[16:24]) or 1
