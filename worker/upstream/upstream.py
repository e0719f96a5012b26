"""The model's server, by way of the OpenAI SDK: opens a stream, hands its bytes on, makes every error one of ours.

Owns what is asked and how it fails. Knows nothing of what the bytes say, of Redis or of retries: the SDK's own are
off, since ours are visible in the log.
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
from tailrace.worker.upstream.client import TransportName, client_of, key_of
from tailrace.worker.upstream.response_body import Answer, TimeLimits, kind, silent

PATHS: Mapping[Api, str] = {"chat": "/chat/completions", "responses": "/responses"}

LINGER_S = 1.0
"""How long the end of a body is waited for after the end of the answer, so that its connection can serve again."""


class Upstream:
    """One client for all requests of a process; `close` it.

    Args:
        client: of the server, which does not retry by itself.
        key: the one the client sends; it appears in no error.
        limits: time limits.
        counts: of this process.
    """

    def __init__(self, client: openai.AsyncOpenAI, key: str, limits: TimeLimits, counts: Counts | None = None) -> None:
        self._client = client
        self._key = key
        self._counts = counts or Counts()
        self._limits = limits
        self._ending: set[asyncio.Task[None]] = set()

    @classmethod
    def from_environment(
        cls,
        environment: Mapping[str, str],
        limits: TimeLimits,
        max_streams: int,
        transport: TransportName = "tailrace",
        counts: Counts | None = None,
    ) -> "Upstream":
        """A client by the environment; arguments and errors as those of `client_of`."""
        client = client_of(environment, connect_s=limits.connect_s, max_streams=max_streams, transport=transport)
        return cls(client, key_of(environment), limits, counts)

    @asynccontextmanager
    async def open(self, request: GenerationRequest) -> AsyncGenerator[Answer]:
        """Asks for the answer to a request.

        Leaving the context by an exception closes the connection at once. Otherwise whoever read has seen the end of
        the answer, and the connection can serve again once the few bytes that end the body have come.

        Raises:
            UpstreamRefused: the server says no.
            UpstreamUnavailable: it cannot be reached, does not answer in time, or says that another try may help.
        """
        first_by = asyncio.get_running_loop().time() + self._limits.first_byte_s
        async with AsyncExitStack() as stack:
            status = "none"
            try:
                async with asyncio.timeout_at(first_by):
                    # The SDK's way for what it has no method for: it spares each request half of what `create` costs.
                    asked = self._client.post(
                        PATHS[request.api],
                        body=upstream_body(request),
                        cast_to=httpx2.Response,
                        stream=True,
                        stream_cls=openai.AsyncStream[Any],
                    )
                    response = cast(httpx2.Response, await asked)  # its type tells of `stream_cls` alone
                status = str(response.status_code)
            except TimeoutError as error:
                raise silent(self._limits) from error
            except openai.APIStatusError as error:
                status = str(error.status_code)
                raise self._refusal(error) from error
            except openai.APIConnectionError as error:
                raise _no_connection(error, self._limits) from error
            except openai.OpenAIError as error:
                raise UpstreamProtocol(
                    f"the answer is none of this API ({type(error).__name__})", code="upstream_malformed"
                ) from error
            finally:
                self._counts.upstream_responses.increment(status)
            stack.push_async_callback(response.aclose)
            answer = Answer(response, self._limits, first_by)
            yield answer
            if not answer.ended:
                ending = asyncio.create_task(_read_to_end(stack.pop_all(), answer))
                self._ending.add(ending)
                ending.add_done_callback(self._ending.discard)

    async def reach(self) -> None:
        """Asks for the list of models: whether the server is there, and takes the key. It costs nothing.

        Raises:
            UpstreamRefused, UpstreamUnavailable: as `open`.
        """
        try:
            await self._client.models.with_raw_response.list()
        except openai.APIStatusError as error:
            raise self._refusal(error) from error
        except openai.APIConnectionError as error:
            raise _no_connection(error, self._limits) from error

    @property
    def base_url(self) -> str:
        """Of the API."""
        return str(self._client.base_url)

    @property
    def ending(self) -> int:
        """Answers that were read to their end, and whose body has not ended yet."""
        return len(self._ending)

    async def close(self) -> None:
        """Closes all connections."""
        for ending in self._ending:
            ending.cancel()
        await asyncio.gather(*self._ending, return_exceptions=True)
        await self._client.close()

    def without_key(self, error: UpstreamError) -> UpstreamError:
        """The same error with our key nowhere in its message, whatever the server wrote there."""
        return error.with_message(without_key(str(error), self._key))

    def _refusal(self, error: openai.APIStatusError) -> UpstreamError:
        """An HTTP error, told by its body. The SDK's own text is not used: it is the body's, less well told."""
        told = parse_upstream_error(_body(error), error.status_code)
        told.status = error.status_code
        told.retry_after_s = retry_after_s(error.response.headers, now=time())
        return self.without_key(told)


async def _read_to_end(stack: AsyncExitStack, answer: Answer) -> None:
    """Reads what follows the end of an answer, for a moment: servers end the body at once, or never."""
    async with stack:
        with suppress(UpstreamError, TimeoutError):
            async with asyncio.timeout(LINGER_S):
                while await answer.read():
                    pass


def upstream_body(request: GenerationRequest) -> dict[str, Any]:
    """What is sent as JSON: always streamed, with usage unless the request says otherwise."""
    body = request.upstream_parameters()
    if request.api == "chat":
        body["stream_options"] = {"include_usage": True} | body.get("stream_options", {})
    return {**body, **(request.extra_body or {}), "stream": True}


_DURATION = re.compile(r"(?:(\d+)h)?(?:(\d+)m(?!s))?(?:(\d+(?:\.\d+)?)s)?(?:(\d+(?:\.\d+)?)ms)?\Z")


def retry_after_s(headers: Mapping[str, str], now: float) -> float | None:
    """Seconds the server asks us to wait, or None where it does not say.

    `retry-after-ms` goes before `retry-after` (seconds or a date, RFC 9110 10.2.3); where there is neither, the
    `x-ratelimit-reset-*` of a limit that is used up, else the nearest of them (OpenAI, guide to rate limits).

    Args:
        headers: of the answer, names in lower case.
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
    used_up = [wait for what, wait in resets.items() if headers.get(f"x-ratelimit-remaining-{what}") == "0"]
    return max(used_up) if used_up else min(resets.values(), default=None)


_MASKED = re.compile(r"[^\s'\"]*\*{3,}[^\s'\"]*")


def without_key(message: str, key: str) -> str:
    """A server's sentence without our key, whole or part masked as OpenAI quotes it."""
    return _MASKED.sub("***", message).replace(key, "***")


def _body(error: openai.APIStatusError) -> object:
    if error.body is not None and error.body != "":
        return error.body
    return f"the model's server answered with status {error.status_code} and nothing else"


def _no_connection(error: openai.APIConnectionError, limits: TimeLimits) -> UpstreamUnavailable:
    cause = error.__cause__
    if isinstance(cause, httpx2.ConnectTimeout):
        return UpstreamUnavailable(
            f"no connection to the model's server within {limits.connect_s:g} s", code="upstream_connect"
        )
    if isinstance(cause, httpx2.ConnectError | httpx2.ProxyError | httpx2.UnsupportedProtocol):
        return UpstreamUnavailable(f"the model's server cannot be reached: {cause}", code="upstream_connect")
    return UpstreamUnavailable(
        f"the connection was lost before the answer began ({kind(cause or error)})", code="upstream_connection_lost"
    )
