"""The gateway: an ASGI application, served by itself or mounted in another. Composes access, routes and streams.

Owns the client and how the gateway stops.
"""

import asyncio
import logging
from collections.abc import AsyncGenerator, Callable
from contextlib import asynccontextmanager

from starlette.applications import Starlette
from starlette.datastructures import Headers
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.middleware.cors import CORSMiddleware
from starlette.requests import Request
from starlette.responses import Response
from starlette.types import Message, Receive, Scope, Send

from tailrace.producers.client import Client
from tailrace.producers.gateway.access.callers import Authenticator
from tailrace.producers.gateway.access.key_file import KeyFile
from tailrace.producers.gateway.access.origins import is_cross_site, parse_origins
from tailrace.producers.gateway.access.submit_limit import SubmitLimit
from tailrace.producers.gateway.context import RouteContext
from tailrace.producers.gateway.metrics import GatewayCounts
from tailrace.producers.gateway.page import page
from tailrace.producers.gateway.parameters import MAX_HEAD_BYTES
from tailrace.producers.gateway.responses import error_body, error_response
from tailrace.producers.gateway.routes import routes
from tailrace.producers.gateway.streams.event_stream import StreamLimits
from tailrace.producers.gateway.streams.open_streams import OpenStreams
from tailrace.producers.tail.fanout.fanout import Following
from tailrace.producers.tokens import TokenSigner
from tailrace.schemas.errors import AccessDenied, LimitExceeded, SettingsError, TailraceError
from tailrace.schemas.settings import Settings
from tailrace.telemetry.logging import fields
from tailrace.telemetry.metric_samples import MetricSample

_logger = logging.getLogger("tailrace.gateway")

Connect = Callable[[], Client]


class Gateway:
    """The application. Serve it by itself, or mount it: `app.mount("/llm", Gateway(settings))`.

    It connects to Redis with the first call that needs it, or at startup when its own lifespan runs. An application
    that mounts it calls `stop` when it begins to shut down, and `close` at the end.

    Args:
        settings: the settings of this process.
        connect: makes the client; by default from the settings.
        is_open: whether calls need no API key and the page to watch is on. For trying the gateway on one machine.

    Raises:
        SettingsError: there are no API keys, or a setting is invalid.

    Attributes:
        streams: the open event streams.
        limits: the limits of each.
        routes: the routes, for an application that composes its own.
    """

    def __init__(self, settings: Settings, connect: Connect | None = None, *, is_open: bool = False) -> None:
        if not is_open and not settings.gateway_keys_file:
            raise SettingsError(
                "TAILRACE_GATEWAY_KEYS_FILE: is not set, so nobody could call the gateway; "
                "make a key with `tailrace key new --tenant NAME --file FILE`, or try it with --open"
            )
        tokens = TokenSigner.from_setting(settings.token_secrets.get_secret_value())
        if settings.gateway_page and not is_open and tokens is None:
            raise SettingsError("TAILRACE_TOKEN_SECRETS: is not set, and the page reads with tokens")
        self.limits = StreamLimits(
            settings.gateway_heartbeat_s, settings.gateway_write_timeout_s, settings.gateway_buffer_bytes
        )
        self._origins = parse_origins(settings.gateway_origins)
        self._counts = GatewayCounts()
        self._authenticator = Authenticator(None if is_open else KeyFile(settings.gateway_keys_file), tokens)
        self.streams = OpenStreams(settings.gateway_max_streams, self.limits, self._counts)
        self._connect = connect or (lambda: Client.from_settings(settings))
        self._client: Client | None = None
        self._connecting = asyncio.Lock()
        self.routes = routes(
            RouteContext(
                client=self.client,
                authenticator=self._authenticator,
                submit_limit=SubmitLimit(settings.gateway_submits_per_minute),
                streams=self.streams,
                tokens=tokens,
                token_lifetime_s=settings.token_lifetime_s,
                page=page(is_open=is_open) if is_open or settings.gateway_page else None,
            )
        )
        self._app = Starlette(
            routes=self.routes,
            middleware=self._middleware(),
            exception_handlers={TailraceError: _answer_error, HTTPException: _answer_http_error},
            lifespan=self._lifespan,
        )
        self._app.router.redirect_slashes = False  # the redirect would go to the host that the caller named

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """ASGI."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
        elif error := self._reject(scope):
            await error_response(error)(scope, receive, self._logged(scope, send))
        else:
            await self._app(scope, receive, self._logged(scope, send))

    async def client(self) -> Client:
        """The gateway's client, connected by the first call.

        Raises:
            StoreError: Redis cannot be reached, or refuses the connection.
        """
        async with self._connecting:
            if self._client is None:
                self._client = await self._connect().__aenter__()
            return self._client

    def metric_samples(self) -> list[MetricSample]:
        """The gateway's metrics, for `tailrace.telemetry.exposition.render_samples`."""
        following = self._client.following if self._client is not None else Following(0, 0, 0)
        return self._counts.metric_samples(len(self.streams), following)

    def stop(self) -> None:
        """Ends all event streams with a hint when to reconnect; `/readyz` answers 503, other calls still work."""
        self.streams.stop()

    async def close(self) -> None:
        """Stops, and closes the client."""
        self.stop()
        if self._client is not None:
            await self._client.aclose()

    def _logged(self, scope: Scope, send: Send) -> Send:
        """Counts and logs a response: method, path and status, but not the query, which may contain a token."""

        async def send_logged(message: Message) -> None:
            if message["type"] == "http.response.start":
                path = scope["path"].encode("unicode_escape").decode()
                self._counts.responses.increment(str(message["status"]))
                request_id = scope.get("path_params", {}).get("id")
                method, status = scope["method"], message["status"]
                _logger.info(
                    "%s %s %d",
                    method,
                    path,
                    status,
                    extra=fields("call_answered", request_id, method=method, path=path, status=status),
                )
            await send(message)

        return send_logged

    def _reject(self, scope: Scope) -> TailraceError | None:
        """The error of a call that no route may answer."""
        if _head_bytes(scope) > MAX_HEAD_BYTES:
            return LimitExceeded(f"headers and address have more than {MAX_HEAD_BYTES:,} bytes, the limit", 431)
        headers = Headers(scope=scope)
        if self._authenticator.is_open and is_cross_site(headers.get("host", ""), headers.get("origin"), self._origins):
            return AccessDenied("a gateway without keys serves only programs and pages of this machine", 403)
        return None

    def _middleware(self) -> list[Middleware]:
        if not self._origins:
            return []
        return [
            Middleware(
                CORSMiddleware,
                allow_origins=self._origins,
                allow_methods=["GET", "POST"],
                allow_headers=["Authorization", "Content-Type", "Idempotency-Key", "Last-Event-ID"],
                expose_headers=["Location", "Retry-After"],
            )
        ]

    @asynccontextmanager
    async def _lifespan(self, app: Starlette) -> AsyncGenerator[None]:
        await self.client()
        yield
        await self.close()


def _answer_error(request: Request, error: Exception) -> Response:
    assert isinstance(error, TailraceError)  # noqa: S101 - it is registered for this class only
    return error_response(error)


def _answer_http_error(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)  # noqa: S101 - it is registered for this class only
    return error_body(
        "not_found" if error.status_code == 404 else "request_invalid",
        error.detail,
        "caller",
        error.status_code,
        error.headers or {},
    )


def _head_bytes(scope: Scope) -> int:
    headers: list[tuple[bytes, bytes]] = scope["headers"]
    lines = sum(len(name) + len(value) + len(": \r\n") for name, value in headers)
    return lines + len(scope["path"]) + len(scope["query_string"])
