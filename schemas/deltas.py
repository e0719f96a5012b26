"""Entries: deltas, lifecycle and terminals, as they stand on the wire, one JSON object each, `message_type` first.

The structs are the format; `docs/wire.md` says the same for those who read it from other languages.
Knows nothing of Redis and nothing of how deltas are made.
"""

from typing import Literal

import msgspec

from tailrace.schemas.errors import Whose

FORMAT_VERSION = 1

Api = Literal["chat", "responses"]
ReasoningSource = Literal["non_reasoner_model", "reasoner_model"]
StalledWhy = Literal["no_worker", "busy", "lost"]


class Usage(msgspec.Struct, frozen=True, omit_defaults=True):
    """Tokens as the provider counted them; None where it did not say."""

    input_tokens: int | None = None
    output_tokens: int | None = None
    cached_tokens: int | None = None
    reasoning_tokens: int | None = None


class ErrorInfo(msgspec.Struct, frozen=True):
    """An error as clients see it: a stable code, a sentence, and whose move is next."""

    code: str
    message: str
    whose: Whose


class ToolCallPart(msgspec.Struct, frozen=True, omit_defaults=True):
    """A piece of a tool call: first the name with the call id, then pieces of the arguments."""

    name: str | None = None
    arguments: str | None = None
    tool_call_id: str | None = None


class MessageIds(msgspec.Struct, frozen=True):
    """The two message ids of an attempt, `message-<uuid4>` each (SEED: A and T)."""

    assistant: str
    tool: str


class Entry(msgspec.Struct, frozen=True, omit_defaults=True, tag_field="message_type"):
    """Root of all that stands in a log."""


class ReasoningDelta(Entry, frozen=True, tag="reasoning_message"):
    """A piece of the model's reasoning. `source` stands only in the first of a run.

    `call`, left out where it is 0, says which tool call it was taken out of, or follows: calls may be interleaved.
    """

    i: int
    ms: int
    reasoning: str
    source: ReasoningSource | None = None
    call: int | None = None


class ToolCallDelta(Entry, frozen=True, tag="tool_call_message"):
    """A piece of tool call number `call` of the response, from 0; below 0, of a tool that the provider runs itself."""

    i: int
    ms: int
    call: int
    tool_call: ToolCallPart


class AssistantDelta(Entry, frozen=True, tag="assistant_message"):
    """A piece of the text for the user, or of a refusal; one of the two is set. `call` as in `ReasoningDelta`."""

    i: int
    ms: int
    content: str | None = None
    refusal: str | None = None
    call: int | None = None


class Accepted(Entry, frozen=True, tag="accepted"):
    """The first entry of a log: the request stands and is enqueued."""

    v: int
    at: str
    api: Api
    model: str


class AttemptStarted(Entry, frozen=True, tag="attempt_started"):
    """A worker began attempt number `attempt`; all deltas of earlier attempts are void."""

    v: int
    attempt: int
    at: str
    why: str
    ids: MessageIds


class RetryScheduled(Entry, frozen=True, tag="retry_scheduled"):
    """Attempt `attempt` failed and another follows: why, and not before when."""

    ms: int
    attempt: int
    reason: str
    until: str


class Completed(Entry, frozen=True, tag="completed"):
    """Terminal: the model came to its end."""

    ms: int
    finish_reason: str | None = None
    usage: Usage | None = None


class Incomplete(Entry, frozen=True, tag="incomplete"):
    """Terminal: the model was cut off, by the length limit or a content filter."""

    ms: int
    finish_reason: str | None = None
    usage: Usage | None = None


class Failed(Entry, frozen=True, tag="failed"):
    """Terminal: no whole answer could be had; what there is stands in the outcome."""

    ms: int
    error: ErrorInfo
    finish_reason: str | None = None
    usage: Usage | None = None


class Cancelled(Entry, frozen=True, tag="cancelled"):
    """Terminal: somebody asked to stop; what there is stands in the outcome."""

    ms: int
    finish_reason: str | None = None
    usage: Usage | None = None


class Gap(Entry, frozen=True, tag="gap"):
    """Made by readers, without entry id: entries between `after` and `before` are lost, the log goes on."""

    after: str
    before: str


class Stalled(Entry, frozen=True, tag="stalled"):
    """Made by readers, without entry id: nobody has worked on the request for `for_ms`.

    `why`: `no_worker` gives a sign of life; all are `busy`, or the tenant has as many running as it may; or the job
    was `lost`, and enqueued again.
    """

    for_ms: int
    why: StalledWhy


Delta = ReasoningDelta | ToolCallDelta | AssistantDelta
Terminal = Completed | Incomplete | Failed | Cancelled
LogEntry = Delta | Accepted | AttemptStarted | RetryScheduled | Terminal
ReaderEvent = Gap | Stalled

TERMINALS = (Completed, Incomplete, Failed, Cancelled)
DELTAS = (ReasoningDelta, ToolCallDelta, AssistantDelta)
