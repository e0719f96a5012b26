"""Servers and ways to them: Azure by its environment variables, compatible servers, proxies, compressed responses."""

import asyncio
import gzip
import re
from collections.abc import AsyncGenerator, Mapping
from contextlib import asynccontextmanager
from typing import Any

import pytest

from tailrace.schemas.errors import SettingsError
from tailrace.schemas.request import parse_request
from tailrace.worker.upstream.response_body import UpstreamTimeouts
from tailrace.worker.upstream.sdk_client import TransportName
from tailrace.worker.upstream.upstream_client import UpstreamClient
from tests.certificates import made_in
from tests.http_server import Caller, responding_with, serving

EVENTS = b"data: {}\n\ndata: [DONE]\n\n"
ANSWER = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ncontent-length: %d\r\n\r\n" % len(EVENTS) + EVENTS
CHAT: dict[str, Any] = {"model": "gpt-4o eu", "messages": [{"role": "user", "content": "hi"}]}
RESPONSES: dict[str, Any] = {"api": "responses", "model": "m", "input": "hi"}

pytestmark = pytest.mark.parametrize("transport", ["tailrace", "httpx"])


@pytest.fixture(autouse=True)
def _no_proxy_of_ours(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("http_proxy", "https_proxy", "all_proxy", "no_proxy"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.upper(), raising=False)


@asynccontextmanager
async def asking(environment: Mapping[str, str], transport: TransportName) -> AsyncGenerator[UpstreamClient]:
    upstream = UpstreamClient.from_environment(environment, UpstreamTimeouts(2.0, 10.0, 10.0), 10, transport)
    try:
        yield upstream
    finally:
        await upstream.close()


async def body(upstream: UpstreamClient, request: dict[str, Any]) -> bytes:
    pieces: list[bytes] = []
    async with upstream.open_response(parse_request(request)) as answer:
        while piece := await answer.read():
            pieces.append(piece)
    return b"".join(pieces)


class Heard:
    """Collects the requests of a server that responds with `EVENTS`."""

    def __init__(self) -> None:
        self.requests: list[bytes] = []

    async def answer(self, caller: Caller) -> None:
        while True:
            self.requests.append(await caller.request())
            await caller.send(ANSWER)


async def test_azure(transport: TransportName) -> None:
    # given Azure's variables, expect its paths, its version and its header for the key
    heard = Heard()
    async with serving(heard.answer) as server:
        environment = {
            "AZURE_OPENAI_ENDPOINT": server.url,
            "AZURE_OPENAI_API_KEY": "k",
            "OPENAI_API_VERSION": "2024-10-21",
        }
        async with asking(environment, transport) as upstream:
            assert await body(upstream, CHAT) == EVENTS
            assert await body(upstream, RESPONSES) == EVENTS
    chat, responses = heard.requests
    assert chat.startswith(b"POST /openai/deployments/gpt-4o%20eu/chat/completions?api-version=2024-10-21 HTTP/1.1\r\n")
    assert responses.startswith(b"POST /openai/responses?api-version=2024-10-21 HTTP/1.1\r\n")
    for request in (chat, responses):
        assert b"\r\napi-key: k\r\n" in request.lower()
        assert b"authorization" not in request.lower()


async def test_openai_and_compatible_servers(transport: TransportName) -> None:
    heard = Heard()
    async with serving(heard.answer) as server:
        environment = {"OPENAI_BASE_URL": server.url + "/v1", "OPENAI_API_KEY": "k", "OPENAI_ORG_ID": "org"}
        async with asking(environment, transport) as upstream:
            assert await body(upstream, CHAT) == EVENTS
            assert await body(upstream, RESPONSES) == EVENTS
    chat, responses = heard.requests
    assert chat.startswith(b"POST /v1/chat/completions HTTP/1.1\r\n")
    assert responses.startswith(b"POST /v1/responses HTTP/1.1\r\n")
    assert b"\r\nauthorization: bearer k\r\n" in chat.lower()
    assert b"\r\nopenai-organization: org\r\n" in chat.lower()


@pytest.mark.parametrize(
    ("environment", "named"),
    [
        ({"AZURE_OPENAI_API_KEY": ""}, "AZURE_OPENAI_API_KEY"),
        ({"OPENAI_API_VERSION": ""}, "OPENAI_API_VERSION"),
        ({"AZURE_OPENAI_ENDPOINT": "name.openai.azure.com"}, "AZURE_OPENAI_ENDPOINT"),
        ({"OPENAI_BASE_URL": "http://h/v1"}, "OPENAI_BASE_URL"),
    ],
)
async def test_a_missing_variable_for_azure_is_named(
    transport: TransportName, environment: dict[str, str], named: str
) -> None:
    whole = {"AZURE_OPENAI_ENDPOINT": "http://h", "AZURE_OPENAI_API_KEY": "k", "OPENAI_API_VERSION": "v"}
    with pytest.raises(SettingsError, match=named):
        async with asking(whole | environment, transport):
            pass


async def test_a_compressed_response(transport: TransportName) -> None:
    whole = gzip.compress(EVENTS)
    head = b"HTTP/1.1 200 OK\r\ncontent-encoding: gzip\r\ncontent-length: %d\r\n\r\n" % len(whole)
    async with serving(responding_with(head, whole[:7], whole[7:])) as server:
        environment = {"OPENAI_BASE_URL": server.url, "OPENAI_API_KEY": "k"}
        async with asking(environment, transport) as upstream:
            assert await body(upstream, CHAT) == EVENTS


async def forward(caller: Caller) -> None:
    """A proxy for one request: by CONNECT, or with the whole URL in the request line (RFC 9110, 9.3.6 and 7.6)."""
    request = await caller.request()
    found = re.match(rb"(CONNECT |\w+ http://)([^:/]+):(\d+)", request)
    assert found is not None, request
    reader, writer = await asyncio.open_connection(found[2].decode(), int(found[3]))
    if found[1] == b"CONNECT ":
        await caller.send(b"HTTP/1.1 200 OK\r\n\r\n")
    else:
        writer.write(request.replace(b"http://%b:%b" % (found[2], found[3]), b"", 1))

    async def pass_on(source: asyncio.StreamReader, sink: asyncio.StreamWriter) -> None:
        while piece := await source.read(65536):
            sink.write(piece)
            await sink.drain()
        sink.close()

    await asyncio.gather(pass_on(caller.reader, writer), pass_on(reader, caller.writer))


@pytest.mark.parametrize("variable", ["HTTPS_PROXY", "http_proxy", "ALL_PROXY"])
async def test_a_proxy_from_the_environment(
    transport: TransportName, variable: str, monkeypatch: pytest.MonkeyPatch, tmp_path_factory: pytest.TempPathFactory
) -> None:
    # given a proxy for the server, expect every request through it; given NO_PROXY for the server, expect none
    certificates = made_in(tmp_path_factory.mktemp("tls"))
    monkeypatch.setenv("SSL_CERT_FILE", str(certificates.authority))
    context = None if variable == "http_proxy" else certificates.server
    heard = Heard()
    async with serving(heard.answer, context) as server, serving(forward) as proxy:
        environment = {"OPENAI_BASE_URL": server.url + "/v1", "OPENAI_API_KEY": "k"}
        monkeypatch.setenv(variable, proxy.url)
        async with asking(environment, transport) as upstream:
            assert await body(upstream, CHAT) == EVENTS
        assert len(proxy.callers) == 1
        monkeypatch.setenv("NO_PROXY", "example.com,127.0.0.1")
        async with asking(environment, transport) as upstream:
            assert await body(upstream, CHAT) == EVENTS
        assert len(proxy.callers) == 1
    assert [request.partition(b" HTTP")[0] for request in heard.requests] == [b"POST /v1/chat/completions"] * 2
