"""Decodes one event of a Responses stream into the few fields that the interface reads.

A strict typed decoder comes first. Events that it refuses take a lenient second path, so that a field of the wrong type
costs that field and not the event. Knows nothing of items, order or state. Source: OpenAI API reference, "Streaming
events".
"""

from collections.abc import Mapping
from typing import Any

import msgspec

from tailrace.worker.interface.lenient import (
    as_integer,
    as_object,
    as_objects,
    as_text,
    decode_leniently,
    replace_lone_surrogates,
    replace_lone_surrogates_in,
)

JsonObject = dict[str, Any]


class ResponseObject(msgspec.Struct, frozen=True, kw_only=True):
    """The response object in `created`, `in_progress` and the terminal events."""

    id: str | None = None
    model: str | None = None
    status: str | None = None
    output: list[JsonObject] | None = None
    usage: JsonObject | None = None
    error: Any = None
    incomplete_details: JsonObject | None = None
    store: bool | None = None


class ResponseEvent(msgspec.Struct, frozen=True, kw_only=True):
    """Any event; its `type` determines which other fields it has. There is one struct for all, since most events are
    deltas of text and the types differ by a field or two.
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
        name: the value of the `event:` field, which is used if `type` is missing.

    Raises:
        ValueError: the data is not JSON.
    """
    try:
        event = _strict.decode(data)
    except (ValueError, RecursionError):
        event = None
    if event is not None and event.type:
        return event
    try:
        return event_from_json(decode_leniently(data), name)
    except RecursionError as error:
        raise ValueError("JSON nested too deeply") from error


def event_from_json(given: Any, name: str = "") -> ResponseEvent:
    """Makes an event from any decoded JSON value, or from the `model_dump()` of the SDK's object."""
    fields = as_object(given)
    if fields is None:
        failed = any("error" in element for element in as_objects(given) or ())
        return (
            ResponseEvent(type="error", error=replace_lone_surrogates_in(given)) if failed else ResponseEvent(type=name)
        )
    response = as_object(fields.get("response"))
    event_type = as_text(fields.get("type")) or ""
    if not event_type:
        event_type, response = _missing_type(fields, name), response or _bare_response(fields)
    return ResponseEvent(
        type=replace_lone_surrogates(event_type),
        sequence_number=as_integer(fields.get("sequence_number")),
        output_index=as_integer(fields.get("output_index")),
        item_id=_text(fields, "item_id"),
        content_index=as_integer(fields.get("content_index")),
        summary_index=as_integer(fields.get("summary_index")),
        delta=_piece(fields.get("delta")),
        text=_encodable(_piece(fields.get("text"))),
        refusal=_text(fields, "refusal"),
        arguments=arguments_text(fields.get("arguments")),
        input=arguments_text(fields.get("input")),
        name=_text(fields, "name"),
        item=replace_lone_surrogates_in(as_object(fields.get("item"))),
        part=replace_lone_surrogates_in(as_object(fields.get("part"))),
        response=None if response is None else _response_from_json(response),
        error=replace_lone_surrogates_in(fields.get("error")),
        code=replace_lone_surrogates_in(fields.get("code")),
        message=replace_lone_surrogates_in(fields.get("message")),
    )


def _response_from_json(fields: Mapping[str, Any]) -> ResponseObject:
    return ResponseObject(
        id=_text(fields, "id"),
        model=_text(fields, "model"),
        status=_text(fields, "status"),
        output=replace_lone_surrogates_in(as_objects(fields.get("output"))),
        usage=replace_lone_surrogates_in(as_object(fields.get("usage"))),
        error=replace_lone_surrogates_in(fields.get("error")),
        incomplete_details=replace_lone_surrogates_in(as_object(fields.get("incomplete_details"))),
        store=False if fields.get("store") is False else None,
    )


def _missing_type(fields: JsonObject, name: str) -> str:
    """The type of an event without `type`: the name of the SSE event, or that of an error or a bare response."""
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
    """A piece of text. Some servers wrap it in an object: `{"text": "..."}`, `{"content": "..."}`."""
    fields = as_object(value)
    return as_text(value if fields is None else fields.get("text", fields.get("content")))


def arguments_text(value: Any) -> str | None:
    """Arguments as text. Some servers send an object; its encoding is the text."""
    if isinstance(value, dict | list):
        return msgspec.json.encode(replace_lone_surrogates_in(value)).decode()
    return _encodable(as_text(value))


def _text(fields: Mapping[str, Any], key: str) -> str | None:
    return _encodable(as_text(fields.get(key)))


def _encodable(text: str | None) -> str | None:
    return None if text is None else replace_lone_surrogates(text)
