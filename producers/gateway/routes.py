"""The gateway's routes: what is asked, by whom, and the answer. Reads requests, within limits."""

import asyncio
import logging
import time
from base64 import urlsafe_b64encode
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime
from hashlib import sha256
from typing import TYPE_CHECKING

import msgspec
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response
from starlette.routing import Route
from starlette.types import ASGIApp, Receive, Scope, Send

from tailrace.producers.answers import Status
from tailrace.producers.gateway import answers
from tailrace.producers.gateway.access.access import AccessDenied, Caller
from tailrace.producers.gateway.answers import Limit, as_json
from tailrace.producers.gateway.openapi import document
from tailrace.producers.gateway.page import Page
from tailrace.producers.gateway.streams import sse
from tailrace.producers.gateway.streams.cursors import Places
from tailrace.producers.gateway.streams.event_stream import come_back, spread_ms
from tailrace.producers.gateway.streams.following import Pieces, Wanted, cursor_of, follow, frames, frames_among
from tailrace.producers.tokens import Grant
from tailrace.schemas.errors import RequestRejected, StoreError, UnknownRequest
from tailrace.schemas.ids import REQUEST_ID_PATTERN
from tailrace.schemas.request import MAX_REQUEST_BYTES, GenerationRequest, parse_request
from tailrace.schemas.trace_context import parse_traceparent
from tailrace.telemetry.logging import fields

if TYPE_CHECKING:
    from tailrace.producers.gateway.app import Gateway

MAX_BODY_BYTES = 2 * MAX_REQUEST_BYTES
"""JSON may be longer than what is stored of it."""

MAX_HEAD_BYTES = 32 * 1024
"""Headers and address together."""

MAX_FOLLOWED = 50
BODY_TIMEOUT_S = 30.0
FULL_RETRY_MS = 5_000

_logger = logging.getLogger("tailrace.gateway")
_ENDED = ("completed", "incomplete", "failed", "cancelled")
_YES = ("1", "true")


def routes(gateway: "Gateway") -> list[Route]:
    """Every route of the gateway."""
    streams, watching = Streams(gateway), Watching(gateway)
    return [
        *([Route("/", _page(gateway.page), methods=["GET"])] if gateway.page else []),
        Route("/v1/streams", streams.submit, methods=["POST"]),
        Route("/v1/streams/{id}", streams.look, methods=["GET"]),
        Route("/v1/streams/{id}/cancel", streams.cancel, methods=["POST"]),
        Route("/v1/streams/{id}/events", watching.one, methods=["GET"]),
        Route("/v1/events", watching.several, methods=["GET"]),
        Route("/healthz", _healthz, methods=["GET"]),
        Route("/readyz", streams.readyz, methods=["GET"]),
        Route("/openapi.json", _openapi, methods=["GET"]),
    ]


class Streams:
    """Submit, look, cancel.

    Args:
        gateway: whose routes these are.
    """

    def __init__(self, gateway: "Gateway") -> None:
        self._gateway = gateway

    async def submit(self, request: Request) -> Response:
        """`POST /v1/streams`."""
        (caller,) = _callers(self._gateway, request)
        if caller.request_id is not None:
            raise AccessDenied("a token is for one request; submit with an API key", 403)
        asked = request.query_params.get("grant", "read")
        if asked not in ("read", "cancel", "none"):
            raise RequestRejected("grant: give read, cancel or none")
        wait_s = self._gateway.allowance.wait_s(caller.tenant, time.monotonic())
        if wait_s > 0:
            raise Limit("too many submits of this tenant: wait", 429, wait_s)
        wanted = _owned(parse_request(await _body(request)), caller, request.headers.get("idempotency-key"))
        wanted = _traced(wanted, request.headers.get("traceparent"))
        submitted = await (await self._gateway.client()).submit(wanted)
        _logger.info(
            "submitted %s", submitted.id, extra=fields("request_submitted", submitted.id, standing=submitted.standing)
        )
        links = _links(request, submitted.id)
        answer = answers.Submitted(submitted.id, submitted.status, submitted.standing, links)
        if self._gateway.tokens is not None and asked != "none":
            expires_s = int(time.time() + self._gateway.settings.token_lifetime_s)
            answer = msgspec.structs.replace(
                answer,
                token=self._gateway.tokens.mint(Grant(submitted.id, wanted.tenant, asked == "cancel", expires_s)),
                token_expires_at=datetime.fromtimestamp(expires_s, UTC).isoformat().replace("+00:00", "Z"),
            )
        return as_json(answer, 202, {"location": links["self"]})

    async def look(self, request: Request) -> Response:
        """`GET /v1/streams/{id}`."""
        state = await _seen(self._gateway, request, _id(request))
        outcome = None
        if state.status in _ENDED:
            outcome = await (await self._gateway.client()).result(state.request_id)
        return as_json(answers.Stream(state.request_id, state, outcome, _links(request, state.request_id)))

    async def cancel(self, request: Request) -> Response:
        """`POST /v1/streams/{id}/cancel`."""
        state = await _seen(self._gateway, request, _id(request))
        if not any(
            caller.may_cancel and caller.may_read(state.request_id, state.tenant)
            for caller in _callers(self._gateway, request)
        ):
            raise AccessDenied("this token may read the request, not cancel it", 403)
        verdict = await (await self._gateway.client()).cancel(state.request_id)
        answer = answers.CancelAnswer(state.request_id, verdict.word, verdict.status)
        return as_json(answer, 202 if verdict.word == "signalled" else 200)

    async def readyz(self, request: Request) -> Response:
        """`GET /readyz`: whether it serves, with a Redis that answers."""
        if self._gateway.is_stopping:
            return as_json({"status": "stopping"}, 503)
        try:
            await (await self._gateway.client()).reach()
        except StoreError:
            return as_json({"status": "redis is away"}, 503)
        return as_json({"status": "ready"})


