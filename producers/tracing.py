"""The trace that a submit is part of, where the application has one: OpenTelemetry's current span.

Costs a look-up where the application does not use OpenTelemetry: nothing is imported for it.
"""

import sys
from typing import Any

from tailrace.schemas.trace_context import TraceContext


def current_traceparent() -> str | None:
    """The current span as a request carries it; None where there is none."""
    api: Any = sys.modules.get("opentelemetry.trace")
    if api is None:
        return None
    context = api.get_current_span().get_span_context()
    if not context.is_valid:
        return None
    return str(TraceContext(context.trace_id, context.span_id, int(context.trace_flags)))
