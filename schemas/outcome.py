"""The outcome: what is persisted when a stream ends, and the terminal entry that announces it."""

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
"""A time that the script which writes it fills in by the server's clock."""

Status = Literal["completed", "incomplete", "failed", "cancelled"]

ENDED: frozenset[str] = frozenset(get_args(Status))
"""What a record's status is once its request has ended."""


class ToolCall(msgspec.Struct, frozen=True, omit_defaults=True):
    """A tool call as the model made it. `arguments` is the raw text, inner thoughts included, `{}` if it gave none.

    `complete` is False where the call was cut off: do not run the tool with it.
    `kind` is `function`, or `custom` (arguments are free text). What hosted tools did stands in the outcome's `items`.
    """

    id: str | None
    name: str
    arguments: str
    complete: bool
    kind: str = "function"


class Outcome(msgspec.Struct, frozen=True, tag_field="kind", tag="outcome", kw_only=True):
    """What a request came to. `content` is the text shown, assistant mode included.

    `request_id`, `attempt` and the times are filled in when it is persisted; a replay has none. `UNFILLED` marks what a
    script fills in by the server's clock: these fields stand before all text of others, so that it finds its own.
    `first_delta_at` is when the attempt had its first delta, before it was written.
    `failures` are attempts that failed, `crashes` workers that died or hung with it, `drains` workers that went and
    handed it back; `retry_of` is the dead request that this one retries.
    `items` keeps Responses items a caller must send back as they are, such as encrypted reasoning.
    `notes` says where a server contradicted itself and what we chose.
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
            error = outcome.error or ErrorInfo("internal", "failed without a reason given", "operator")
            return Failed(ms, error, outcome.finish_reason, outcome.usage)
