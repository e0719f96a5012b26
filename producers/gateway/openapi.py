"""The OpenAPI document (3.1). Schemas are made of the structs that are answered, so they cannot say anything else."""

from functools import cache
from importlib.metadata import version
from typing import Any

import msgspec
from pydantic.json_schema import models_json_schema

from tailrace.producers.gateway import answers
from tailrace.producers.tail.snapshot import Snapshot
from tailrace.schemas.deltas import LogEntry, ReaderEvent
from tailrace.schemas.errors import Whose
from tailrace.schemas.request import GenerationRequest

JsonObject = dict[str, Any]

_REF = "#/components/schemas/{name}"


class ErrorBody(msgspec.Struct, frozen=True):
    """What was wrong: a word for programs, a sentence for people, and whose move is next."""

    code: str
    message: str
    whose: Whose


class Error(msgspec.Struct, frozen=True):
    """How every route answers what it cannot do."""

    error: ErrorBody


class Health(msgspec.Struct, frozen=True):
    """Of `/healthz` and `/readyz`."""

    status: str


@cache
def document() -> JsonObject:
    """The document."""
    return {
        "openapi": "3.1.0",
        "info": {"title": "Tailrace gateway", "version": version("tailrace")},
        "security": [{"bearer": []}],
        "paths": {
            "/v1/streams": {"post": _submit()},
            "/v1/streams/{id}": {"get": _look(), "parameters": [_ID]},
            "/v1/streams/{id}/cancel": {"post": _cancel(), "parameters": [_ID]},
            "/v1/streams/{id}/events": {"get": _events(), "parameters": [_ID]},
            "/v1/events": {"get": _events_of_several()},
            "/healthz": {"get": _open("Whether the process lives.", Health, 200)},
            "/readyz": {"get": _open("Whether it serves, with a Redis that answers.", Health, 200, 503)},
            "/openapi.json": {"get": _open("This document.", None, 200)},
        },
        "components": {
            "schemas": _schemas(),
            "securitySchemes": {
                "bearer": {"type": "http", "scheme": "bearer", "description": "an API key, or a token of one request"},
                "token": {"type": "apiKey", "in": "query", "name": "token", "description": "for EventSource"},
            },
        },
    }


def _schemas() -> JsonObject:
    answered = (answers.Submitted, answers.Stream, answers.CancelAnswer, Error, Health, Snapshot, LogEntry, ReaderEvent)
    _, structs = msgspec.json.schema_components(answered, ref_template=_REF)
    _, asked = models_json_schema([(GenerationRequest, "validation")], ref_template="#/components/schemas/{model}")
    request = asked["$defs"]
    request["GenerationRequest"]["properties"].pop("id")  # the gateway derives it
    return {**request, **structs}


_ID: JsonObject = {
    "name": "id",
    "in": "path",
    "required": True,
    "schema": {"type": "string", "pattern": "^[A-Za-z0-9_-]{1,64}$"},
}


def _parameter(name: str, schema: JsonObject, description: str, where: str = "query", **more: Any) -> JsonObject:
    return {"name": name, "in": where, "schema": schema, "description": description, **more}


_TEXT: JsonObject = {"type": "string"}


def _submit() -> JsonObject:
    return {
        "operationId": "submit",
        "summary": "Accept a request and put it on the queue.",
        "parameters": [
            _parameter(
                *("Idempotency-Key", {"type": "string", "minLength": 1, "maxLength": 255}),
                "the same key and content give the standing request, with other content a conflict",
                "header",
            ),
            _parameter(
                "grant", {"enum": ["read", "cancel", "none"], "default": "read"}, "what the answer's token allows"
            ),
        ],
        "requestBody": {"required": True, "content": _json(_ref("GenerationRequest"))},
        "responses": {
            "202": {
                **_answer("it stands", answers.Submitted),
                "headers": {"Location": {"schema": _TEXT, "description": "where it can be looked at"}},
            },
            **_errors(400, 401, 403, 408, 409, 413, 429, 431, 503),
        },
    }


def _look() -> JsonObject:
    return {
        "operationId": "look",
        "summary": "Where a request stands, and its outcome once it has one.",
        "security": _EITHER,
        "responses": {"200": _answer("as it is now", answers.Stream), **_errors(401, 404, 431, 503)},
    }


def _cancel() -> JsonObject:
    return {
        "operationId": "cancel",
        "summary": "Stop a request, waiting or running.",
        "responses": {
            "200": _answer("it has ended, by this call or before it", answers.CancelAnswer),
            "202": _answer("its worker has been told", answers.CancelAnswer),
            **_errors(401, 403, 404, 431, 503),
        },
    }


_EITHER: list[JsonObject] = [{"bearer": []}, {"token": []}]

_FOLLOWING: list[JsonObject] = [
    _parameter("Last-Event-ID", _TEXT, "the id of the last frame seen; counts more than `after`", "header"),
    _parameter("after", _TEXT, "the same in the address; -1, or nothing, for the beginning"),
    _parameter("snapshot", {"enum": ["0", "1"]}, "begin with one frame that has what came so far, merged"),
    _parameter("format", {"enum": ["raw", "letta"], "default": "raw"}, "the entries as they are, or Letta's messages"),
]

_STREAM: JsonObject = {
    "200": {
        "description": "frames with `id` (the cursor), `event` (the entry's message_type) and `data` (the entry), "
        "up to the terminal",
        "content": {"text/event-stream": {"schema": _TEXT}},
    },
    "204": {"description": "the reader has seen the terminal: there is nothing to come back for"},
}


def _events() -> JsonObject:
    return {
        "operationId": "events",
        "summary": "Follow a request, from the beginning or behind a cursor.",
        "security": _EITHER,
        "parameters": _FOLLOWING,
        "responses": {**_STREAM, **_errors(400, 401, 404, 431, 503)},
    }


def _events_of_several() -> JsonObject:
    ids = _parameter("ids", _TEXT, "the requests, separated by commas", required=True)
    return {
        "operationId": "eventsOfSeveral",
        "summary": "Follow several requests on one connection; `data` has `request_id` and `entry_id` first.",
        "security": _EITHER,
        "parameters": [ids, *_FOLLOWING],
        "responses": {**_STREAM, **_errors(400, 401, 404, 431, 503)},
    }


def _open(summary: str, of: type | None, *statuses: int) -> JsonObject:
    described: JsonObject = {"description": summary, "content": _json({"type": "object"})}
    return {
        "summary": summary,
        "security": [],
        "responses": {str(status): _answer(summary, of) if of else described for status in statuses},
    }


def _answer(description: str, of: type) -> JsonObject:
    return {"description": description, "content": _json(_ref(of.__name__))}


def _errors(*statuses: int) -> JsonObject:
    said = {
        400: "something in the request is wrong; the message names it",
        401: "no valid API key or token",
        403: "the key or token does not allow this",
        404: "no such request, or not the caller's",
        408: "the body came too slowly",
        409: "the Idempotency-Key stands with other content",
        413: "the body is too large",
        429: "too many submits; Retry-After says how long to wait",
        431: "the headers are too large",
        503: "not just now; Retry-After says when to come back",
    }
    return {str(status): _answer(said[status], Error) for status in statuses}


def _json(schema: JsonObject) -> JsonObject:
    return {"application/json": {"schema": schema}}


def _ref(name: str) -> JsonObject:
    return {"$ref": _REF.format(name=name)}
