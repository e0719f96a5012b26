"""The trace that a submit belongs to: OpenTelemetry's current span, if the application has one.

Imports nothing: an application that does not use OpenTelemetry pays for one look-up.
"""

import sys
from typing import Any

from tailrace.schemas.trace_context import TraceContext


def current_traceparent() -> str | None:
    """The current span as a `traceparent`; None if there is none."""
    api: Any = sys.modules.get("opentelemetry.trace")
    if api is None:
        return None
    context = api.get_current_span().get_span_context()
    if not context.is_valid:
        return None
    return str(TraceContext(context.trace_id, context.span_id, int(context.trace_flags)))
