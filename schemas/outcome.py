"""The outcome of a request: what is persisted when its stream ends, and the terminal entry that announces it.

Knows the forms in which an answer goes back to the model, but nothing of how an answer is read or stored.
"""

from collections.abc import Iterator, Mapping
from typing import Any, Literal, get_args

import msgspec

from tailrace.schemas.deltas import (
    FORMAT_VERSION,
    Api,
    Cancelled,
    Completed,
    ErrorInfo,
    Failed,
    Incomplete,
    ReasoningSource,
    Terminal,
    Usage,
)

UNFILLED = ""
"""A time that the script which writes the outcome fills in from the server's clock."""

Status = Literal["completed", "incomplete", "failed", "cancelled"]

ENDED: frozenset[str] = frozenset(get_args(Status))
"""The statuses of a record whose request has ended."""


class ToolCall(msgspec.Struct, frozen=True, omit_defaults=True):
    """A tool call as the model made it.

    Attributes:
        id: the provider's id; None if it gave none.
        name: the tool's name.
        arguments: the raw text, inner thoughts included; `{}` if the model gave none.
        complete: False if the call was cut off: do not run the tool with it.
        kind: `function`, or `custom`, whose arguments are free text. Calls of the provider's own tools are in the
            outcome's `items`.
        extra: other members of the call that must go back to the server, such as Gemini's `extra_content` (with the
            thought signature) and `id` and `namespace` of a call in the Responses API.
    """

    id: str | None
    name: str
    arguments: str
    complete: bool
    kind: str = "function"
    extra: dict[str, Any] | None = None


class OutputItem(msgspec.Struct, frozen=True, omit_defaults=True):
    """One item of an answer of the Responses API, in the order of the answer. Exactly one attribute is set.

    Attributes:
        item: its position in the outcome's `items`.
        call: its position in the outcome's `tool_calls`.
        message: a message of the assistant, as the server sent it.
    """

    item: int | None = None
    call: int | None = None
    message: dict[str, Any] | None = None


class Outcome(msgspec.Struct, frozen=True, tag_field="kind", tag="outcome", kw_only=True):
    """The result of a request.

    `request_id`, `attempt` and the times are set when the outcome is persisted; a replay has none. `UNFILLED` marks the
    times that a script fills in from the server's clock. They come before all text from outside, so that the script
    finds its own marks.

    Attributes:
        first_delta_at: when the attempt produced its first delta, before it was written.
        failures: how many attempts failed.
        crashes: how many workers died or hung while they ran the request.
        drains: how many workers handed the request back when they stopped.
        retry_of: the id of the dead request that this one retries.
        content: the text that was shown, including that of the assistant tool in assistant mode.
        items: items of a Responses answer that go back to the server as they are: reasoning, and the calls of the
            provider's own tools.
        notes: where the server contradicted itself, and what was chosen.
        message_extra: members of the assistant message of a Chat Completions answer that must go back with its calls,
            such as `reasoning_content` and `reasoning_details`. A `content` here replaces the one above.
        output: the items of a Responses answer in order.
    """

    v: int = FORMAT_VERSION
    status: Status
    request_id: str | None = None
    attempt: int | None = None
    submitted_at: str | None = None
    started_at: str | None = None
    first_delta_at: str | None = None
    finished_at: str | None = None
    failures: int = 0
    crashes: int = 0
    drains: int = 0
    retry_of: str | None = None
    finish_reason: str | None = None
    content: str | None = None
    refusal: str | None = None
    reasoning: str | None = None
    reasoning_source: ReasoningSource | None = None
    tool_calls: tuple[ToolCall, ...] = ()
    usage: Usage | None = None
    api: Api = "chat"
    model: str | None = None
    upstream_id: str | None = None
    upstream_sequence: int | None = None
    error: ErrorInfo | None = None
    items: tuple[dict[str, Any], ...] = ()
    notes: tuple[str, ...] = ()
    metadata: dict[str, Any] | None = None
    message_extra: dict[str, Any] | None = None
    output: tuple[OutputItem, ...] = ()

    @property
    def text(self) -> str:
        """The text for the user: the content, or the refusal if there is no content; empty if there is neither."""
        return self.content or self.refusal or ""

    def as_messages(self, results: Mapping[str, str] | None = None) -> list[dict[str, Any]]:
        """The answer in the form in which it goes back to the model, for example after a tool call.

        Append the list to the `messages` of a Chat Completions request, or to the `input` of a Responses request. It
        has all that the server must get back: call ids, signatures, namespaces and reasoning. A call that is not
        complete is left out.

        Args:
            results: the results of the tools by call id. They follow the answer as tool messages
                (`function_call_output` items in the Responses API). The id of a call whose `id` is None is `call_<n>`,
                where n is its position in `tool_calls`. Without `results` only the answer is returned.

        Returns:
            One assistant message and the tool messages, or the items of a Responses answer and the outputs; empty if
            the answer has nothing that can go back.

        Raises:
            ValueError: `results` lacks a complete call, names a call that does not exist or is not complete, or the
                server gave several calls one id.
        """
        calls = {position: call for position, call in enumerate(self.tool_calls) if call.complete}
        sent = self._input_items(calls) if self.api == "responses" else self._chat_message(calls)
        if results is None:
            return sent
        ids = {position: _call_id(position, call) for position, call in calls.items()}
        _check_results(list(ids.values()), results)
        result = _chat_result if self.api == "chat" else _output_item
        return sent + [result(call, ids[position], results[ids[position]]) for position, call in calls.items()]

    def _chat_message(self, calls: Mapping[int, ToolCall]) -> list[dict[str, Any]]:
        if not calls and not self.text:
            return []
        message: dict[str, Any] = {"role": "assistant", "content": self.content}
        if self.refusal:
            message["refusal"] = self.refusal
        if calls:
            message |= self.message_extra or {}
            message["tool_calls"] = [_chat_call(call, _call_id(position, call)) for position, call in calls.items()]
        return [message]

    def _input_items(self, calls: Mapping[int, ToolCall]) -> list[dict[str, Any]]:
        items = list(self._output_items(calls))
        while items and items[-1].get("type") == "reasoning":  # the server refuses reasoning that nothing follows
            items.pop()
        return items

    def _output_items(self, calls: Mapping[int, ToolCall]) -> Iterator[dict[str, Any]]:
        for entry in self.output:
            if entry.message is not None:
                yield dict(entry.message)
            elif entry.item is not None:
                yield dict(self.items[entry.item])
            elif entry.call is not None and entry.call in calls:
                yield _call_item(calls[entry.call], _call_id(entry.call, calls[entry.call]))


