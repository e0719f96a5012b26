"""Maps the finish reasons of all providers to how the model ended. An unlisted reason means a normal end.

Sources: the API references of OpenAI, Mistral, DeepSeek, OpenRouter, Gemini, Anthropic, Zhipu and vLLM.
"""

from collections.abc import Mapping
from enum import Enum, auto


class Ending(Enum):
    """How the model ended: normally, cut off by a limit or a filter, or with an error."""

    WHOLE = auto()
    CUT_OFF = auto()
    FAILED = auto()


_ENDINGS: Mapping[str, Ending] = {
    # the length limit, of the answer or of the context
    "length": Ending.CUT_OFF,
    "max_tokens": Ending.CUT_OFF,
    "max_output_tokens": Ending.CUT_OFF,
    "max_length": Ending.CUT_OFF,
    "model_length": Ending.CUT_OFF,
    "model_context_window_exceeded": Ending.CUT_OFF,
    # a filter
    "content_filter": Ending.CUT_OFF,
    "content_filtered": Ending.CUT_OFF,
    "safety": Ending.CUT_OFF,
    "recitation": Ending.CUT_OFF,
    "blocklist": Ending.CUT_OFF,
    "prohibited_content": Ending.CUT_OFF,
    "spii": Ending.CUT_OFF,
    "image_safety": Ending.CUT_OFF,
    "sensitive": Ending.CUT_OFF,
    "guardrail_intervened": Ending.CUT_OFF,
    # Gemini refused a call of its own model. The call is missing from the answer, but this is an end, not an error.
    "malformed_function_call": Ending.CUT_OFF,
    "unexpected_tool_call": Ending.CUT_OFF,
    "function_call_filter": Ending.CUT_OFF,
    # the server stopped in the middle
    "abort": Ending.CUT_OFF,
    "cancelled": Ending.CUT_OFF,
    "insufficient_system_resource": Ending.CUT_OFF,
    "incomplete": Ending.CUT_OFF,
    "time_limit": Ending.CUT_OFF,
    # the server could not continue
    "error": Ending.FAILED,
    "network_error": Ending.FAILED,
}

_NOT_YET = frozenset({"", "null", "none"})
"""Words that some servers send while there is no finish reason yet."""


def is_finish_reason(word: str) -> bool:
    """Whether the word means that the model has ended."""
    return word.lower() not in _NOT_YET


def ending_of(reason: str) -> Ending:
    """How the model ended. Gemini adds details after a colon: `content_filter: PROHIBITED_CONTENT`."""
    word = reason.lower().partition(":")[0].strip().replace("-", "_")
    return _ENDINGS.get(word, Ending.WHOLE)
