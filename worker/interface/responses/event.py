"""One event of a Responses stream, decoded into the few fields the interface reads.

A strict typed decoder first; what it refuses goes through a lenient second path, so that a field of the wrong type
costs that field and not the event. Knows nothing of items, order or state. Source: OpenAI API reference, "Streaming
events".
"""

from collections.abc import Mapping
from typing import Any

import msgspec

from tailrace.worker.interface.lenient import as_integer, as_object, as_objects, as_text, loads, whole, wholesome

JsonObject = dict[str, Any]


class ResponseObject(msgspec.Struct, frozen=True, kw_only=True):
    """The response itself, as `created`, `in_progress` and the terminal events carry it."""

    id: str | None = None
    model: str | None = None
    status: str | None = None
    output: list[JsonObject] | None = None
    usage: JsonObject | None = None
    error: Any = None
    incomplete_details: JsonObject | None = None
    store: bool | None = None


class ResponseEvent(msgspec.Struct, frozen=True, kw_only=True):
    """Any event: `type` says which of the other fields it has. One struct for all, since most events are deltas of text
    and each type differs from the next by a field or two.
    """

    type: str = ""
    sequence_number: int | None = None
    output_index: int | None = None
    item_id: str | None = None
    content_index: int | None = None
    summary_index: int | None = None
    delta: str | None = None
    text: str | None = None
    refusal: str | None = None
    arguments: str | None = None
    input: str | None = None
    name: str | None = None
    item: JsonObject | None = None
    part: JsonObject | None = None
    response: ResponseObject | None = None
    error: Any = None
    code: Any = None
    message: Any = None


_strict = msgspec.json.Decoder(ResponseEvent)


def decode_event(data: bytes | str, name: str = "") -> ResponseEvent:
    """Decodes the data of one SSE event.

    Args:
        data: one JSON object.
        name: what the `event:` field said; it stands in for a missing `type`.

    Raises:
        ValueError: when the data is no JSON.
    """
    try:
        event = _strict.decode(data)
    except (ValueError, RecursionError):
        event = None
    if event is not None and event.type:
        return event
    try:
        return event_of(loads(data), name)
    except RecursionError as error:
        raise ValueError("JSON nested too deeply") from error


def event_of(given: Any, name: str = "") -> ResponseEvent:
    """Makes an event of any decoded JSON value, or of the `model_dump()` of the SDK's object."""
    fields = as_object(given)
    if fields is None:
        failed = any("error" in element for element in as_objects(given) or ())
        return ResponseEvent(type="error", error=wholesome(given)) if failed else ResponseEvent(type=name)
    response = as_object(fields.get("response"))
    event_type = as_text(fields.get("type")) or ""
    if not event_type:
        event_type, response = _type_of_untyped(fields, name), response or _bare_response(fields)
    return ResponseEvent(
        type=whole(event_type),
        sequence_number=as_integer(fields.get("sequence_number")),
        output_index=as_integer(fields.get("output_index")),
        item_id=_text(fields, "item_id"),
        content_index=as_integer(fields.get("content_index")),
        summary_index=as_integer(fields.get("summary_index")),
        delta=_piece(fields.get("delta")),
        text=_whole_or_none(_piece(fields.get("text"))),
        refusal=_text(fields, "refusal"),
        arguments=arguments_text(fields.get("arguments")),
        input=arguments_text(fields.get("input")),
        name=_text(fields, "name"),
        item=wholesome(as_object(fields.get("item"))),
        part=wholesome(as_object(fields.get("part"))),
        response=None if response is None else _response_of(response),
        error=wholesome(fields.get("error")),
        code=wholesome(fields.get("code")),
        message=wholesome(fields.get("message")),
    )


def _response_of(fields: Mapping[str, Any]) -> ResponseObject:
    return ResponseObject(
        id=_text(fields, "id"),
        model=_text(fields, "model"),
        status=_text(fields, "status"),
        output=wholesome(as_objects(fields.get("output"))),
        usage=wholesome(as_object(fields.get("usage"))),
        error=wholesome(fields.get("error")),
        incomplete_details=wholesome(as_object(fields.get("incomplete_details"))),
        store=False if fields.get("store") is False else None,
    )


def _type_of_untyped(fields: JsonObject, name: str) -> str:
    """What an event without `type` is: what the SSE field says, an error object, or the whole response by itself."""
    if name and name != "message":
        return name
    if fields.get("error"):
        return "error"
    if fields.get("object") == "response":
        return f"response.{as_text(fields.get('status')) or 'in_progress'}"
    return ""


def _bare_response(fields: JsonObject) -> JsonObject | None:
    return fields if fields.get("object") == "response" else None


def _piece(value: Any) -> str | None:
    """A piece of text; some servers wrap it in an object: `{"text": "..."}`, `{"content": "..."}`."""
    fields = as_object(value)
    return as_text(value if fields is None else fields.get("text", fields.get("content")))


def arguments_text(value: Any) -> str | None:
    """Arguments as text; a server that sends them as an object means the object's JSON."""
    if isinstance(value, dict | list):
        return msgspec.json.encode(wholesome(value)).decode()
    return _whole_or_none(as_text(value))


def _text(fields: Mapping[str, Any], key: str) -> str | None:
    return _whole_or_none(as_text(fields.get(key)))


def _whole_or_none(text: str | None) -> str | None:
    return None if text is None else whole(text)
