"""Reads a request to the simulator, of either API, or rejects it.

Pure. Owns the conversion of both request bodies into one `Asked`; accepts unknown fields, since vendors add their own,
and is as strict as OpenAI where a client could be wrong about the protocol.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import zip_longest
from typing import Any, cast

import msgspec

from tailrace.demo.simulator.errors import ApiError, empty_array, invalid_type, missing_parameter, not_json
from tailrace.demo.simulator.scenario import JsonObject

_OUTPUTS = ("function_call_output", "custom_tool_call_output")


@dataclass(frozen=True, slots=True)
class Asked:
    """One request. `tools` and `tool_choice` are unchanged; `answers_tool`: the request has a tool's result."""

    body: JsonObject
    model: str
    stream: bool
    user_text: str
    answers_tool: str | None
    tools: tuple[JsonObject, ...]
    max_tokens: int | None
    input_tokens: int


def read_body(raw: bytes) -> JsonObject:
    """The body as a JSON object, with the model checked.

    Raises:
        ApiError: 400, in OpenAI's words as far as clients check them.
    """
    try:
        body = msgspec.json.decode(raw)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise not_json() from error
    if not isinstance(body, dict):
        raise not_json()
    body = cast(JsonObject, body)
    model = body.get("model")
    if model is None or model == "":
        raise ApiError(400, "you must provide a model parameter")
    if not isinstance(model, str):
        raise invalid_type("model", "a string", model)
    return body


def text_of(content: Any) -> str:
    """The text in a message's content, given as a string or as parts."""
    if isinstance(content, str):
        return content
    if isinstance(content, list):
        parts = [cast(JsonObject, part) for part in cast(list[Any], content) if isinstance(part, dict)]
        return "".join(part["text"] for part in parts if isinstance(part.get("text"), str))
    return ""


def _objects(value: Any, param: str) -> list[JsonObject]:
    if not isinstance(value, list):
        raise invalid_type(param, "an array of objects", value)
    items = cast(list[Any], value)
    for at, item in enumerate(items):
        if not isinstance(item, dict):
            raise invalid_type(f"{param}[{at}]", "an object", item)
    return cast(list[JsonObject], items)


def _limit(body: JsonObject, names: Sequence[str]) -> int | None:
    for name in names:
        limit = body.get(name)
        if limit is None:
            continue
        if not isinstance(limit, int) or isinstance(limit, bool):
            raise invalid_type(name, "an integer", limit)
        if limit < 1:
            raise ApiError(400, f"Invalid '{name}': integer below minimum value. Expected a value >= 1.",
                           param=name, code="integer_below_min_value")  # fmt: skip
        return limit
    return None


def _last_user_text(messages: Iterable[JsonObject]) -> str:
    said = ""
    for message in messages:
        if message.get("role") == "user":
            said = text_of(message.get("content"))
    return said


def _check_tool_messages(messages: list[JsonObject]) -> None:
    """Every tool message answers a call of the assistant message before it, and every call is answered."""
    open_calls: set[str] = set()
    after_calls = False
    for at, message in enumerate(messages):
        role = message.get("role")
        if role == "tool":
            if not after_calls:
                raise ApiError(400, "Invalid parameter: messages with role 'tool' must be a response to a preceding "
                               "message with 'tool_calls'.", param=f"messages.[{at}].role")  # fmt: skip
            open_calls.discard(str(message.get("tool_call_id")))
            continue
        if open_calls:
            break
        calls: Any = message.get("tool_calls") if role == "assistant" else None
        open_calls = {str(call.get("id")) for call in _objects(calls or [], f"messages[{at}].tool_calls")}
        after_calls = bool(open_calls)
    if open_calls:
        raise ApiError(400, "An assistant message with 'tool_calls' must be followed by tool messages responding to "
                       f"each 'tool_call_id'. No response for: {', '.join(sorted(open_calls))}",
                       param="messages")  # fmt: skip


