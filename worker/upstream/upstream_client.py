"""The client of the model's server, over the OpenAI SDK: it opens streams and turns every error into a `TailraceError`.

Owns what is sent and how a request fails. Knows nothing of what the bytes mean, of Redis or of retries. The SDK's own
retries are off, since ours are visible in the log.
"""

import asyncio
import re
from collections.abc import AsyncGenerator, Mapping
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from email.utils import parsedate_to_datetime
from time import time
from typing import Any, cast

import httpx2
import openai

from tailrace.schemas.deltas import Api
from tailrace.schemas.errors import UpstreamError, UpstreamProtocol, UpstreamUnavailable
from tailrace.schemas.request import GenerationRequest
from tailrace.worker.interface.upstream_error import parse_upstream_error
from tailrace.worker.observe.counts import Counts
from tailrace.worker.upstream.response_body import ResponseBody, UpstreamTimeouts, describe, first_byte_error
from tailrace.worker.upstream.sdk_client import TransportName, api_key_of, make_sdk_client

PATHS: Mapping[Api, str] = {"chat": "/chat/completions", "responses": "/responses"}

LINGER_S = 1.0
"""How long to wait for the end of a body after the end of the answer, so that the connection can be used again."""


class UpstreamClient:
    """One client for all requests of a process; `close` it.

    Args:
        client: the SDK's client, with its retries off.
        key: the key that the client sends; it appears in no error.
        timeouts: those of each response.
        counts: those of this process.
    """

    def __init__(
        self, client: openai.AsyncOpenAI, key: str, timeouts: UpstreamTimeouts, counts: Counts | None = None
    ) -> None:
        self._client = client
        self._key = key
        self._counts = counts or Counts()
        self._timeouts = timeouts
        self._ending: set[asyncio.Task[None]] = set()

    @classmethod
    def from_environment(
        cls,
        environment: Mapping[str, str],
        timeouts: UpstreamTimeouts,
        max_streams: int,
        transport: TransportName = "tailrace",
        counts: Counts | None = None,
    ) -> "UpstreamClient":
        """Makes a client from the environment, with the arguments and errors of `make_sdk_client`."""
        client = make_sdk_client(
            environment, connect_timeout_s=timeouts.connect_s, max_streams=max_streams, transport=transport
        )
        return cls(client, api_key_of(environment), timeouts, counts)

    @asynccontextmanager
    async def open_response(self, request: GenerationRequest) -> AsyncGenerator[ResponseBody]:
        """Sends a request and opens the body of the response.

        Leaving the context with an exception closes the connection at once. Otherwise the answer has ended, and the
        connection can be used again once the few bytes after it have arrived.

        Raises:
            UpstreamRefused: the server refused the request.
            UpstreamUnavailable: the server cannot be reached, did not answer in time, or reported an error after which
                another try may help.
        """
        first_by = asyncio.get_running_loop().time() + self._timeouts.first_byte_s
        async with AsyncExitStack() as stack:
            status = "none"
            try:
                async with asyncio.timeout_at(first_by):
                    # The SDK's way to call an endpoint without a method: it costs half as much as `create`.
                    sending = self._client.post(
                        PATHS[request.api],
                        body=request_body(request),
                        cast_to=httpx2.Response,
                        stream=True,
                        stream_cls=openai.AsyncStream[Any],
                    )
                    response = cast(httpx2.Response, await sending)  # its declared type is that of `stream_cls`
                status = str(response.status_code)
            except TimeoutError as error:
                raise first_byte_error(self._timeouts) from error
            except openai.APIStatusError as error:
                status = str(error.status_code)
                raise self._refusal(error) from error
            except openai.APIConnectionError as error:
                raise _connection_error(error, self._timeouts) from error
            except openai.OpenAIError as error:
                raise UpstreamProtocol(
                    f"the response is not one of this API ({type(error).__name__})", code="upstream_malformed"
                ) from error
            finally:
                self._counts.upstream_responses.increment(status)
            stack.push_async_callback(response.aclose)
            body = ResponseBody(response, self._timeouts, first_by)
            yield body
            if not body.ended:
                ending = asyncio.create_task(_read_to_end(stack.pop_all(), body))
                self._ending.add(ending)
                ending.add_done_callback(self._ending.discard)

    async def check_access(self) -> None:
        """Requests the list of models, which is free, to check that the server responds and accepts the key.

        Raises:
            UpstreamRefused, UpstreamUnavailable: as `open_response`.
        """
        try:
            await self._client.models.with_raw_response.list()
        except openai.APIStatusError as error:
            raise self._refusal(error) from error
        except openai.APIConnectionError as error:
            raise _connection_error(error, self._timeouts) from error

    @property
    def base_url(self) -> str:
        """The base URL of the API."""
        return str(self._client.base_url)

    @property
    def ending(self) -> int:
        """How many answers have ended whose body has not."""
        return len(self._ending)

    async def close(self) -> None:
        """Closes all connections."""
        for ending in self._ending:
            ending.cancel()
        await asyncio.gather(*self._ending, return_exceptions=True)
        await self._client.close()

    def without_key(self, error: UpstreamError) -> UpstreamError:
        """Returns the error without our key in its message, whatever the server wrote there."""
        return error.with_message(without_key(str(error), self._key))

    def _refusal(self, error: openai.APIStatusError) -> UpstreamError:
        """Makes an error from the body of an HTTP error, which has more details than the SDK's message."""
        refusal = parse_upstream_error(_error_body(error), error.status_code)
        refusal.status = error.status_code
        refusal.retry_after_s = retry_after_s(error.response.headers, now=time())
        return self.without_key(refusal)


