"""The gateway's routes: reads each call, asks the client, and answers. Uses only the `RouteContext`."""

import asyncio
import logging
import time
from base64 import urlsafe_b64encode
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime
from hashlib import sha256

import msgspec
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route
from starlette.types import ASGIApp, Receive, Scope, Send

from tailrace.producers.gateway import responses
from tailrace.producers.gateway.access.callers import Caller
from tailrace.producers.gateway.context import RouteContext
from tailrace.producers.gateway.openapi import document
from tailrace.producers.gateway.page import Page
from tailrace.producers.gateway.parameters import (
    follow_options,
    last_event_id,
    links,
    path_id,
    query_ids,
    read_body,
)
from tailrace.producers.gateway.responses import json_response
from tailrace.producers.gateway.streams import sse
from tailrace.producers.gateway.streams.combined_cursor import CombinedCursor
from tailrace.producers.gateway.streams.event_stream import send_retry, spread_retry_ms
from tailrace.producers.gateway.streams.follow import (
    FROM_BEGINNING,
    FollowOptions,
    FrameContents,
    follow,
    frames,
    frames_of_several,
    parse_cursor,
)
from tailrace.producers.gateway.streams.open_streams import FULL_RETRY_MS
from tailrace.producers.tokens import Grant
from tailrace.schemas.errors import AccessDenied, LimitExceeded, RequestRejected, StoreError
from tailrace.schemas.outcome import ENDED
from tailrace.schemas.request import GenerationRequest, parse_request
from tailrace.schemas.trace_context import parse_traceparent
from tailrace.telemetry.logging import fields

_logger = logging.getLogger("tailrace.gateway")


def routes(context: RouteContext) -> list[Route]:
    """Every route of the gateway."""
    requests, events = RequestRoutes(context), EventRoutes(context)
    return [
        *([Route("/", _page_route(context.page), methods=["GET"])] if context.page else []),
        Route("/v1/streams", requests.submit, methods=["POST"]),
        Route("/v1/streams/{id}", requests.get, methods=["GET"]),
        Route("/v1/streams/{id}/cancel", requests.cancel, methods=["POST"]),
        Route("/v1/streams/{id}/events", events.follow_one, methods=["GET"]),
        Route("/v1/events", events.follow_several, methods=["GET"]),
        Route("/healthz", _healthz, methods=["GET"]),
        Route("/readyz", requests.readyz, methods=["GET"]),
        Route("/openapi.json", _openapi, methods=["GET"]),
    ]


class RequestRoutes:
    """Submit, get and cancel requests; readiness.

    Args:
        context: what the routes share.
    """

    def __init__(self, context: RouteContext) -> None:
        self._context = context

    async def submit(self, request: Request) -> Response:
        """`POST /v1/streams`."""
        (caller,) = self._context.callers(request)
        if caller.request_id is not None:
            raise AccessDenied("a token is for one request; submit with an API key", 403)
        grant = request.query_params.get("grant", "read")
        if grant not in ("read", "cancel", "none"):
            raise RequestRejected("grant: give read, cancel or none")
        wait_s = self._context.submit_limit.take_submit(caller.tenant, time.monotonic())
        if wait_s > 0:
            raise LimitExceeded("this tenant has submitted too often; wait", 429, wait_s)
        generation = _owned(parse_request(await read_body(request)), caller, request.headers.get("idempotency-key"))
        generation = _traced(generation, request.headers.get("traceparent"))
        submitted = await (await self._context.client()).submit(generation)
        _logger.info(
            "submitted %s",
            submitted.id,
            extra=fields("request_submitted", submitted.id, already_exists=submitted.already_exists),
        )
        answer = responses.SubmitAnswer(
            submitted.id, submitted.status, submitted.already_exists, links(request, submitted.id)
        )
        if grant != "none":
            answer = self._with_token(answer, generation.tenant, may_cancel=grant == "cancel")
        return json_response(answer, 202, {"location": answer.links["self"]})

    async def get(self, request: Request) -> Response:
        """`GET /v1/streams/{id}`."""
        state = await self._context.visible_status(request, path_id(request))
        outcome = None
        if state.status in ENDED:
            outcome = await (await self._context.client()).result(state.request_id)
        return json_response(responses.RequestState(state.request_id, state, outcome, links(request, state.request_id)))

    async def cancel(self, request: Request) -> Response:
        """`POST /v1/streams/{id}/cancel`."""
        state = await self._context.visible_status(request, path_id(request))
        if not any(
            caller.may_cancel and caller.may_read(state.request_id, state.tenant)
            for caller in self._context.callers(request)
        ):
            raise AccessDenied("this token allows reading the request, not cancelling it", 403)
        result = await (await self._context.client()).cancel(state.request_id)
        answer = responses.CancelAnswer(state.request_id, result.verdict, result.status)
        return json_response(answer, 202 if result.verdict == "signalled" else 200)

    async def readyz(self, request: Request) -> Response:
        """`GET /readyz`: whether the gateway serves calls and Redis answers."""
        if self._context.streams.is_stopping:
            return json_response({"status": "stopping"}, 503)
        try:
            await (await self._context.client()).ping()
        except StoreError:
            return json_response({"status": "redis unavailable"}, 503)
        return json_response({"status": "ready"})

    def _with_token(
        self, answer: responses.SubmitAnswer, tenant: str | None, *, may_cancel: bool
    ) -> responses.SubmitAnswer:
        if self._context.tokens is None:
            return answer
        expires_s = int(time.time() + self._context.token_lifetime_s)
        return msgspec.structs.replace(
            answer,
            token=self._context.tokens.mint(Grant(answer.id, tenant, may_cancel, expires_s)),
            token_expires_at=datetime.fromtimestamp(expires_s, UTC).isoformat().replace("+00:00", "Z"),
        )