def read_chat(body: JsonObject) -> Asked:
    """A request to `/v1/chat/completions`.

    Raises:
        ApiError: 400.
    """
    if "messages" not in body:
        raise missing_parameter("messages")
    messages = _objects(body["messages"], "messages")
    if not messages:
        raise empty_array("messages")
    for at, message in enumerate(messages):
        if message.get("role") not in ("system", "developer", "user", "assistant", "tool", "function"):
            raise ApiError(400, f"Invalid value: {message.get('role')!r}. Supported values are: 'system', 'assistant', "
                           "'user', 'function', 'tool', and 'developer'.",
                           param=f"messages[{at}].role", code="invalid_value")  # fmt: skip
    _check_tool_messages(messages)
    stream = body.get("stream") is True
    options: Any = body.get("stream_options")
    if options is not None and not isinstance(options, dict):
        raise invalid_type("stream_options", "an object", options)
    if options is not None and not stream:
        raise ApiError(400, "The 'stream_options' parameter is only allowed when 'stream' is enabled.",
                       param="stream_options")  # fmt: skip
    if body.get("n") not in (None, 1):
        raise ApiError(400, "The simulator gives one choice: 'n' must be 1.", param="n", code="invalid_value")
    last = messages[-1]
    return Asked(
        body=body,
        model=body["model"],
        stream=stream,
        user_text=_last_user_text(messages),
        answers_tool=text_of(last.get("content")) if last.get("role") == "tool" else None,
        tools=tuple(_objects(body.get("tools") or [], "tools")),
        max_tokens=_limit(body, ("max_completion_tokens", "max_tokens")),
        input_tokens=len(msgspec.json.encode(messages)) // 4,
    )


def _check_output_items(items: list[JsonObject], *, starts_here: bool) -> None:
    """Every output belongs to a call in the input, every call has an output, and something follows each reasoning item.

    Args:
        items: the input.
        starts_here: whether the input is the whole conversation, so that it has the calls of its outputs.
    """
    calls = [str(item.get("call_id")) for item in items if item.get("type") in ("function_call", "custom_tool_call")]
    outputs = [str(item.get("call_id")) for item in items if item.get("type") in _OUTPUTS]
    for call_id in outputs:
        if starts_here and call_id not in calls:
            raise ApiError(400, f"No tool call found for function call output with call_id {call_id}.", param="input")
    for call_id in calls:
        if call_id not in outputs:
            raise ApiError(400, f"No tool output found for function call {call_id}.", param="input")
    for item, following in zip_longest(items, items[1:], fillvalue={"role": "user"}):
        if item.get("type") == "reasoning" and (following.get("type") in _OUTPUTS or _is_of_user(following)):
            raise ApiError(400, f"Item '{item.get('id')}' of type 'reasoning' was provided without its required "
                           "following item.", param="input")  # fmt: skip


def _is_of_user(item: JsonObject) -> bool:
    return item.get("role", "assistant") != "assistant"


def read_responses(body: JsonObject) -> Asked:
    """A request to `/v1/responses`.

    Raises:
        ApiError: 400.
    """
    given: Any = body.get("input")
    if given is None and body.get("prompt") is None and body.get("previous_response_id") is None:
        raise missing_parameter("input")
    items: list[JsonObject] = (
        [{"role": "user", "content": given}] if isinstance(given, str) else _objects(given or [], "input")
    )
    goes_on = body.get("previous_response_id") is not None or body.get("conversation") is not None
    _check_output_items(items, starts_here=not goes_on)
    last: JsonObject = items[-1] if items else {}
    result = last.get("output") if last.get("type") in _OUTPUTS else None
    return Asked(
        body=body,
        model=body["model"],
        stream=body.get("stream") is True,
        user_text=_last_user_text(items),
        answers_tool=None if result is None else text_of(result),
        tools=tuple(_objects(body.get("tools") or [], "tools")),
        max_tokens=_limit(body, ("max_output_tokens",)),
        input_tokens=len(msgspec.json.encode(items)) // 4,
    )
