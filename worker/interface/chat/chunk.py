"""Decodes one chunk of a Chat Completions stream into the few fields that the interface reads.

A strict typed decoder comes first. Chunks that it refuses, and chunks without choices (an error, a keep-alive), take a
lenient second path that accepts any JSON value, so that a field of the wrong type costs that field and not the chunk.
Knows nothing of order or state. Source: OpenAI API reference, "The chat completion chunk object".
"""

from collections.abc import Mapping
from typing import Any, cast

import msgspec

from tailrace.schemas.errors import UpstreamProtocol
from tailrace.worker.interface.content_parts import content_reasoning, content_refusal, content_text
from tailrace.worker.interface.lenient import (
    as_integer,
    as_object,
    as_text,
    decode_leniently,
    replace_lone_surrogates,
    replace_lone_surrogates_in,
)

JsonObject = dict[str, Any]
_SHOWN_BYTES = 120
_OK = 200


class FunctionFragment(msgspec.Struct, frozen=True, gc=False):
    """`tool_calls[].function`, or `function_call` of old servers. `input` belongs to custom tools."""

    name: str | None = None
    arguments: str | None = None
    input: str | None = None


class CallFragment(msgspec.Struct, frozen=True, gc=False):
    """A fragment of a tool call. Some servers leave out the object around name and arguments."""

    index: int | None = None
    id: str | None = None
    function: FunctionFragment | None = None
    custom: FunctionFragment | None = None
    name: str | None = None
    arguments: str | None = None
    extra_content: JsonObject | None = None


class ChunkDelta(msgspec.Struct, frozen=True, gc=False):
    """A fragment of the answer. The four reasoning fields are the names that different servers use for one thing."""

    content: str | None = None
    refusal: str | None = None
    reasoning_content: str | None = None
    reasoning: str | None = None
    reasoning_text: str | None = None
    thinking: str | None = None
    reasoning_details: list[JsonObject] | None = None
    thinking_blocks: list[JsonObject] | None = None
    tool_calls: list[CallFragment] | None = None
    function_call: FunctionFragment | None = None

    @property
    def has_anything(self) -> bool:
        """Whether there is anything to show."""
        return bool(
            self.content
            or self.refusal
            or self.reasoning_content
            or self.reasoning
            or self.reasoning_text
            or self.thinking
            or self.reasoning_details
            or self.thinking_blocks
            or self.tool_calls
            or self.function_call
        )


class ChunkChoice(msgspec.Struct, frozen=True, gc=False):
    """One choice. Some servers send the whole answer as `message`; `text` comes from old servers."""

    index: int | None = None
    delta: ChunkDelta | None = None
    message: ChunkDelta | None = None
    text: str | None = None
    finish_reason: str | None = None
    usage: JsonObject | None = None
    error: Any = None


class ChatChunk(msgspec.Struct, frozen=True, gc=False):
    """A chunk. `loose`: its texts may start or end with half a surrogate pair. `oddity`: a note for the outcome."""

    id: str | None = None
    model: str | None = None
    choices: list[ChunkChoice] | None = None
    usage: JsonObject | None = None
    x_groq: JsonObject | None = None
    base_resp: JsonObject | None = None
    error: Any = None
    loose: bool = False
    oddity: str | None = None


_strict = msgspec.json.Decoder(ChatChunk)


def decode_chunk(data: bytes) -> ChatChunk:
    """Decodes the data of one event.

    Raises:
        UpstreamProtocol: the data is not JSON; the message shows how it begins.
    """
    try:
        chunk = _strict.decode(data)
    except (msgspec.MsgspecError, ValueError, RecursionError):
        chunk = None
    if chunk is not None and chunk.choices is not None:
        return chunk
    try:
        return chunk_from_json(decode_leniently(data))
    except ValueError as error:
        shown = data[:_SHOWN_BYTES].decode("utf-8", "replace")
        raise UpstreamProtocol(
            f"an event of the stream is not JSON; it begins with {shown!r}", code="upstream_malformed"
        ) from error