class EventRoutes:
    """Event streams over one request or several.

    Args:
        context: what the routes share.
    """

    def __init__(self, context: RouteContext) -> None:
        self._context = context

    async def follow_one(self, request: Request) -> ASGIApp:
        """`GET /v1/streams/{id}/events`."""
        return await self._or_retry(request, self._follow_one)

    async def follow_several(self, request: Request) -> ASGIApp:
        """`GET /v1/events?ids=...`."""
        return await self._or_retry(request, self._follow_several)

    async def _follow_one(self, request: Request) -> ASGIApp:
        request_id = path_id(request)
        options = follow_options(request, parse_cursor(last_event_id(request)))
        contents = await self._follow(request, request_id, options)
        if contents is None:
            return Response(status_code=204)
        return self._context.streams.open_stream([frames(contents)], [request_id])

    async def _follow_several(self, request: Request) -> ASGIApp:
        request_ids = query_ids(request)
        event_id = last_event_id(request)
        combined = CombinedCursor(request_ids, None if event_id == FROM_BEGINNING else event_id)
        unfinished = [request_id for request_id in request_ids if not combined.has_ended(request_id)]
        found = await asyncio.gather(
            *(self._follow(request, one, follow_options(request, combined.cursor(one))) for one in unfinished)
        )
        followed = {
            request_id: frames_of_several(request_id, contents, combined)
            for request_id, contents in zip(unfinished, found, strict=True)
            if contents is not None
        }
        if not followed:
            return Response(status_code=204)
        return self._context.streams.open_stream(list(followed.values()), list(followed))

    async def _follow(self, request: Request, request_id: str, options: FollowOptions) -> FrameContents | None:
        await self._context.visible_status(request, request_id)
        return await follow(await self._context.client(), request_id, options)

    async def _or_retry(self, request: Request, answer: Callable[[Request], Awaitable[ASGIApp]]) -> ASGIApp:
        """The answer. If it fails for now, an `EventSource` gets a time to reconnect; other callers get an error."""
        if request.method == "HEAD":
            return Response(headers=sse.HEADERS)
        is_event_source = "text/event-stream" in request.headers.get("accept", "")
        streams = self._context.streams
        try:
            streams.check_room()
            return await answer(request)
        except (LimitExceeded, StoreError):
            if is_event_source:
                return _retry_response(FULL_RETRY_MS if streams.is_full else spread_retry_ms())
            raise


async def _healthz(request: Request) -> Response:
    return json_response({"status": "ok"})


async def _openapi(request: Request) -> Response:
    return json_response(document())


def _page_route(page: Page) -> Callable[[Request], Awaitable[Response]]:
    async def answer(request: Request) -> Response:
        return Response(page.body, headers=page.headers, media_type="text/html")

    return answer


def _retry_response(retry_ms: int) -> ASGIApp:
    async def respond(scope: Scope, receive: Receive, send: Send) -> None:
        await send_retry(send, retry_ms)

    return respond


def _owned(request: GenerationRequest, caller: Caller, idempotency_key: str | None) -> GenerationRequest:
    """The request with its caller's tenant, and with an id that no other tenant's request can have."""
    if request.id is not None:
        raise RequestRejected("id: leave it out; to submit idempotently, send an Idempotency-Key header")
    if not caller.is_anyone and request.tenant not in (None, caller.tenant):
        raise AccessDenied("tenant: leave it out; the API key determines it", 403)
    tenant = request.tenant if caller.is_anyone else caller.tenant
    return request.model_copy(update={"tenant": tenant, "id": _derived_id(tenant, idempotency_key)})


def _traced(request: GenerationRequest, traceparent: str | None) -> GenerationRequest:
    """The request in its caller's trace. A malformed header is ignored, as W3C Trace Context demands."""
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
