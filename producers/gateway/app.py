"""The gateway: an ASGI application that a web tier can also mount in its own. Composes access, routes and streams.

Owns the client's life, the streams that are open, and how they end when the gateway stops.
"""

import asyncio
import logging
import time
from collections.abc import AsyncGenerator, Awaitable, Callable
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
from tailrace.producers.gateway.access.access import (
    Access,
    AccessDenied,
    Allowance,
    KeyFile,
    is_from_elsewhere,
    origins_of,
)
from tailrace.producers.gateway.answers import Limit, of_error, refusal
from tailrace.producers.gateway.metrics import GatewayCounts
from tailrace.producers.gateway.page import page
from tailrace.producers.gateway.routes import FULL_RETRY_MS, MAX_HEAD_BYTES, routes
from tailrace.producers.gateway.streams.event_stream import End, EventStream, Frames, Limits
from tailrace.producers.tail.fanout.fanout import Following
from tailrace.producers.tokens import TokenSigner
from tailrace.schemas.errors import SettingsError, TailraceError
from tailrace.schemas.settings import Settings
from tailrace.telemetry.logging import fields
from tailrace.telemetry.metric_samples import Figure

_logger = logging.getLogger("tailrace.gateway")

Connect = Callable[[], Awaitable[Client]]


class Gateway:
    """The application: serve it by itself, or mount it: `app.mount("/llm", Gateway(settings))`.

    It connects to Redis with the first request that needs it, or at the start where its own lifespan is run. A
    web tier that mounts it calls `stop` when it begins to shut down, and `close` at the end.

    Args:
        settings: of this process.
        connect: makes the client, in place of one after the settings.
        is_open: ask nobody who they are, and have the page to watch. For trying it on one machine.

    Raises:
        SettingsError: there are no API keys, or something in the settings cannot be used.
    """

    def __init__(self, settings: Settings, connect: Connect | None = None, *, is_open: bool = False) -> None:
        if not is_open and not settings.gateway_keys_file:
            raise SettingsError(
                "TAILRACE_GATEWAY_KEYS_FILE: is not set, so nobody could call; "
                "make a key with `tailrace key new --tenant NAME --file FILE`, or try it with --open"
            )
        self.settings = settings
        self.tokens = TokenSigner.of(settings.token_secrets.get_secret_value())
        if settings.gateway_page and not is_open and self.tokens is None:
            raise SettingsError("TAILRACE_TOKEN_SECRETS: is not set, and the page reads with tokens")
        self.page = page(is_open=is_open) if is_open or settings.gateway_page else None
        self.access = Access(None if is_open else KeyFile(settings.gateway_keys_file), self.tokens)
        self.allowance = Allowance(settings.gateway_submits_per_minute)
        self.limits = Limits(
            settings.gateway_heartbeat_s, settings.gateway_write_timeout_s, settings.gateway_buffer_bytes
        )
        self.is_stopping = False
        self._origins = origins_of(settings.gateway_origins)
        self._counts = GatewayCounts()
        self._connect = connect or (lambda: Client.from_settings(settings))
        self._client: Client | None = None
        self._connecting = asyncio.Lock()
        self._streams: set[EventStream] = set()
        self.routes = routes(self)
        self._app = Starlette(
            routes=self.routes,
            middleware=self._middleware(),
            exception_handlers={TailraceError: _refused, HTTPException: _not_a_route},
            lifespan=self._lifespan,
        )
        self._app.router.redirect_slashes = False  # it would send callers to whatever host they name

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """ASGI."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
        elif error := self._refusal(scope):
            await of_error(error)(scope, receive, self._told(scope, send))
        else:
            await self._app(scope, receive, self._told(scope, send))

    async def client(self) -> Client:
        """The client, connected.

        Raises:
            StoreError: Redis cannot be reached, or refuses.
        """
        async with self._connecting:
            if self._client is None:
                self._client = await self._connect()
            return self._client

    def figures(self) -> list[Figure]:
        """What it has counted and how it stands, for `tailrace.telemetry.metric_samples.exposition`."""
        following = self._client.following if self._client is not None else Following(0, 0, 0)
        return self._counts.figures(len(self._streams), following)

    @property
    def is_full(self) -> bool:
        """Whether it holds as many streams as it may."""
        return len(self._streams) >= self.settings.gateway_max_streams

    def admit(self) -> None:
        """Returns where one more stream can begin.

        Raises:
            Limit: it cannot: as many as may be are open, or the gateway stops.
        """
        if self.is_stopping or self.is_full:
            raise Limit("no more event streams can be opened here just now", 503, FULL_RETRY_MS / 1000)

    def stream(self, followers: list[Frames], what: str) -> EventStream:
        """A stream that ends with the gateway.

        Args:
            followers: the frames of each request.
            what: what the log calls it.

        Raises:
            Limit: others have taken the last place since `admit`, or the gateway has begun to stop.
        """
        self.admit()
        began_s = time.monotonic()

        def ended(end: End, why: TailraceError | None) -> None:
            self._streams.discard(stream)
            self._counts.ended.add(end)
            after_s = time.monotonic() - began_s
            level, because = (logging.INFO, "") if why is None else (logging.WARNING, f": {why}")
            _logger.log(
                level,
                "stream %s %s after %.1f s%s",
                what,
                end,
                after_s,
                because,
                extra=fields(
                    "stream_ended",
                    what if len(followers) == 1 else None,
                    end=end,
                    requests=len(followers),
                    s=round(after_s, 3),
                    code=why and why.code,
                    why=why,
                ),
            )

        stream = EventStream(followers, self.limits, ended)
        self._streams.add(stream)
        return stream

    def stop(self) -> None:
        """Ends all streams, each with a hint when to come back, and says so at `/readyz`; other calls go on."""
        self.is_stopping = True
        for stream in tuple(self._streams):
            stream.stop()

    async def close(self) -> None:
        """Closes the client, at the end."""
        self.stop()
        if self._client is not None:
            await self._client.close()

    def _told(self, scope: Scope, send: Send) -> Send:
        """Counts an answer, and tells the log: method, path and status; never the query, which may hold a token."""

        async def tell(message: Message) -> None:
            if message["type"] == "http.response.start":
                path = scope["path"].encode("unicode_escape").decode()
                self._counts.responses.add(str(message["status"]))
                named = scope.get("path_params", {}).get("id")
                method, status = scope["method"], message["status"]
                _logger.info(
                    "%s %s %d",
                    method,
                    path,
                    status,
                    extra=fields("call_answered", named, method=method, path=path, status=status),
                )
            await send(message)

        return tell

    def _refusal(self, scope: Scope) -> TailraceError | None:
        """What is wrong with a call whatever it asks for."""
        if _head_bytes(scope) > MAX_HEAD_BYTES:
            return Limit(f"headers and address have more than {MAX_HEAD_BYTES:,} bytes, the limit", 431)
        shown = Headers(scope=scope)
        if self.access.is_open and is_from_elsewhere(shown.get("host", ""), shown.get("origin"), self._origins):
            return AccessDenied("a gateway without keys answers this machine's own programs and pages alone", 403)
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


def _refused(request: Request, error: Exception) -> Response:
    assert isinstance(error, TailraceError)  # noqa: S101 - it is registered for no other
    return of_error(error)


def _not_a_route(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)  # noqa: S101 - it is registered for no other
    return refusal(
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
