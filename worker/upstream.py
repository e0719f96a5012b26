"""The model's server, by way of the OpenAI SDK: opens a stream, hands its bytes on, makes every error one of ours.

Owns connections, time limits and keys. Knows nothing of what the bytes say, of Redis or of retries: the SDK's own are
off, since ours are visible in the log.
"""

import asyncio
import re
from collections.abc import AsyncGenerator, AsyncIterator, Mapping
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from email.utils import parsedate_to_datetime
from time import time
from typing import Any, NamedTuple
from urllib.parse import urlsplit

import httpx2
import openai

from schemas.errors import SettingsError, UpstreamError, UpstreamProtocol, UpstreamUnavailable
from schemas.request import GenerationRequest
from worker.counts import Counts
from worker.interface.upstream_error import from_error_object

SPARE_CONNECTIONS = 16
"""Beyond one for each running request: those of cancelled requests, while they close."""


LINGER_S = 1.0
"""How long the end of a body is waited for after the end of the answer, so that its connection can serve again."""


class TimeLimits(NamedTuple):
    """Time limits of one answer, in seconds.

    Attributes:
        connect_s: for the connection.
        first_byte_s: from the request sent to the first byte of the answer's body.
        idle_s: the longest pause between two pieces of the body.
    """

    connect_s: float
    first_byte_s: float
    idle_s: float


class Answer:
    """A body that is being received; `Upstream.open` makes it."""

    def __init__(self, pieces: AsyncIterator[bytes], limits: TimeLimits, first_by: float) -> None:
        self._pieces = pieces
        self._limits = limits
        self._first_by = first_by  # the loop's time
        self._begun = False
        self.ended = False
        """Whether the body was read whole."""

    async def read(self) -> bytes:
        """The next piece of the body; empty at its end. Time spent between two calls does not count.

        Raises:
            UpstreamUnavailable: `upstream_timeout`, `upstream_first_byte_timeout`, or `upstream_truncated` when the
                connection was lost.
            UpstreamProtocol: `upstream_malformed`, the body's encoding cannot be read.
        """
        try:
            async with asyncio.timeout(self._limits.idle_s) if self._begun else asyncio.timeout_at(self._first_by):
                piece = await anext(self._pieces, b"")
        except TimeoutError as error:
            raise (_idle if self._begun else _silent)(self._limits) from error
        except httpx2.DecodingError as error:
            raise UpstreamProtocol(f"the answer cannot be decoded: {error}", code="upstream_malformed") from error
        except (httpx2.HTTPError, httpx2.StreamError, OSError) as error:
            raise UpstreamUnavailable(
                f"the connection was lost before the end of the answer ({_kind(error)})", code="upstream_truncated"
            ) from error
        self._begun, self.ended = True, not piece
        return piece


