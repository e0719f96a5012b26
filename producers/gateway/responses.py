"""Responses that are not event streams: JSON bodies, and the HTTP status of each error.

The message of an error for the operator is logged, not sent to the caller: it may name hosts and users.
"""

import logging
import math
from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

import msgspec
from starlette.responses import Response

from tailrace.producers.answers import Status
from tailrace.schemas.errors import (
    AccessDenied,
    CursorInvalid,
    LimitExceeded,
    RequestConflict,
    RequestRejected,
    RequestTooLarge,
    StoreError,
    TailraceError,
    UnknownRequest,
)
from tailrace.schemas.outcome import Outcome
from tailrace.telemetry.logging import fields

_logger = logging.getLogger("tailrace.gateway")

_STATUS: Mapping[type[TailraceError], int] = MappingProxyType(
    {
        RequestTooLarge: 413,
        RequestConflict: 409,
        RequestRejected: 400,
        UnknownRequest: 404,
        CursorInvalid: 400,
        StoreError: 503,
    }
)
"""The HTTP status of each kind of error; the first match counts."""

STORE_RETRY_S = 2


class SubmitAnswer(msgspec.Struct, frozen=True, omit_defaults=True):
    """The answer to a submit.

    `already_exists`: an earlier submit with the same Idempotency-Key made this request. `token` lets its holder read
    this request, and cancel it if asked for, until `token_expires_at`.
    """

    id: str
    status: str
    already_exists: bool
    links: dict[str, str]
    token: str | msgspec.UnsetType = msgspec.UNSET
    token_expires_at: str | msgspec.UnsetType = msgspec.UNSET


class RequestState(msgspec.Struct, frozen=True):
    """The state of a request, and its outcome once it has ended."""

    id: str
    state: Status
    outcome: Outcome | None
    links: dict[str, str]


class CancelAnswer(msgspec.Struct, frozen=True):
    """The answer to a cancel: `ended` now, `signalled` (its worker was asked to stop) or `finished` (ended before)."""

    id: str
    verdict: str
    status: str


def json_response(content: object, status: int = 200, headers: Mapping[str, str] = MappingProxyType({})) -> Response:
    """A JSON response that must not be stored."""
    return Response(
        msgspec.json.encode(content),
        status,
        {"cache-control": "no-store", "x-content-type-options": "nosniff", **headers},
        "application/json",
    )


def error_body(code: str, message: str, whose: str, status: int, headers: Mapping[str, str]) -> Response:
    """An error in the form that every route uses."""
    return json_response({"error": {"code": code, "message": message, "whose": whose}}, status, headers)


def error_response(error: TailraceError) -> Response:
    """The response to a call that failed with this error."""
    headers: dict[str, Any] = {}
    match error:
        case AccessDenied():
            status = error.status
            if status == 401:
                headers["www-authenticate"] = "Bearer"
        case LimitExceeded():
            status = error.status
            if error.retry_after_s is not None:
                headers["retry-after"] = str(math.ceil(error.retry_after_s))
        case _:
            status = next((number for kind, number in _STATUS.items() if isinstance(error, kind)), 500)
    if status < 500:
        return error_body(error.code, str(error), error.whose, status, headers)
    _logger.error("%s: %s", error.code, error, extra=fields("call_failed", code=error.code, why=error))
    if status == 503:
        headers["retry-after"] = str(STORE_RETRY_S)
    return error_body(error.code, "the gateway cannot serve this now; try again", error.whose, status, headers)
