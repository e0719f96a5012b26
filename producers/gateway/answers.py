"""Answers that are not event streams: JSON bodies, and what each error of ours is in HTTP.

An error of the operator's is told to the log, not to the caller: it may name hosts and users.
"""

import logging
import math
from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

import msgspec
from starlette.responses import Response

from tailrace.producers.answers import Status
from tailrace.producers.gateway.access.access import AccessDenied
from tailrace.schemas.errors import (
    CursorInvalid,
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
"""The first that an error is an instance of counts."""

STORE_RETRY_S = 2


class Submitted(msgspec.Struct, frozen=True, omit_defaults=True):
    """The answer to a submit. `token` reads this request (or also cancels it) until `token_expires_at`."""

    id: str
    status: str
    standing: bool
    links: dict[str, str]
    token: str | msgspec.UnsetType = msgspec.UNSET
    token_expires_at: str | msgspec.UnsetType = msgspec.UNSET


class Stream(msgspec.Struct, frozen=True):
    """Where a request stands, and its outcome once it has one."""

    id: str
    state: Status
    outcome: Outcome | None
    links: dict[str, str]


class CancelAnswer(msgspec.Struct, frozen=True):
    """The answer to a cancel: `ended`, `signalled` (its worker is told) or `finished` (it had ended before)."""

    id: str
    verdict: str
    status: str


class Limit(TailraceError):
    """A limit of the gateway's own, with the HTTP status that says so."""

    code = "limit"

    def __init__(self, message: str, status: int, retry_after_s: float | None = None) -> None:
        super().__init__(message)
        self.whose = "caller"
        self.status = status
        self.retry_after_s = retry_after_s


def as_json(content: object, status: int = 200, headers: Mapping[str, str] = MappingProxyType({})) -> Response:
    """A JSON answer that nobody stores."""
    return Response(
        msgspec.json.encode(content),
        status,
        {"cache-control": "no-store", "x-content-type-options": "nosniff", **headers},
        "application/json",
    )


def refusal(code: str, message: str, whose: str, status: int, headers: Mapping[str, str]) -> Response:
    """An error as every route answers it."""
    return as_json({"error": {"code": code, "message": message, "whose": whose}}, status, headers)


def of_error(error: TailraceError) -> Response:
    """The answer that says what was wrong."""
    headers: dict[str, Any] = {}
    match error:
        case AccessDenied():
            status = error.status
            if status == 401:
                headers["www-authenticate"] = "Bearer"
        case Limit():
            status = error.status
            if error.retry_after_s is not None:
                headers["retry-after"] = str(math.ceil(error.retry_after_s))
        case _:
            status = next((number for kind, number in _STATUS.items() if isinstance(error, kind)), 500)
    if status < 500:
        return refusal(error.code, str(error), error.whose, status, headers)
    _logger.error("%s: %s", error.code, error, extra=fields("call_failed", code=error.code, why=error))
    if status == 503:
        headers["retry-after"] = str(STORE_RETRY_S)
    return refusal(error.code, "this cannot be served just now; try again", error.whose, status, headers)