def _call_id(position: int, call: ToolCall) -> str:
    return call.id or f"call_{position}"


def _check_results(ids: list[str], results: Mapping[str, str]) -> None:
    if len(set(ids)) < len(ids):
        raise ValueError("several calls of the answer have the same id: make their tool messages yourself")
    if missing := [call_id for call_id in ids if call_id not in results]:
        raise ValueError(f"results lacks the calls {', '.join(missing)}: the model needs a result of each")
    if unknown := [call_id for call_id in results if call_id not in ids]:
        raise ValueError(f"results names calls that the answer does not have, or not complete: {', '.join(unknown)}")


def _chat_call(call: ToolCall, call_id: str) -> dict[str, Any]:
    if call.kind == "custom":
        part = {"type": "custom", "custom": {"name": call.name, "input": call.arguments}}
    else:
        part = {"type": "function", "function": {"name": call.name, "arguments": call.arguments}}
    return {**(call.extra or {}), "id": call_id, **part}


def _chat_result(call: ToolCall, call_id: str, result: str) -> dict[str, Any]:
    return {"role": "tool", "tool_call_id": call_id, "content": result}


def _call_item(call: ToolCall, call_id: str) -> dict[str, Any]:
    item = {"call_id": call_id, "name": call.name}
    if call.kind == "custom":
        return {**(call.extra or {}), "type": "custom_tool_call", **item, "input": call.arguments}
    return {**(call.extra or {}), "type": "function_call", **item, "arguments": call.arguments}


def _output_item(call: ToolCall, call_id: str, result: str) -> dict[str, Any]:
    kind = "custom_tool_call_output" if call.kind == "custom" else "function_call_output"
    return {"type": kind, "call_id": call_id, "output": result}


def terminal_of(outcome: Outcome, ms: int) -> Terminal:
    """The terminal entry for an outcome; its type is the outcome's status.

    Args:
        outcome: what is persisted in the same step.
        ms: milliseconds since the attempt began.
    """
    match outcome.status:
        case "completed":
            return Completed(ms, outcome.finish_reason, outcome.usage)
        case "incomplete":
            return Incomplete(ms, outcome.finish_reason, outcome.usage)
        case "cancelled":
            return Cancelled(ms, outcome.finish_reason, outcome.usage)
        case "failed":
            error = outcome.error or ErrorInfo("internal", "the request failed without a reason", "operator")
            return Failed(ms, error, outcome.finish_reason, outcome.usage)
