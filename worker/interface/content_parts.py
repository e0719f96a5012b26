"""Extracts text, reasoning and refusal from content that is a list of parts or another JSON value.

Mistral's reasoning models send `[{"type": "thinking", "thinking": [{"type": "text", "text": ...}]}, ...]`, Databricks
`[{"type": "reasoning", "summary": [...]}, ...]`; parts without text (references, images, audio) are left out.
"""

from typing import Any, cast

from tailrace.worker.interface.lenient import as_object, as_text

_THINKING = frozenset(
    {"thinking", "reasoning", "reasoning_text", "reasoning.text", "reasoning.summary", "summary_text"}
)
_TEXT_KEYS = ("text", "content", "value", "thinking", "reasoning", "summary")
_DEPTH = 6


def content_text(content: Any) -> str | None:
    """The text for the user."""
    if content is None or isinstance(content, str):
        return content
    return as_text(content) or _join(content, thinking=False)


def content_reasoning(content: Any) -> str | None:
    """The reasoning among the parts."""
    return _join(content, thinking=True) if isinstance(content, list | dict) else None


def content_refusal(content: Any) -> str | None:
    """The refusals among the parts."""
    refusals = [as_text(fields.get("refusal")) for part in _parts(content) if (fields := as_object(part)) is not None]
    return "".join(refusal for refusal in refusals if refusal) or None


def reasoning_details_text(details: list[dict[str, Any]]) -> str:
    """The text in OpenRouter's `reasoning_details`; encrypted details have none."""
    return "".join(_inner(detail, _DEPTH) for detail in details if detail.get("type") != "reasoning.encrypted")


def _parts(content: Any) -> list[Any]:
    if isinstance(content, list):
        return cast("list[Any]", content)
    return [content] if isinstance(content, dict) else []


def _join(content: Any, *, thinking: bool) -> str | None:
    found = [_inner(part, _DEPTH) for part in _parts(content) if _is_thinking(part) is thinking]
    return "".join(found) or None


def _is_thinking(part: Any) -> bool:
    fields = as_object(part)
    return fields is not None and (as_text(fields.get("type")) in _THINKING or "thinking" in fields)


def _inner(part: Any, depth: int) -> str:
    """The text inside a part, found through nested lists and objects."""
    if isinstance(part, str):
        return part
    if not depth:
        return ""
    if isinstance(part, list):
        return "".join(_inner(element, depth - 1) for element in cast("list[Any]", part))
    fields = as_object(part) or {}
    for key in _TEXT_KEYS:
        if found := fields.get(key):
            return _inner(found, depth - 1)
    return ""
