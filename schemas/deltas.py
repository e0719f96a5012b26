"""The entries of a log: deltas, lifecycle entries and terminals. Each is one JSON object, `message_type` first.

The structs define the format; `docs/wire.md` describes it for readers in other languages. Knows nothing of Redis or
of how deltas are made.
"""

from typing import Literal

import msgspec

from tailrace.schemas.errors import Whose

FORMAT_VERSION = 1

Api = Literal["chat", "responses"]
ReasoningSource = Literal["non_reasoner_model", "reasoner_model"]
StalledWhy = Literal["no_worker", "busy", "lost"]


class Usage(msgspec.Struct, frozen=True, omit_defaults=True):
    """Tokens as the provider counted them; None if it did not send a count."""

    input_tokens: int | None = None
    output_tokens: int | None = None
    cached_tokens: int | None = None
    reasoning_tokens: int | None = None


class ErrorInfo(msgspec.Struct, frozen=True):
    """An error as clients see it: a stable code, a message, and who has to act (`caller`, `operator`, `provider`)."""

    code: str
    message: str
    whose: Whose


class ToolCallPart(msgspec.Struct, frozen=True, omit_defaults=True):
    """A piece of a tool call: first its name with the call id, then pieces of its arguments."""

    name: str | None = None
    arguments: str | None = None
    tool_call_id: str | None = None


class MessageIds(msgspec.Struct, frozen=True):
    """The two message ids of an attempt, each `message-<uuid4>`."""

    assistant: str
    tool: str


class Entry(msgspec.Struct, frozen=True, omit_defaults=True, tag_field="message_type"):
    """The base of everything in a log."""


class ReasoningDelta(Entry, frozen=True, tag="reasoning_message"):
    """A piece of the model's reasoning. Only the first delta of a run has a `source`.

    `call`, left out if it is 0, is the tool call that it was taken from or follows; calls may be interleaved.
    """

    i: int
    ms: int
    reasoning: str
    source: ReasoningSource | None = None
    call: int | None = None


class ToolCallDelta(Entry, frozen=True, tag="tool_call_message"):
    """A piece of a tool call. `call` counts the calls from 0; it is negative for tools that the provider runs."""

    i: int
    ms: int
    call: int
    tool_call: ToolCallPart


class AssistantDelta(Entry, frozen=True, tag="assistant_message"):
    """A piece of the text for the user or of a refusal; one of them is set. `call` as in `ReasoningDelta`."""

    i: int
    ms: int
    content: str | None = None
    refusal: str | None = None
    call: int | None = None


class Accepted(Entry, frozen=True, tag="accepted"):
    """The first entry of a log: the request is stored and enqueued."""

    v: int
    at: str
    api: Api
    model: str


class AttemptStarted(Entry, frozen=True, tag="attempt_started"):
    """A worker started attempt number `attempt`; all deltas of earlier attempts are discarded."""

    v: int
    attempt: int
    at: str
    why: str
    ids: MessageIds


class RetryScheduled(Entry, frozen=True, tag="retry_scheduled"):
    """Attempt `attempt` failed for `reason`; the next one does not start before `until`."""

    ms: int
    attempt: int
    reason: str
    until: str


class Completed(Entry, frozen=True, tag="completed"):
    """Terminal: the model ended normally."""

    ms: int
    finish_reason: str | None = None
    usage: Usage | None = None


class Incomplete(Entry, frozen=True, tag="incomplete"):
    """Terminal: the length limit or a content filter cut the answer off."""

    ms: int
    finish_reason: str | None = None
    usage: Usage | None = None


class Failed(Entry, frozen=True, tag="failed"):
    """Terminal: the request failed; the outcome has any partial answer."""

    ms: int
    error: ErrorInfo
    finish_reason: str | None = None
    usage: Usage | None = None


class Cancelled(Entry, frozen=True, tag="cancelled"):
    """Terminal: the request was cancelled; the outcome has any partial answer."""

    ms: int
    finish_reason: str | None = None
    usage: Usage | None = None


class Gap(Entry, frozen=True, tag="gap"):
    """Made by readers, without an entry id: entries between `after` and `before` are lost, and the log continues."""

    after: str
    before: str


class Stalled(Entry, frozen=True, tag="stalled"):
    """Made by readers, without an entry id: no worker has worked on the request for `for_ms`.

    `why`: `no_worker`: no worker is alive. `busy`: all are busy, or the tenant has reached its limit. `lost`: the job
    was lost and has been enqueued again.
    """

    for_ms: int
    why: StalledWhy


Delta = ReasoningDelta | ToolCallDelta | AssistantDelta
Terminal = Completed | Incomplete | Failed | Cancelled
LogEntry = Delta | Accepted | AttemptStarted | RetryScheduled | Terminal
ReaderEvent = Gap | Stalled

TERMINALS = (Completed, Incomplete, Failed, Cancelled)
DELTAS = (ReasoningDelta, ToolCallDelta, AssistantDelta)