async def _read_to_end(stack: AsyncExitStack, body: ResponseBody) -> None:
    """Reads the rest of the body after the end of an answer, but only briefly: servers end it at once or never."""
    async with stack:
        with suppress(UpstreamError, TimeoutError):
            async with asyncio.timeout(LINGER_S):
                while await body.read():
                    pass


def request_body(request: GenerationRequest) -> dict[str, Any]:
    """The JSON body of a request: always streamed, with usage unless the request turns it off."""
    body = request.upstream_parameters()
    if request.api == "chat":
        body["stream_options"] = {"include_usage": True} | body.get("stream_options", {})
    return {**body, **(request.extra_body or {}), "stream": True}


_DURATION = re.compile(r"(?:(\d+)h)?(?:(\d+)m(?!s))?(?:(\d+(?:\.\d+)?)s)?(?:(\d+(?:\.\d+)?)ms)?\Z")


def retry_after_s(headers: Mapping[str, str], now: float) -> float | None:
    """How many seconds the server asks us to wait; None if it does not.

    `retry-after-ms` has precedence over `retry-after` (seconds or a date, RFC 9110 10.2.3). Without them it is the
    `x-ratelimit-reset-*` of a limit that is exhausted, else the soonest of them (OpenAI, guide to rate limits).

    Args:
        headers: those of the response, with names in lower case.
        now: seconds since 1970.
    """
    for name, divisor in (("retry-after-ms", 1000), ("retry-after", 1)):
        value = headers.get(name, "").strip()
        if re.fullmatch(r"\d{1,12}(\.\d+)?", value):
            return float(value) / divisor
    if date := headers.get("retry-after"):
        try:
            return max(0.0, parsedate_to_datetime(date).timestamp() - now)
        except (ValueError, OverflowError):
            return None
    resets: dict[str, float] = {}
    for what in ("requests", "tokens"):
        match = _DURATION.match(headers.get(f"x-ratelimit-reset-{what}", ""))
        if match is not None and match[0]:
            hours, minutes, seconds, ms = (float(part or 0) for part in match.groups())
            resets[what] = hours * 3600 + minutes * 60 + seconds + ms / 1000
    exhausted = [wait for what, wait in resets.items() if headers.get(f"x-ratelimit-remaining-{what}") == "0"]
    return max(exhausted) if exhausted else min(resets.values(), default=None)


_MASKED = re.compile(r"[^\s'\"]*\*{3,}[^\s'\"]*")


def without_key(message: str, key: str) -> str:
    """Removes our key from a server's message, even if OpenAI quotes it partly masked."""
    return _MASKED.sub("***", message).replace(key, "***")


def _error_body(error: openai.APIStatusError) -> object:
    if error.body is not None and error.body != "":
        return error.body
    return f"the model's server answered with status {error.status_code} and an empty body"


def _connection_error(error: openai.APIConnectionError, timeouts: UpstreamTimeouts) -> UpstreamUnavailable:
    cause = error.__cause__
    if isinstance(cause, httpx2.ConnectTimeout):
        return UpstreamUnavailable(
            f"no connection to the model's server within {timeouts.connect_s:g} s", code="upstream_connect"
        )
    if isinstance(cause, httpx2.ConnectError | httpx2.ProxyError | httpx2.UnsupportedProtocol):
        return UpstreamUnavailable(f"the model's server cannot be reached: {cause}", code="upstream_connect")
    return UpstreamUnavailable(
        f"the connection was lost before the answer began ({describe(cause or error)})", code="upstream_connection_lost"
    )
