"""An answer to be sent: status, headers, and the beats of its body.

Pure. The form in which `app` passes an answer to the connection that plays it.
"""

from __future__ import annotations

import math
import secrets
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from email.utils import formatdate

from tailrace.demo.simulator.errors import ApiError, Headers
from tailrace.demo.simulator.playback import NEVER, Beat, ErrorBytes, Scheduled, play
from tailrace.demo.simulator.scenario import Cut, End, ErrorEvent, Fault, Hang, Html, Rst, Scenario, Stall, Status

_LIMIT_REQUESTS, _LIMIT_TOKENS = 10_000, 2_000_000

HTML_PAGE = b"<!doctype html>\n<html><head><title>Welcome</title></head><body><h1>Sign in</h1></body></html>\n"


@dataclass(slots=True)
class Reply:
    """One answer. `length` is None for a chunked body; `delay_s` passes before the status line; forever if NEVER.

    `attached`: receives the function that ends this body early, from the connection that plays it.
    """

    status: int
    headers: Headers
    beats: Iterator[Beat]
    length: int | None = None
    delay_s: float = 0.0
    attached: set[Callable[[], None]] | None = field(default=None)


def usual_headers(content_type: str, delay_s: float = 0.0, tokens: int = 0) -> Headers:
    """The headers that OpenAI sends with every answer; the rate limits are constant, minus this request's share."""
    return [
        ("date", formatdate(usegmt=True)),
        ("content-type", content_type),
        ("server", "tailrace-simulator"),
        ("access-control-expose-headers", "X-Request-ID"),
        ("openai-organization", "simulator"),
        ("openai-processing-ms", str(0 if math.isinf(delay_s) else round(delay_s * 1000))),
        ("openai-version", "2020-10-01"),
        ("x-ratelimit-limit-requests", str(_LIMIT_REQUESTS)),
        ("x-ratelimit-limit-tokens", str(_LIMIT_TOKENS)),
        ("x-ratelimit-remaining-requests", str(_LIMIT_REQUESTS - 1)),
        ("x-ratelimit-remaining-tokens", str(max(0, _LIMIT_TOKENS - tokens))),
        ("x-ratelimit-reset-requests", "6ms"),
        ("x-ratelimit-reset-tokens", "0s"),
        ("x-request-id", f"req_{secrets.token_hex(16)}"),
        ("cache-control", "no-cache, must-revalidate"),
    ]


def _once(body: bytes) -> Iterator[Beat]:
    yield Beat(0.0, body, then="end")


def json_reply(body: bytes, *, delay_s: float = 0.0) -> Reply:
    return Reply(200, usual_headers("application/json", delay_s), _once(body), len(body), delay_s)


def error_reply(error: ApiError, *, delay_s: float = 0.0) -> Reply:
    """An error; its own headers replace the usual ones of the same name."""
    body = error.body()
    headers = dict([*usual_headers("application/json", delay_s), *error.headers()])
    return Reply(error.status, list(headers.items()), _once(body), len(body), delay_s)


def replaced(faults: Iterable[Fault], delay_s: float) -> Reply | None:
    """The answer with which a fault replaces the real one."""
    for fault in faults:
        match fault:
            case Status():
                return error_reply(
                    ApiError(fault.status, fault.message, code=fault.code, retry_after_s=fault.retry_after_s),
                    delay_s=delay_s,
                )
            case Hang():
                return Reply(200, [], iter(()), delay_s=NEVER)
            case Html():
                headers = usual_headers("text/html; charset=utf-8")
                return Reply(200, headers, _once(HTML_PAGE), len(HTML_PAGE), delay_s)
            case _:
                continue
    return None


def stream_reply(
    events: Iterable[Scheduled],
    scenario: Scenario,
    faults: Iterable[Fault],
    error: ErrorBytes,
    *,
    delay_s: float = 0.0,
    tokens: int = 0,
) -> Reply:
    """A body of server-sent events."""
    headers = usual_headers("text/event-stream; charset=utf-8", delay_s, tokens)
    return Reply(200, headers, play(events, scenario, faults, error), delay_s=delay_s)


def whole_reply(
    body: bytes, scenario: Scenario, faults: Iterable[Fault], *, usual_chunks_per_s: float, tokens: int
) -> Reply:
    """A body sent at once, when a stream of it would have ended. A cut, a reset or a stall occurs in its middle."""
    pace = scenario.pace
    rate = usual_chunks_per_s if pace.chunks_per_s is None else pace.chunks_per_s
    delay_s = pace.first_byte_delay_s + (tokens / rate if rate else 0.0)
    struck: list[Fault] = []
    for fault in faults:
        match fault:
            case Cut() | End():
                struck.append(Cut(after=1))
            case Rst():
                struck.append(Rst(after=1))
            case Stall(for_s=for_s):
                struck.append(Stall(after=1, for_s=for_s))
            case _:
                continue
    half = len(body) // 2 if struck else len(body)
    halves = [(0.0, part) for part in (body[:half], body[half:]) if part]
    beats = play(halves, Scenario(chunking=scenario.chunking, seed=scenario.seed), struck, _no_event)
    return Reply(200, usual_headers("application/json", delay_s, tokens), beats, len(body), delay_s)


def _no_event(fault: ErrorEvent, sent: int) -> bytes:
    raise AssertionError(f"an error event in a body that is not a stream: {fault}, {sent}")
