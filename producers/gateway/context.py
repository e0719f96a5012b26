"""What the routes share: one frozen value, made by the application. Knows nothing of the application itself."""

from collections.abc import Awaitable, Callable
from typing import NamedTuple

from starlette.requests import Request

from tailrace.producers.answers import Status
from tailrace.producers.client import Client
from tailrace.producers.gateway.access.callers import Authenticator, Caller
from tailrace.producers.gateway.access.submit_limit import SubmitLimit
from tailrace.producers.gateway.page import Page
from tailrace.producers.gateway.streams.open_streams import OpenStreams
from tailrace.producers.tokens import TokenSigner
from tailrace.schemas.errors import UnknownRequest
from tailrace.schemas.ids import REQUEST_ID_PATTERN


class RouteContext(NamedTuple):
    """What the routes need.

    Attributes:
        client: returns the connected client.
        authenticator: identifies callers.
        submit_limit: how often each tenant may submit.
        streams: the open event streams.
        tokens: makes tokens for new requests; None without secrets.
        token_lifetime_s: how long these are valid.
        page: the page to watch; None if it is off.
    """

    client: Callable[[], Awaitable[Client]]
    authenticator: Authenticator
    submit_limit: SubmitLimit
    streams: OpenStreams
    tokens: TokenSigner | None
    token_lifetime_s: float
    page: Page | None

    def callers(self, request: Request) -> list[Caller]:
        """The callers of one HTTP call.

        Tokens in the query count for GET only: an `EventSource` cannot send headers, all other clients can.

        Raises:
            AccessDenied: the credentials are missing or invalid.
        """
        tokens = request.query_params.getlist("token") if request.method in ("GET", "HEAD") else []
        return self.authenticator.callers(request.headers.get("authorization"), tokens)

    async def visible_status(self, request: Request, request_id: str) -> Status:
        """The status of a request that the caller may read.

        Raises:
            AccessDenied: the credentials are missing or invalid.
            UnknownRequest: there is no such request, or the caller may not read it: the two look the same.
        """
        callers = self.callers(request)
        if REQUEST_ID_PATTERN.match(request_id) is None or all(
            caller.request_id not in (None, request_id) for caller in callers
        ):
            raise UnknownRequest.of(request_id)
        status = await (await self.client()).status(request_id)
        if not any(caller.may_read(request_id, status.tenant) for caller in callers):
            raise UnknownRequest.of(request_id)
        return status