def chunk_from_json(given: Any) -> ChatChunk:
    """Makes a chunk from any decoded JSON value, or from the SDK's chunk as a dict. Never raises."""
    fields = as_object(given)
    if fields is None:
        holds_error = any("error" in element for element in _objects(given) or [])
        return ChatChunk(error=given if holds_error else None, oddity="an event that is not an object was skipped")
    known = [_choice(choice) for choice in _objects(fields.get("choices")) or []]
    return ChatChunk(
        id=_text(fields, "id"),
        model=_text(fields, "model"),
        choices=known,
        usage=as_object(fields.get("usage")),
        x_groq=as_object(fields.get("x_groq")),
        base_resp=as_object(fields.get("base_resp")),
        error=fields.get("error") or (None if known else _error_in_other_shape(fields)),
        loose=True,
    )


def _error_in_other_shape(fields: JsonObject) -> Any:
    """An error instead of a chunk, that is not named `error`."""
    if fields.get("type") == "error" or fields.get("object") == "error" or fields.get("errors"):
        return fields.get("errors") or fields
    if fields.get("detail"):
        return fields
    has_message = isinstance(fields.get("message"), str) or isinstance(fields.get("msg"), str)
    return fields if has_message and fields.get("code") and as_integer(fields["code"]) != _OK else None


def _choice(fields: JsonObject) -> ChunkChoice:
    reason = fields.get("finish_reason")
    of_reason = as_object(reason)
    return ChunkChoice(
        index=as_integer(fields.get("index")),
        delta=_delta(fields.get("delta")),
        message=_delta(fields.get("message")),
        text=as_text(fields.get("text")),
        finish_reason=_text(of_reason, "type") if of_reason is not None else _text(fields, "finish_reason"),
        usage=as_object(fields.get("usage")),
        error=fields.get("error"),
    )


def _delta(given: Any) -> ChunkDelta | None:
    if isinstance(given, str):
        return ChunkDelta(content=given)
    fields = as_object(given)
    if fields is None:
        return None
    content = fields.get("content")
    calls = fields.get("tool_calls")
    reasoning_content = content_text(fields.get("reasoning_content"))
    return ChunkDelta(
        content=content_text(content),
        refusal=content_text(fields.get("refusal")) or content_refusal(content),
        reasoning_content=reasoning_content,
        reasoning=content_text(fields.get("reasoning")),
        reasoning_text=content_text(fields.get("reasoning_text")),
        thinking=content_text(fields.get("thinking")) or (None if reasoning_content else content_reasoning(content)),
        reasoning_details=_objects(fields.get("reasoning_details")),
        thinking_blocks=_objects(fields.get("thinking_blocks")),
        tool_calls=[_call(call) for call in _objects(calls) or []],
        function_call=_function(fields.get("function_call")),
    )


def _objects(given: Any) -> list[JsonObject] | None:
    """The objects of a list; an object instead of a list counts as a list of one."""
    if not given:
        return None
    elements = cast("list[Any]", given) if isinstance(given, list) else [given]
    return [fields for element in elements if (fields := as_object(element)) is not None]


def _call(fields: JsonObject) -> CallFragment:
    return CallFragment(
        index=as_integer(fields.get("index")),
        id=_text(fields, "id"),
        function=_function(fields.get("function")),
        custom=_function(fields.get("custom")),
        name=_text(fields, "name"),
        arguments=_arguments(fields.get("arguments")),
        extra_content=as_object(fields.get("extra_content")),
    )


def _function(given: Any) -> FunctionFragment | None:
    fields = as_object(given)
    if fields is None:
        return None
    return FunctionFragment(_text(fields, "name"), _arguments(fields.get("arguments")), as_text(fields.get("input")))


def _arguments(given: Any) -> str | None:
    """Arguments as text. Some servers send a JSON value; its encoding is the text."""
    if given is None or isinstance(given, str):
        return given
    try:
        return msgspec.json.encode(replace_lone_surrogates_in(given)).decode()
    except (ValueError, TypeError, OverflowError, RecursionError, msgspec.MsgspecError):
        return None


def _text(fields: Mapping[str, Any], key: str) -> str | None:
    text = as_text(fields.get(key))
    return None if text is None else replace_lone_surrogates(text)
