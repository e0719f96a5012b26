"""Where the model's server is: Azure by its own names in the environment, proxies, compressed answers."""

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
from tests.http_server import Caller, saying, serving

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
    """What a server was asked; it answers with `EVENTS`."""

    def __init__(self) -> None:
        self.requests: list[bytes] = []

    async def answer(self, caller: Caller) -> None:
        while True:
            self.requests.append(await caller.request())
            await caller.send(ANSWER)


async def test_azure(transport: TransportName) -> None:
    # given Azure's names, expect its paths, its version and its way to show the key
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
    for said in (chat, responses):
        assert b"\r\napi-key: k\r\n" in said.lower()
        assert b"authorization" not in said.lower()


async def test_openai_and_all_who_speak_as_it_does(transport: TransportName) -> None:
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
async def test_what_azure_lacks_is_named(transport: TransportName, environment: dict[str, str], named: str) -> None:
    whole = {"AZURE_OPENAI_ENDPOINT": "http://h", "AZURE_OPENAI_API_KEY": "k", "OPENAI_API_VERSION": "v"}
    with pytest.raises(SettingsError, match=named):
        async with asking(whole | environment, transport):
            pass


async def test_a_compressed_answer(transport: TransportName) -> None:
    whole = gzip.compress(EVENTS)
    head = b"HTTP/1.1 200 OK\r\ncontent-encoding: gzip\r\ncontent-length: %d\r\n\r\n" % len(whole)
    async with serving(saying(head, whole[:7], whole[7:])) as server:
        environment = {"OPENAI_BASE_URL": server.url, "OPENAI_API_KEY": "k"}
        async with asking(environment, transport) as upstream:
            assert await body(upstream, CHAT) == EVENTS


async def forward(caller: Caller) -> None:
    """A proxy for one request: by CONNECT, or with the whole URL in the request's line (RFC 9110, 9.3.6 and 7.6)."""
    said = await caller.request()
    found = re.match(rb"(CONNECT |\w+ http://)([^:/]+):(\d+)", said)
    assert found is not None, said
    reader, writer = await asyncio.open_connection(found[2].decode(), int(found[3]))
    if found[1] == b"CONNECT ":
        await caller.send(b"HTTP/1.1 200 OK\r\n\r\n")
    else:
        writer.write(said.replace(b"http://%b:%b" % (found[2], found[3]), b"", 1))

    async def pass_on(source: asyncio.StreamReader, sink: asyncio.StreamWriter) -> None:
        while piece := await source.read(65536):
            sink.write(piece)
            await sink.drain()
        sink.close()

    await asyncio.gather(pass_on(caller.reader, writer), pass_on(reader, caller.writer))


@pytest.mark.parametrize("variable", ["HTTPS_PROXY", "http_proxy", "ALL_PROXY"])
async def test_a_proxy_of_the_environment(
    transport: TransportName, variable: str, monkeypatch: pytest.MonkeyPatch, tmp_path_factory: pytest.TempPathFactory
) -> None:
    # given a proxy for the server, expect every request by it; given that the server needs none, expect none by it
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
    assert [said.partition(b" HTTP")[0] for said in heard.requests] == [b"POST /v1/chat/completions"] * 2
