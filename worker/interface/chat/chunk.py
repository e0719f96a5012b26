"""One chunk of a Chat Completions stream, decoded into the few fields the interface reads.

A strict typed decoder first. What it refuses, and what has no choices (an error of some shape, a keep-alive), goes
through a lenient second path that takes any JSON value, so that a field of the wrong type costs that field and not the
chunk. Knows nothing of order or state. Source: OpenAI API reference, "The chat completion chunk object".
"""

from collections.abc import Mapping
from typing import Any, cast

import msgspec

from tailrace.schemas.errors import UpstreamProtocol
from tailrace.worker.interface.lenient import as_integer, as_object, as_text, loads, whole, wholesome
from tailrace.worker.interface.parts import refusal_of, text_of, thinking_of

JsonObject = dict[str, Any]
_SHOWN_BYTES = 120
_OK = 200


class FunctionPart(msgspec.Struct, frozen=True, gc=False):
    """`tool_calls[].function`, or the `function_call` of old servers. `input` is that of a custom tool."""

    name: str | None = None
    arguments: str | None = None
    input: str | None = None


class CallPart(msgspec.Struct, frozen=True, gc=False):
    """A fragment of a tool call. Some servers leave out the object round name and arguments."""

    index: int | None = None
    id: str | None = None
    function: FunctionPart | None = None
    custom: FunctionPart | None = None
    name: str | None = None
    arguments: str | None = None
    extra_content: JsonObject | None = None


class ChunkDelta(msgspec.Struct, frozen=True, gc=False):
    """A fragment of the answer. The four texts for reasoning are four names for one thing."""

    content: str | None = None
    refusal: str | None = None
    reasoning_content: str | None = None
    reasoning: str | None = None
    reasoning_text: str | None = None
    thinking: str | None = None
    reasoning_details: list[JsonObject] | None = None
    thinking_blocks: list[JsonObject] | None = None
    tool_calls: list[CallPart] | None = None
    function_call: FunctionPart | None = None

    @property
    def says_anything(self) -> bool:
        """There is something in it to be shown."""
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


class Choice(msgspec.Struct, frozen=True, gc=False):
    """One of the answers asked for. `message` is the whole of it, where a server sends that; `text` is of old ones."""

    index: int | None = None
    delta: ChunkDelta | None = None
    message: ChunkDelta | None = None
    text: str | None = None
    finish_reason: str | None = None
    usage: JsonObject | None = None
    error: Any = None


class ChatChunk(msgspec.Struct, frozen=True, gc=False):
    """What the interface reads of a chunk. `loose`: texts may begin or end with half a surrogate pair."""

    id: str | None = None
    model: str | None = None
    choices: list[Choice] | None = None
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
        UpstreamProtocol: the data is no JSON; the message shows how it begins.
    """
    try:
        chunk = _strict.decode(data)
    except (msgspec.MsgspecError, ValueError, RecursionError):
        chunk = None
    if chunk is not None and chunk.choices is not None:
        return chunk
    try:
        return chunk_of(loads(data))
    except ValueError as error:
        shown = data[:_SHOWN_BYTES].decode("utf-8", "replace")
        raise UpstreamProtocol(
            f"an event of the stream is not JSON; it begins with {shown!r}", code="upstream_malformed"
        ) from error


def chunk_of(given: Any) -> ChatChunk:
    """Makes a chunk of any decoded JSON value, or of the SDK's chunk as a dict. Never raises."""
    fields = as_object(given)
    if fields is None:
        holds_error = any("error" in element for element in _objects(given) or [])
        return ChatChunk(error=given if holds_error else None, oddity="an event that is no object was skipped")
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
    """An error that stands in the chunk's place without being called `error`."""
    if fields.get("type") == "error" or fields.get("object") == "error" or fields.get("errors"):
        return fields.get("errors") or fields
    if fields.get("detail"):
        return fields
    says = isinstance(fields.get("message"), str) or isinstance(fields.get("msg"), str)
    return fields if says and fields.get("code") and as_integer(fields["code"]) != _OK else None


def _choice(fields: JsonObject) -> Choice:
    reason = fields.get("finish_reason")
    of_reason = as_object(reason)
    return Choice(
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
    reasoning_content = text_of(fields.get("reasoning_content"))
    return ChunkDelta(
        content=text_of(content),
        refusal=text_of(fields.get("refusal")) or refusal_of(content),
        reasoning_content=reasoning_content,
        reasoning=text_of(fields.get("reasoning")),
        reasoning_text=text_of(fields.get("reasoning_text")),
        thinking=text_of(fields.get("thinking")) or (None if reasoning_content else thinking_of(content)),
        reasoning_details=_objects(fields.get("reasoning_details")),
        thinking_blocks=_objects(fields.get("thinking_blocks")),
        tool_calls=[_call(call) for call in _objects(calls) or []],
        function_call=_function(fields.get("function_call")),
    )


def _objects(given: Any) -> list[JsonObject] | None:
    """The objects of a list; an object where a list should be is a list of one."""
    if not given:
        return None
    elements = cast("list[Any]", given) if isinstance(given, list) else [given]
    return [fields for element in elements if (fields := as_object(element)) is not None]


def _call(fields: JsonObject) -> CallPart:
    return CallPart(
        index=as_integer(fields.get("index")),
        id=_text(fields, "id"),
        function=_function(fields.get("function")),
        custom=_function(fields.get("custom")),
        name=_text(fields, "name"),
        arguments=_arguments(fields.get("arguments")),
        extra_content=as_object(fields.get("extra_content")),
    )


def _function(given: Any) -> FunctionPart | None:
    fields = as_object(given)
    if fields is None:
        return None
    return FunctionPart(_text(fields, "name"), _arguments(fields.get("arguments")), as_text(fields.get("input")))


def _arguments(given: Any) -> str | None:
    """Arguments as text; a server that sends a JSON value means the value's JSON."""
    if given is None or isinstance(given, str):
        return given
    try:
        return msgspec.json.encode(wholesome(given)).decode()
    except (ValueError, TypeError, OverflowError, RecursionError, msgspec.MsgspecError):
        return None


def _text(fields: Mapping[str, Any], key: str) -> str | None:
    text = as_text(fields.get(key))
    return None if text is None else whole(text)
