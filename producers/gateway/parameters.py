"""Reads path, query, headers and body of an HTTP call, within limits. Knows nothing of access or Redis."""

import asyncio

from starlette.requests import ClientDisconnect, Request

from tailrace.producers.gateway.streams.follow import FollowOptions
from tailrace.schemas.errors import LimitExceeded, RequestRejected
from tailrace.schemas.request import MAX_REQUEST_BYTES

MAX_BODY_BYTES = 2 * MAX_REQUEST_BYTES
"""A body may be longer than the request that is stored: JSON text has spaces and escapes."""

MAX_HEAD_BYTES = 32 * 1024
"""The limit for headers and address together."""

MAX_FOLLOWED = 50
BODY_TIMEOUT_S = 30.0

_TRUE = ("1", "true")


async def read_body(request: Request) -> bytes:
    """The body of a call.

    Raises:
        LimitExceeded: the body is too large, too slow or incomplete.
    """
    announced = request.headers.get("content-length", "")
    if announced.isdecimal() and int(announced) > MAX_BODY_BYTES:
        raise LimitExceeded(f"the body has {int(announced):,} bytes, the limit is {MAX_BODY_BYTES:,}", 413)
    body = bytearray()
    try:
        async with asyncio.timeout(BODY_TIMEOUT_S):
            async for piece in request.stream():
                body += piece
                if len(body) > MAX_BODY_BYTES:
                    raise LimitExceeded(f"the body has more than {MAX_BODY_BYTES:,} bytes, the limit", 413)
    except TimeoutError as error:
        raise LimitExceeded(f"the body did not arrive within {BODY_TIMEOUT_S:g} s", 408) from error
    except ClientDisconnect as error:
        raise LimitExceeded("the connection was closed before the end of the body", 400) from error
    return bytes(body)


def path_id(request: Request) -> str:
    """The request id in the path."""
    return request.path_params["id"]


def query_ids(request: Request) -> list[str]:
    """The request ids in the query, each once.

    Raises:
        RequestRejected: there are none, or too many.
    """
    ids = list(dict.fromkeys(filter(None, request.query_params.get("ids", "").split(","))))
    if not 1 <= len(ids) <= MAX_FOLLOWED:
        raise RequestRejected(f"ids: give 1 to {MAX_FOLLOWED} request ids, separated by commas")
    return ids


def last_event_id(request: Request) -> str | None:
    """The reader's last event id. The header wins: an `EventSource` that reconnects still uses its first URL."""
    return request.headers.get("last-event-id") or request.query_params.get("after") or None


def follow_options(request: Request, after: str | None) -> FollowOptions:
    """How the caller wants to follow a request, after this cursor.

    Raises:
        RequestRejected: the format is unknown.
    """
    format = request.query_params.get("format", "raw")
    if format not in ("raw", "letta"):
        raise RequestRejected("format: give raw or letta")
    return FollowOptions(after, request.query_params.get("snapshot") in _TRUE, format)


def links(request: Request, request_id: str) -> dict[str, str]:
    """The paths of a request's routes, as the caller reaches them."""
    path = f"{request.scope.get('root_path', '')}/v1/streams/{request_id}"
    return {"self": path, "events": f"{path}/events", "cancel": f"{path}/cancel"}