class Upstream:
    """One client for all requests of a process; `close` it.

    Args:
        key: sent as bearer token; it appears in no error.
        base_url: of the API, such as `https://api.openai.com/v1`; None takes the SDK's.
        organization: sent where given.
        limits: time limits.
        max_streams: answers received at once.
        counts: of this process.
    """

    def __init__(
        self,
        key: str,
        *,
        base_url: str | None,
        organization: str | None,
        limits: TimeLimits,
        max_streams: int,
        counts: Counts | None = None,
    ) -> None:
        self._key = key
        self._counts = counts or Counts()
        self._limits = limits
        self._ending: set[asyncio.Task[None]] = set()
        connections = max_streams + SPARE_CONNECTIONS
        http = openai.DefaultAsyncHttpxClient(
            limits=httpx2.Limits(max_connections=connections, max_keepalive_connections=connections),
            # Waiting for bytes is limited by `Answer.read`, which can tell the first byte from the later ones.
            timeout=httpx2.Timeout(None, connect=limits.connect_s),
        )
        self._client = openai.AsyncOpenAI(
            api_key=key, base_url=base_url, organization=organization, max_retries=0, http_client=http
        )

    @classmethod
    def from_environment(
        cls, environment: Mapping[str, str], limits: TimeLimits, max_streams: int, counts: Counts | None = None
    ) -> "Upstream":
        """A client by `OPENAI_API_KEY`, `OPENAI_BASE_URL` and `OPENAI_ORG_ID`.

        Raises:
            SettingsError: there is no key, or the URL cannot be one.
        """
        return cls(
            _checked_key(environment.get("OPENAI_API_KEY", "")),
            base_url=_checked_url(environment.get("OPENAI_BASE_URL") or None),
            organization=environment.get("OPENAI_ORG_ID") or None,
            limits=limits,
            max_streams=max_streams,
            counts=counts,
        )

    @asynccontextmanager
    async def open(self, request: GenerationRequest) -> AsyncGenerator[Answer]:
        """Asks for the answer to a request.

        Leaving the context by an exception closes the connection at once. Otherwise whoever read has seen the end of
        the answer, and the connection can serve again once the few bytes that end the body have come.

        Raises:
            UpstreamRefused: the server says no.
            UpstreamUnavailable: it cannot be reached, does not answer in time, or says that another try may help.
        """
        completions = self._client.chat.completions.with_streaming_response
        responses = self._client.responses.with_streaming_response
        create: Any = completions.create if request.api == "chat" else responses.create  # two signatures, one form
        first_by = asyncio.get_running_loop().time() + self._limits.first_byte_s
        async with AsyncExitStack() as stack:
            status = "none"
            try:
                async with asyncio.timeout_at(first_by):
                    response = await stack.enter_async_context(create(**sdk_arguments(request)))
                status = str(response.status_code)
            except TimeoutError as error:
                raise _silent(self._limits) from error
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
                self._counts.upstream_responses.add(status)
            answer = Answer(response.iter_bytes(), self._limits, first_by)
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
        return type(error)(
            without_key(str(error), self._key),
            code=error.wire_code,
            whose=error.whose,
            status=error.status,
            retry_after_s=error.retry_after_s,
        )

    def _refusal(self, error: openai.APIStatusError) -> UpstreamError:
        """An HTTP error, told by its body. The SDK's own text is not used: it is the body's, less well told."""
        told = from_error_object(_body(error), error.status_code)
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


def sdk_arguments(request: GenerationRequest) -> dict[str, Any]:
    """What the SDK's `create` is called with.

    All of the body goes as `extra_body`, which the SDK sends as it is and which goes before its own arguments. Those it
    walks through part by part, which takes 0.2 ms a message, and for so long the process reads no other answer.
    """
    required: dict[str, Any] = {"model": request.model}
    if request.api == "chat":
        required["messages"] = []
    return {**required, "stream": True, "extra_body": upstream_body(request)}


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
    for kind in ("requests", "tokens"):
        match = _DURATION.match(headers.get(f"x-ratelimit-reset-{kind}", ""))
        if match is not None and match[0]:
            hours, minutes, seconds, ms = (float(part or 0) for part in match.groups())
            resets[kind] = hours * 3600 + minutes * 60 + seconds + ms / 1000
    used_up = [wait for kind, wait in resets.items() if headers.get(f"x-ratelimit-remaining-{kind}") == "0"]
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
        f"the connection was lost before the answer began ({_kind(cause or error)})", code="upstream_connection_lost"
    )


def _idle(limits: TimeLimits) -> UpstreamUnavailable:
    return UpstreamUnavailable(f"the model's server fell silent for {limits.idle_s:g} s", code="upstream_timeout")


def _silent(limits: TimeLimits) -> UpstreamUnavailable:
    return UpstreamUnavailable(
        f"the model's server did not begin to answer within {limits.first_byte_s:g} s",
        code="upstream_first_byte_timeout",
    )


def _kind(error: BaseException) -> str:
    return str(error) or type(error).__name__


def _checked_key(key: str) -> str:
    if not key.strip():
        raise SettingsError(
            "OPENAI_API_KEY is not set: export the key of the model's server (any word for one that asks for none)"
        )
    if not (key.isascii() and key.isprintable()):
        raise SettingsError("OPENAI_API_KEY has a line end or a character that no key has: set it again")
    return key.strip()


def _checked_url(url: str | None) -> str | None:
    if url is None:
        return None
    try:
        parts = urlsplit(url)
        good = parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
    except ValueError:
        good = False
    if not good:
        raise SettingsError("OPENAI_BASE_URL must be an http:// or https:// URL, such as https://api.openai.com/v1")
    return url
