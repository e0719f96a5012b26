"""The event types of a Responses stream, and the data of each. Source: OpenAI API reference, "Streaming events"."""

from collections.abc import Mapping

from tailrace.worker.interface.responses.text_part import TextChannel

TEXT_EVENTS: Mapping[str, TextChannel] = {
    "response.output_text": "content",
    "response.refusal": "refusal",
    "response.reasoning_text": "thought",
    "response.reasoning": "thought",
    "response.reasoning_summary_text": "summary",
    "response.reasoning_summary": "summary",
}
"""Events `<key>.delta` and `<key>.done` carry a piece and the final value of a text."""

CALL_EVENTS: Mapping[str, str] = {
    "response.function_call_arguments": "function_call",
    "response.custom_tool_call_input": "custom_tool_call",
}
"""The same for the arguments of calls."""

PART_EVENTS: Mapping[str, TextChannel] = {
    "response.content_part": "content",
    "response.reasoning_part": "thought",
    "response.reasoning_summary_part": "summary",
}
"""Events `<key>.added` and `<key>.done` start and end a part, whose own type may be more specific."""

FAMILY_OF_CHANNEL: Mapping[TextChannel, str] = {
    "content": "message",
    "refusal": "message",
    "thought": "reasoning",
    "summary": "reasoning",
}

TERMINAL_EVENTS: Mapping[str, str] = {
    "response.completed": "completed",
    "response.done": "completed",
    "response.incomplete": "incomplete",
    "response.failed": "failed",
    "response.cancelled": "cancelled",
    "response.canceled": "cancelled",
}
"""Terminal events, and how each ends the response."""

TERMINAL_STATUSES = frozenset({"completed", "incomplete", "failed", "cancelled"})
IGNORED_EVENTS = frozenset(
    {"keepalive", "keep-alive", "ping", "heartbeat", "response.heartbeat", "response.output_text.annotation.added"}
)
"""Events without text of the model, besides those of hosted tools and audio."""


def is_of_hosted_tool(event_type: str) -> bool:
    """Whether the event is progress of a hosted tool, whose finished item has everything, or ignored audio."""
    return event_type.startswith(("response.mcp_", "response.audio", "response.compaction")) or "_call" in event_type
