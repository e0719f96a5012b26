"""One answer of the Responses API: its events, and its state after any number of them.

Pure. Shapes are those of OpenAI's server in 2025 and 2026. Source: API reference, "The response object" and
"Streaming events", and recorded bodies.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from itertools import chain
from typing import Any, cast

import msgspec

from tailrace.demo.simulator.chat import obfuscated
from tailrace.demo.simulator.items import Item, item_prefix
from tailrace.demo.simulator.plan import Plan, round_robin
from tailrace.demo.simulator.request import Asked
from tailrace.demo.simulator.scenario import ErrorEvent, JsonObject, Scenario

_encode = msgspec.json.encode

# Kinds of delta that OpenAI pads to hide their length; refusals and custom input have no padding.
_OBFUSCATED = frozenset(
    {
        "response.output_text.delta",
        "response.function_call_arguments.delta",
        "response.reasoning_summary_text.delta",
    }
)


class Answer:
    """One answer. Its events can be read any number of times and are always the same.

    Args:
        made_up: makes an identifier from a prefix and a number of characters.
        created: the time of the request, in seconds since 1970.
    """

    def __init__(
        self, asked: Asked, plan: Plan, scenario: Scenario, made_up: Callable[[str, int], str], created: int
    ) -> None:
        body = asked.body
        self.id = made_up("resp_", 48)
        self.background = body.get("background") is True
        self._plan, self._scenario = plan, scenario
        include = cast(list[Any], body.get("include") or [])
        sealed = "reasoning.encrypted_content" in include
        self._items = [
            Item(part, index, (made_up(item_prefix(part.step), 48), made_up("call_", 24)), encrypted=sealed)
            for index, part in enumerate(plan.parts)
        ]
        options = cast(JsonObject, body.get("stream_options") or {})
        self._obfuscate = options.get("include_obfuscation") is not False
        self._base = _base(self.id, asked, created, self.background)

    def objects(self) -> Iterator[JsonObject]:
        """Every event as an object, `sequence_number` included."""
        for number, event in enumerate(self._unnumbered()):
            yield {"type": event.pop("type"), "sequence_number": number, **event}

    def events(self) -> Iterator[bytes]:
        """Every event as it is sent."""
        return map(self.event, self.objects())

    def event(self, event: JsonObject) -> bytes:
        """One event as it is sent."""
        kind = event["type"]
        encoded = _encode(event)
        if self._obfuscate and kind in _OBFUSCATED:
            encoded = obfuscated(encoded)
        return b"event: %b\ndata: %b\n\n" % (kind.encode(), encoded)

    def error(self, fault: ErrorEvent, sent: int) -> bytes:
        """An error event, and the failure that OpenAI sends after it; `sent` is the number of the first of them."""
        error = {"type": fault.type, "code": fault.code, "message": fault.message, "param": None}
        failed = self.now("failed", error={"code": fault.code or "server_error", "message": fault.message})
        return self.event({"type": "error", "sequence_number": sent, "error": error}) + self.event(
            {"type": "response.failed", "sequence_number": sent + 1, "response": failed}
        )

    def now(self, status: str, **more: Any) -> JsonObject:
        """The current response, with this status."""
        return {**self._base, "status": status, **more}

    def after(self, seen: list[JsonObject]) -> JsonObject:
        """The response after these events."""
        output: list[JsonObject] = []
        status = "queued" if self.background else "in_progress"
        for event in seen:
            match event["type"]:
                case "response.in_progress":
                    status = "in_progress"
                case "response.output_item.done":
                    output.append(event["item"])
                case "response.completed" | "response.incomplete" | "response.failed":
                    return event["response"]
                case _:
                    continue
        return self.now(status, output=output)

    def final(self) -> JsonObject:
        """The response at its end."""
        plan, reason = self._plan, self._scenario.finish_reason
        output = [item.done() for item in self._items]
        usage: JsonObject | None = None
        if self._scenario.usage != "never":
            usage = {
                "input_tokens": plan.input_tokens,
                "input_tokens_details": {"cached_tokens": 0},
                "output_tokens": plan.output_tokens,
                "output_tokens_details": {"reasoning_tokens": plan.reasoning_tokens},
                "total_tokens": plan.input_tokens + plan.output_tokens,
            }
        why = "max_output_tokens" if plan.length else "content_filter" if reason == "content_filter" else None
        if why is not None:
            return self.now("incomplete", incomplete_details={"reason": why}, output=output, usage=usage)
        if reason == "failed":
            error = {"code": "server_error", "message": "The server had an error while it processed the request."}
            return self.now("failed", error=error, output=output, usage=usage)
        ended = self._base["created_at"]
        return self.now("completed", completed_at=ended, service_tier="default", output=output, usage=usage)

    def _unnumbered(self) -> Iterator[JsonObject]:
        if self.background:
            yield {"type": "response.created", "response": self.now("queued")}
            yield {"type": "response.queued", "response": self.now("queued")}
        else:
            yield {"type": "response.created", "response": self.now("in_progress")}
        yield {"type": "response.in_progress", "response": self.now("in_progress")}
        items = [item.events() for item in self._items]
        yield from round_robin(items) if self._scenario.interleave else chain.from_iterable(items)
        final = self.final()
        yield {"type": f"response.{final['status']}", "response": final}


def _base(id: str, asked: Asked, created: int, background: bool) -> JsonObject:
    body = asked.body
    reasoning = cast(JsonObject, body.get("reasoning") or {})
    return {
        "id": id,
        "object": "response",
        "created_at": created,
        "status": "in_progress",
        "background": background,
        "completed_at": None,
        "error": None,
        "frequency_penalty": 0.0,
        "incomplete_details": None,
        "instructions": body.get("instructions"),
        "max_output_tokens": asked.max_tokens,
        "max_tool_calls": body.get("max_tool_calls"),
        "model": asked.model,
        "output": [],
        "parallel_tool_calls": body.get("parallel_tool_calls", True),
        "presence_penalty": 0.0,
        "previous_response_id": body.get("previous_response_id"),
        "prompt_cache_key": body.get("prompt_cache_key"),
        "reasoning": {"effort": reasoning.get("effort"), "summary": reasoning.get("summary")},
        "safety_identifier": body.get("safety_identifier"),
        "service_tier": body.get("service_tier", "auto"),
        "store": body.get("store") is not False,
        "temperature": body.get("temperature", 1.0),
        "text": body.get("text") or {"format": {"type": "text"}, "verbosity": "medium"},
        "tool_choice": body.get("tool_choice", "auto"),
        "tools": list(asked.tools),
        "top_logprobs": 0,
        "top_p": body.get("top_p", 1.0),
        "truncation": body.get("truncation", "disabled"),
        "usage": None,
        "user": body.get("user"),
        "metadata": body.get("metadata") or {},
    }
