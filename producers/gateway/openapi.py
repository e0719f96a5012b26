"""The OpenAPI document (3.1). Its schemas are generated from the structs that the routes return."""

from functools import cache
from importlib.metadata import version
from typing import Any

import msgspec
from pydantic.json_schema import models_json_schema

from tailrace.producers.gateway import responses
from tailrace.producers.tail.snapshot import Snapshot
from tailrace.schemas.deltas import LogEntry, ReaderEvent
from tailrace.schemas.errors import Whose
from tailrace.schemas.request import GenerationRequest

JsonObject = dict[str, Any]

_REF = "#/components/schemas/{name}"


class ErrorBody(msgspec.Struct, frozen=True):
    """`code` is for programs, `message` for people; `whose` says who can act on it."""

    code: str
    message: str
    whose: Whose


class Error(msgspec.Struct, frozen=True):
    """The body of every error response."""

    error: ErrorBody


class Health(msgspec.Struct, frozen=True):
    """The body of `/healthz` and `/readyz`."""

    status: str


@cache
def document() -> JsonObject:
    """The OpenAPI document."""
    return {
        "openapi": "3.1.0",
        "info": {"title": "Tailrace gateway", "version": version("tailrace")},
        "security": [{"bearer": []}],
        "paths": {
            "/v1/streams": {"post": _submit()},
            "/v1/streams/{id}": {"get": _get(), "parameters": [_ID]},
            "/v1/streams/{id}/cancel": {"post": _cancel(), "parameters": [_ID]},
            "/v1/streams/{id}/events": {"get": _events(), "parameters": [_ID]},
            "/v1/events": {"get": _events_of_several()},
            "/healthz": {"get": _public("Liveness of the process.", Health, 200)},
            "/readyz": {"get": _public("Readiness: the gateway serves calls and Redis answers.", Health, 200, 503)},
            "/openapi.json": {"get": _public("This document.", None, 200)},
        },
        "components": {
            "schemas": _schemas(),
            "securitySchemes": {
                "bearer": {
                    "type": "http",
                    "scheme": "bearer",
                    "description": "An API key, or a token for one request.",
                },
                "token": {
                    "type": "apiKey",
                    "in": "query",
                    "name": "token",
                    "description": "A token, for `EventSource`, which cannot send headers.",
                },
            },
        },
    }


def _schemas() -> JsonObject:
    returned = (
        *(responses.SubmitAnswer, responses.RequestState, responses.CancelAnswer, Error, Health),
        *(Snapshot, LogEntry, ReaderEvent),
    )
    _, structs = msgspec.json.schema_components(returned, ref_template=_REF)
    _, models = models_json_schema([(GenerationRequest, "validation")], ref_template="#/components/schemas/{model}")
    request = models["$defs"]
    request["GenerationRequest"]["properties"].pop("id")  # the gateway chooses it
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
        "summary": "Submit a request.",
        "parameters": [
            _parameter(
                *("Idempotency-Key", {"type": "string", "minLength": 1, "maxLength": 255}),
                "Makes the submit idempotent: a repeated key with the same content returns the existing request, with "
                "different content a conflict.",
                "header",
            ),
            _parameter(
                "grant",
                {"enum": ["read", "cancel", "none"], "default": "read"},
                "What the token in the response allows.",
            ),
        ],
        "requestBody": {"required": True, "content": _json(_ref("GenerationRequest"))},
        "responses": {
            "202": {
                **_answer("The request was accepted, now or by an earlier submit.", responses.SubmitAnswer),
                "headers": {"Location": {"schema": _TEXT, "description": "The path of the request."}},
            },
            **_errors(400, 401, 403, 408, 409, 413, 429, 431, 503),
        },
    }


def _get() -> JsonObject:
    return {
        "operationId": "get",
        "summary": "Get the state of a request, and its outcome once it has ended.",
        "security": _EITHER,
        "responses": {"200": _answer("The current state.", responses.RequestState), **_errors(401, 404, 431, 503)},
    }


def _cancel() -> JsonObject:
    return {
        "operationId": "cancel",
        "summary": "Cancel a request, whether it is queued or running.",
        "responses": {
            "200": _answer("The request has ended, because of this call or earlier.", responses.CancelAnswer),
            "202": _answer("Its worker was asked to stop.", responses.CancelAnswer),
            **_errors(401, 403, 404, 431, 503),
        },
    }


_EITHER: list[JsonObject] = [{"bearer": []}, {"token": []}]

_FOLLOWING: list[JsonObject] = [
    _parameter("Last-Event-ID", _TEXT, "The id of the last frame seen. Takes precedence over `after`.", "header"),
    _parameter("after", _TEXT, "The id of the last frame seen; -1 or absent for the beginning."),
    _parameter(
        "snapshot", {"enum": ["0", "1"]}, "Whether to begin with one frame that contains all deltas so far, merged."
    ),
    _parameter(
        "format", {"enum": ["raw", "letta"], "default": "raw"}, "Entries as in the log, or deltas as Letta messages."
    ),
]

_STREAM: JsonObject = {
    "200": {
        "description": "Frames up to the terminal. `id` is the cursor, `event` the entry's message_type, `data` the "
        "entry.",
        "content": {"text/event-stream": {"schema": _TEXT}},
    },
    "204": {"description": "The reader has seen the terminal and need not reconnect."},
}


def _events() -> JsonObject:
    return {
        "operationId": "events",
        "summary": "Follow a request from its beginning, or after a cursor.",
        "security": _EITHER,
        "parameters": _FOLLOWING,
        "responses": {**_STREAM, **_errors(400, 401, 404, 431, 503)},
    }


def _events_of_several() -> JsonObject:
    ids = _parameter("ids", _TEXT, "Request ids, separated by commas.", required=True)
    return {
        "operationId": "eventsOfSeveral",
        "summary": "Follow several requests on one connection; `data` begins with `request_id` and `entry_id`.",
        "security": _EITHER,
        "parameters": [ids, *_FOLLOWING],
        "responses": {**_STREAM, **_errors(400, 401, 404, 431, 503)},
    }


def _public(summary: str, of: type | None, *statuses: int) -> JsonObject:
    described: JsonObject = {"description": summary, "content": _json({"type": "object"})}
    return {
        "summary": summary,
        "security": [],
        "responses": {str(status): _answer(summary, of) if of else described for status in statuses},
    }


def _answer(description: str, of: type) -> JsonObject:
    return {"description": description, "content": _json(_ref(of.__name__))}


def _errors(*statuses: int) -> JsonObject:
    descriptions = {
        400: "The request is invalid; the message names what is wrong.",
        401: "The API key or token is missing or invalid.",
        403: "The API key or token does not allow this.",
        404: "There is no such request, or the caller may not see it.",
        408: "The body arrived too slowly.",
        409: "The Idempotency-Key was used with different content.",
        413: "The body is too large.",
        429: "The tenant has submitted too often; see Retry-After.",
        431: "The headers are too large.",
        503: "The gateway cannot serve this now; see Retry-After.",
    }
    return {str(status): _answer(descriptions[status], Error) for status in statuses}


def _json(schema: JsonObject) -> JsonObject:
    return {"application/json": {"schema": schema}}


def _ref(name: str) -> JsonObject:
    return {"$ref": _REF.format(name=name)}
