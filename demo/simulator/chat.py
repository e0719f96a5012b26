"""The body of a Chat Completions answer: the chunks of its stream, or the one JSON object.

Pure. Shapes and the order of keys are those of OpenAI's server in 2025 and 2026. Source: API reference, "The chat
completion chunk object", and recorded bodies.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import chain
from typing import Any

import msgspec

from tailrace.demo.simulator.plan import Part, Plan, round_robin
from tailrace.demo.simulator.scenario import (
    CustomToolCall,
    ErrorEvent,
    JsonObject,
    Reasoning,
    Refusal,
    Scenario,
    ScenarioError,
    ToolCall,
    WebSearch,
)

_encode = msgspec.json.encode
_PADDING = "sW3aQx0LkTz9VbNf"  # the padding of obfuscation; only its length matters


@dataclass(frozen=True, slots=True)
class Stamp:
    """The values that the server generates for one answer. `ids` has a call id for each step."""

    id: str
    created: int
    model: str
    ids: tuple[str, ...]


def obfuscated(event: bytes) -> bytes:
    """The object with an `obfuscation` field that brings its length to a multiple of 16."""
    head = event[:-1] + b',"obfuscation":"'
    return head + _PADDING[: 16 - (len(head) + 2) % 16].encode() + b'"}'


def check(plan: Plan) -> None:
    """Rejects steps that have no form in Chat Completions.

    Raises:
        ScenarioError: there is such a step.
    """
    if any(isinstance(part.step, WebSearch) for part in plan.parts):
        raise ScenarioError("simulator scenario: web_search needs the Responses API")


class Stream:
    """Renders one answer as server-sent events."""

    def __init__(self, plan: Plan, scenario: Scenario, stamp: Stamp, options: JsonObject) -> None:
        """`options` is the request's `stream_options`."""
        self._plan, self._scenario, self._stamp = plan, scenario, stamp
        asked = options.get("include_usage") is True
        mode = scenario.usage
        self._every = mode == "every_chunk"
        self._usage_last = mode == "always" or (mode == "asked" and asked)
        self._obfuscate = options.get("include_obfuscation") is not False
        base = {"id": stamp.id, "object": "chat.completion.chunk", "created": stamp.created, "model": stamp.model,
                "service_tier": "default", "system_fingerprint": "fp_simulator"}  # fmt: skip
        self._head = _encode(base)[:-1] + b',"choices":['
        self._sent_tokens = 0

    def events(self) -> Iterator[bytes]:
        """Every event of the stream, `[DONE]` included, in order."""
        parts = self._plan.parts
        calls = [part for part in parts if isinstance(part.step, ToolCall | CustomToolCall)]
        opening = self._opening(parts, len(calls))
        yield self._event(opening)
        numbers = {id(part): number for number, part in enumerate(calls)}
        for delta, tokens in self._deltas(parts, numbers, opened="tool_calls" in opening):
            self._sent_tokens += tokens
            yield self._event(delta)
        yield self._event({}, _finish_reason(self._plan, self._scenario, bool(calls)))
        if self._usage_last:
            usage = b',"usage":' + _encode(_usage(self._plan))
            yield self._seal(self._head + b"]" + usage + b"}")
        if self._scenario.done:
            yield b"data: [DONE]\n\n"

    def error(self, fault: ErrorEvent, sent: int) -> bytes:
        """An error in the middle of the stream; `sent` is for the APIs that number their events."""
        error = {"message": fault.message, "type": fault.type, "param": None, "code": fault.code}
        return b"data: " + _encode({"error": error}) + b"\n\n"

    def _opening(self, parts: tuple[Part, ...], calls: int) -> JsonObject:
        """The first chunk: the role, and also the call's name if the answer is only one call."""
        if not parts or calls < len(parts):
            return {"role": "assistant", "content": "", "refusal": None}
        if calls > 1:
            return {"role": "assistant", "content": None}
        return {"role": "assistant", "content": None, "tool_calls": [self._call(parts[0], 0)], "refusal": None}

    def _call(self, part: Part, number: int) -> JsonObject:
        step = part.step
        assert isinstance(step, ToolCall | CustomToolCall)  # noqa: S101 -- narrows the type; callers pass calls only
        known = step.id or self._stamp.ids[number]
        if isinstance(step, CustomToolCall):
            return {"index": number, "id": known, "type": "custom", "custom": {"name": step.name, "input": ""}}
        return {"index": number, "id": known, "type": "function", "function": {"name": step.name, "arguments": ""}}

    def _deltas(
        self, parts: tuple[Part, ...], numbers: dict[int, int], *, opened: bool
    ) -> Iterator[tuple[JsonObject, int]]:
        streams = [self._part(part, numbers.get(id(part), 0), opened=opened) for part in parts]
        return round_robin(streams) if self._scenario.interleave else chain.from_iterable(streams)

    def _part(self, part: Part, number: int, *, opened: bool) -> Iterator[tuple[JsonObject, int]]:
        """The deltas of one step, each with its number of tokens; the first names a call, unless it is `opened`."""
        step = part.step
        match step:
            case ToolCall() | CustomToolCall():
                kind, field = ("function", "arguments") if isinstance(step, ToolCall) else ("custom", "input")
                if not opened:
                    yield {"tool_calls": [self._call(part, number)]}, 0
                for text in part.fragments:
                    yield {"tool_calls": [{"index": number, kind: {field: text}}]}, 1
            case _:
                field = _field(part)
                for text in part.spoken():
                    yield {field: text}, 1

    def _event(self, delta: JsonObject, finish_reason: str | None = None) -> bytes:
        choice = b'{"index":0,"delta":' + _encode(delta) + b',"logprobs":null,"finish_reason":'
        choice += (b"null" if finish_reason is None else _encode(finish_reason)) + b"}]"
        usage = b""
        if self._every:
            usage = b',"usage":' + _encode(_usage(self._plan, self._sent_tokens))
        elif self._usage_last:
            usage = b',"usage":null'
        return self._seal(self._head + choice + usage + b"}")

    def _seal(self, chunk: bytes) -> bytes:
        return b"data: " + (obfuscated(chunk) if self._obfuscate else chunk) + b"\n\n"