class Watching:
    """Event streams.

    Args:
        gateway: whose routes these are.
    """

    def __init__(self, gateway: "Gateway") -> None:
        self._gateway = gateway

    async def one(self, request: Request) -> ASGIApp:
        """`GET /v1/streams/{id}/events`."""
        return await self._unless_away(request, self._one)

    async def several(self, request: Request) -> ASGIApp:
        """`GET /v1/events?ids=...`."""
        return await self._unless_away(request, self._several)

    async def _one(self, request: Request) -> ASGIApp:
        request_id = _id(request)
        wanted = _wanted(request, cursor_of(_place(request)))
        pieces = await self._pieces(request, request_id, wanted)
        if pieces is None:
            return Response(status_code=204)
        return self._gateway.stream([frames(pieces)], request_id)

    async def _several(self, request: Request) -> ASGIApp:
        request_ids = _ids(request)
        place = _place(request)
        places = Places(request_ids, None if place == "-1" else place)
        still = [request_id for request_id in request_ids if not places.has_ended(request_id)]
        opened = await asyncio.gather(
            *(self._pieces(request, one, _wanted(request, places.cursor(one))) for one in still)
        )
        followers = [
            frames_among(request_id, pieces, places)
            for request_id, pieces in zip(still, opened, strict=True)
            if pieces is not None
        ]
        if not followers:
            return Response(status_code=204)
        return self._gateway.stream(followers, f"of {len(followers)} requests")

    async def _pieces(self, request: Request, request_id: str, wanted: Wanted) -> Pieces | None:
        state = await _seen(self._gateway, request, request_id)
        return await follow(await self._gateway.client(), request_id, wanted, has_ended=state.status in _ENDED)

    async def _unless_away(self, request: Request, answer: Callable[[Request], Awaitable[ASGIApp]]) -> ASGIApp:
        """An `EventSource` is told to come back where we cannot serve it now; whoever else gets an error."""
        if request.method == "HEAD":
            return Response(headers=sse.HEADERS)
        returns = "text/event-stream" in request.headers.get("accept", "")
        try:
            self._gateway.admit()
            return await answer(request)
        except (Limit, StoreError):
            if returns:
                return _come_back_in(FULL_RETRY_MS if self._gateway.is_full else spread_ms())
            raise


async def _healthz(request: Request) -> Response:
    return as_json({"status": "ok"})


async def _openapi(request: Request) -> Response:
    return as_json(document())


def _page(page: Page) -> Callable[[Request], Awaitable[Response]]:
    async def answer(request: Request) -> Response:
        return Response(page.body, headers=page.headers, media_type="text/html")

    return answer


def _come_back_in(retry_ms: int) -> ASGIApp:
    async def over(scope: Scope, receive: Receive, send: Send) -> None:
        await come_back(send, retry_ms)

    return over


