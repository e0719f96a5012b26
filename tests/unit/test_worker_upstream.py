"""The upstream client without a server: request bodies, headers, keys and settings."""

import json
from typing import Any

import httpx2
import openai
import pytest

from tailrace.schemas.errors import SettingsError
from tailrace.schemas.request import GenerationRequest, parse_request
from tailrace.worker.upstream.response_body import UpstreamTimeouts
from tailrace.worker.upstream.upstream_client import UpstreamClient, request_body, retry_after_s, without_key

LIMITS = UpstreamTimeouts(1.0, 2.0, 3.0)
CHAT = {"model": "m", "messages": [{"role": "user", "content": "hi"}]}


def test_a_request_is_always_streamed_and_has_usage() -> None:
    assert request_body(parse_request(CHAT)) == {
        **CHAT,
        "stream": True,
        "stream_options": {"include_usage": True},
    }


def test_a_request_may_turn_usage_off() -> None:
    body = request_body(parse_request({**CHAT, "stream_options": {"include_usage": False, "x": 1}}))
    assert body["stream_options"] == {"include_usage": False, "x": 1}


def test_only_the_models_and_a_vendors_parameters_are_sent() -> None:
    given = {**CHAT, "id": "a", "timeout_s": 5, "metadata": {"a": 1}, "extra_body": {"top_k": 3}, "temperature": 0.0}
    body = request_body(parse_request(given))
    assert body.keys() == {"model", "messages", "temperature", "top_k", "stream", "stream_options"}
    assert body["top_k"] == 3


def test_the_responses_api_has_no_usage_option() -> None:
    assert request_body(parse_request({"api": "responses", "model": "m", "input": "hi"})) == {
        "model": "m",
        "input": "hi",
        "stream": True,
    }


async def sent(request: GenerationRequest) -> Any:
    """The JSON that is sent."""
    bodies: list[bytes] = []

    def answer(asked: httpx2.Request) -> httpx2.Response:
        bodies.append(asked.content)
        return httpx2.Response(200)

    http = httpx2.AsyncClient(transport=httpx2.MockTransport(answer))
    client = openai.AsyncOpenAI(api_key="k", base_url="http://h", http_client=http)
    upstream = UpstreamClient(client, "k", LIMITS)
    async with upstream.open_response(request) as received:
        assert await received.read() == b""
    await upstream.close()
    (body,) = bodies
    return json.loads(body)


FULL: dict[str, dict[str, Any]] = {
    "chat": {**CHAT, "tools": [{"x": 1}], "prediction": {"a": None}, "logit_bias": {"1": 2.0}, "extra_body": {"k": 1}},
    "responses": {"api": "responses", "model": "m", "input": [{"role": "user"}], "reasoning": {"effort": "low"}},
    "a prompt alone": {"api": "responses", "model": "m", "prompt": {"id": "p"}},
}


@pytest.mark.parametrize("case", FULL)
async def test_exactly_the_body_is_sent(case: str) -> None:
    request = parse_request(FULL[case])
    assert await sent(request) == request_body(request)


@pytest.mark.parametrize(
    ("headers", "seconds"),
    [
        ({}, None),
        ({"retry-after": "7"}, 7.0),
        ({"retry-after": "1.5"}, 1.5),
        ({"retry-after": "7", "retry-after-ms": "250"}, 0.25),
        ({"retry-after": "Thu, 01 Jan 1970 00:01:40 GMT"}, 90.0),
        ({"retry-after": "Thu, 01 Jan 1970 00:00:01 GMT"}, 0.0),
        ({"retry-after": "soon"}, None),
        ({"retry-after": "-1"}, None),
        ({"retry-after": "inf"}, None),
        ({"x-ratelimit-reset-requests": "20ms"}, 0.02),
        ({"x-ratelimit-reset-requests": "6m0s"}, 360.0),
        ({"x-ratelimit-reset-requests": "1h2m3.5s"}, 3723.5),
        ({"x-ratelimit-reset-requests": "nonsense"}, None),
        ({"x-ratelimit-reset-requests": ""}, None),
        ({"x-ratelimit-reset-requests": "9s", "x-ratelimit-reset-tokens": "2s"}, 2.0),
        (
            {
                "x-ratelimit-reset-requests": "9s",
                "x-ratelimit-reset-tokens": "2s",
                "x-ratelimit-remaining-requests": "0",
            },
            9.0,
        ),
        ({"retry-after": "1", "x-ratelimit-reset-tokens": "50s"}, 1.0),
    ],
)
def test_the_servers_wait_is_read_from_its_headers(headers: dict[str, str], seconds: float | None) -> None:
    assert retry_after_s(headers, now=10.0) == (None if seconds is None else pytest.approx(seconds))


@pytest.mark.parametrize(
    ("message", "cleaned"),
    [
        ("Incorrect API key provided: my-secret-key.", "Incorrect API key provided: ***."),
        ("Incorrect API key provided: sk-proj-****************wxyz. See", "Incorrect API key provided: *** See"),
        ("two ** stars", "two ** stars"),
    ],
)
def test_a_key_is_removed_from_messages(message: str, cleaned: str) -> None:
    assert without_key(message, "my-secret-key") == cleaned


@pytest.mark.parametrize(
    ("environment", "named"),
    [
        ({}, "OPENAI_API_KEY"),
        ({"OPENAI_API_KEY": "  "}, "OPENAI_API_KEY"),
        ({"OPENAI_API_KEY": "a\nb"}, "OPENAI_API_KEY"),
        ({"OPENAI_API_KEY": "k", "OPENAI_BASE_URL": "localhost:1"}, "OPENAI_BASE_URL"),
        ({"OPENAI_API_KEY": "k", "OPENAI_BASE_URL": "http://"}, "OPENAI_BASE_URL"),
        ({"OPENAI_API_KEY": "k", "OPENAI_BASE_URL": "http://h:99999"}, "OPENAI_BASE_URL"),
    ],
)
def test_a_missing_key_or_a_wrong_url_is_named(environment: dict[str, str], named: str) -> None:
    with pytest.raises(SettingsError, match=named) as raised:
        UpstreamClient.from_environment(environment, LIMITS, 10)
    assert "a\nb" not in str(raised.value)