def _field(part: Part) -> str:
    if isinstance(part.step, Reasoning):
        return part.step.field
    return "refusal" if isinstance(part.step, Refusal) else "content"


def _finish_reason(plan: Plan, scenario: Scenario, calls: bool) -> str:
    if plan.length:
        return "length"
    return scenario.finish_reason or ("tool_calls" if calls else "stop")


def _usage(plan: Plan, output_tokens: int | None = None) -> JsonObject:
    output = plan.output_tokens if output_tokens is None else output_tokens
    return {
        "prompt_tokens": plan.input_tokens,
        "completion_tokens": output,
        "total_tokens": plan.input_tokens + output,
        "prompt_tokens_details": {"cached_tokens": 0, "audio_tokens": 0},
        "completion_tokens_details": {
            "reasoning_tokens": min(plan.reasoning_tokens, output),
            "audio_tokens": 0,
            "accepted_prediction_tokens": 0,
            "rejected_prediction_tokens": 0,
        },
    }


def _joined(parts: Iterable[Part], field: str) -> str | None:
    texts = [text for part in parts if _field(part) == field for text in part.spoken()]
    return "".join(texts) if texts else None


def whole(plan: Plan, scenario: Scenario, stamp: Stamp) -> bytes:
    """The answer as one `chat.completion` object."""
    said: list[Part] = []
    calls: list[JsonObject] = []
    for part in plan.parts:
        match part.step:
            case ToolCall() as step:
                function = {"name": step.name, "arguments": part.text}
                calls.append({"id": step.id or stamp.ids[len(calls)], "type": "function", "function": function})
            case CustomToolCall() as step:
                custom = {"name": step.name, "input": part.text}
                calls.append({"id": step.id or stamp.ids[len(calls)], "type": "custom", "custom": custom})
            case _:
                said.append(part)
    content = _joined(said, "content")
    refusal = _joined(said, "refusal")
    message: dict[str, Any] = {
        "role": "assistant",
        "content": content if content is not None or calls or refusal is not None else "",
        **({"tool_calls": calls} if calls else {}),
        "refusal": refusal,
        "annotations": [],
    }
    for field in ("reasoning_content", "reasoning"):
        if (reasoning := _joined(said, field)) is not None:
            message[field] = reasoning
    choice = {"index": 0, "message": message, "logprobs": None,
              "finish_reason": _finish_reason(plan, scenario, bool(calls))}  # fmt: skip
    answer: JsonObject = {
        "id": stamp.id,
        "object": "chat.completion",
        "created": stamp.created,
        "model": stamp.model,
        "choices": [choice],
        "service_tier": "default",
        "system_fingerprint": "fp_simulator",
    }
    if scenario.usage != "never":
        answer["usage"] = _usage(plan)
    return msgspec.json.format(_encode(answer), indent=2) + b"\n"