def _callers(gateway: "Gateway", request: Request) -> list[Caller]:
    """Everybody the call speaks for. Only a GET takes tokens from its query, for `EventSource` can send no headers."""
    tokens = request.query_params.getlist("token") if request.method in ("GET", "HEAD") else []
    return gateway.access.callers(request.headers.get("authorization"), tokens)


async def _seen(gateway: "Gateway", request: Request, request_id: str) -> Status:
    """Where a request stands, for somebody who may know. For everybody else it is as unknown as one that never was."""
    callers = _callers(gateway, request)
    if REQUEST_ID_PATTERN.match(request_id) is None or all(
        caller.request_id not in (None, request_id) for caller in callers
    ):
        raise UnknownRequest.of(request_id)
    state = await (await gateway.client()).status(request_id)
    if not any(caller.may_read(request_id, state.tenant) for caller in callers):
        raise UnknownRequest.of(request_id)
    return state


def _owned(request: GenerationRequest, caller: Caller, idempotency_key: str | None) -> GenerationRequest:
    """The request as its caller's own: of their tenant, with an id that no other tenant can meet."""
    if request.id is not None:
        raise RequestRejected("id: leave it out; for a submit that can be repeated give an Idempotency-Key header")
    if not caller.is_anyone and request.tenant not in (None, caller.tenant):
        raise AccessDenied("tenant: leave it out; it is the API key's", 403)
    tenant = request.tenant if caller.is_anyone else caller.tenant
    return request.model_copy(update={"tenant": tenant, "id": _derived_id(tenant, idempotency_key)})


def _traced(request: GenerationRequest, traceparent: str | None) -> GenerationRequest:
    """The request in the trace of its caller, as the header says. One that cannot be read is ignored, as W3C has it."""
    if request.traceparent is not None or traceparent is None:
        return request
    try:
        return request.model_copy(update={"traceparent": str(parse_traceparent(traceparent))})
    except ValueError:
        return request


def _derived_id(tenant: str | None, idempotency_key: str | None) -> str | None:
    if idempotency_key is None:
        return None
    if not 1 <= len(idempotency_key) <= 255:
        raise RequestRejected("Idempotency-Key: give 1 to 255 characters")
    digest = sha256(f"{tenant or ''}\n{idempotency_key}".encode()).digest()
    return f"i{urlsafe_b64encode(digest).rstrip(b'=').decode()}"


async def _body(request: Request) -> bytes:
    """The body, within limits of size and time."""
    told = request.headers.get("content-length", "")
    if told.isdecimal() and int(told) > MAX_BODY_BYTES:
        raise Limit(f"the body has {int(told):,} bytes, the limit is {MAX_BODY_BYTES:,}", 413)
    body = bytearray()
    try:
        async with asyncio.timeout(BODY_TIMEOUT_S):
            async for piece in request.stream():
                body += piece
                if len(body) > MAX_BODY_BYTES:
                    raise Limit(f"the body has more than {MAX_BODY_BYTES:,} bytes, the limit", 413)
    except TimeoutError as error:
        raise Limit(f"the body did not come within {BODY_TIMEOUT_S:g} s", 408) from error
    except ClientDisconnect as error:
        raise Limit("the body ended before its end", 400) from error
    return bytes(body)


def _id(request: Request) -> str:
    return request.path_params["id"]


def _ids(request: Request) -> list[str]:
    ids = list(dict.fromkeys(filter(None, request.query_params.get("ids", "").split(","))))
    if not 1 <= len(ids) <= MAX_FOLLOWED:
        raise RequestRejected(f"ids: name 1 to {MAX_FOLLOWED} requests, separated by commas")
    return ids


def _place(request: Request) -> str | None:
    """Where a reader has come to. An `EventSource` that returns says it in a header, and its URL is still the first."""
    return request.headers.get("last-event-id") or request.query_params.get("after") or None


def _wanted(request: Request, after: str | None) -> Wanted:
    form = request.query_params.get("format", "raw")
    if form not in ("raw", "letta"):
        raise RequestRejected("format: give raw or letta")
    return Wanted(after, request.query_params.get("snapshot") in _YES, form)


def _links(request: Request, request_id: str) -> dict[str, str]:
    here = f"{request.scope.get('root_path', '')}/v1/streams/{request_id}"
    return {"self": here, "events": f"{here}/events", "cancel": f"{here}/cancel"}
