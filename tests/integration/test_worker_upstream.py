"""The upstream client against a real HTTP server: connections, timeouts, and every way in which a response fails."""

import asyncio
from collections.abc import AsyncGenerator, Callable, Mapping
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import Protocol, get_args

import pytest

from tailrace.demo.simulator import Simulator
from tailrace.schemas.errors import UpstreamError, UpstreamRefused, UpstreamUnavailable
from tailrace.schemas.request import GenerationRequest, parse_request
from tailrace.worker.upstream.response_body import UpstreamTimeouts
from tailrace.worker.upstream.sdk_client import TransportName
from tailrace.worker.upstream.upstream_client import UpstreamClient
from tests.proxy import Proxy
from tests.rig import KEY, request_for
from tests.until import until

TRANSPORTS = get_args(TransportName)
TEXT = {"steps": [{"kind": "text", "text": "An answer of some length, in more than one piece."}]}


class Open(Protocol):
    """Makes an upstream client over one of the transports."""

    def __call__(
        self, url: str, *, first_byte_s: float = 10.0, idle_s: float = 10.0, key: str = KEY, streams: int = 10
    ) -> AbstractAsyncContextManager[UpstreamClient]: ...


@pytest.fixture(params=TRANSPORTS)
def upstream(request: pytest.FixtureRequest) -> Open:
    """Makes upstream clients; every test runs over each transport."""
    transport: TransportName = request.param

    @asynccontextmanager
    async def opened(
        url: str, *, first_byte_s: float = 10.0, idle_s: float = 10.0, key: str = KEY, streams: int = 10
    ) -> AsyncGenerator[UpstreamClient]:
        limits = UpstreamTimeouts(2.0, first_byte_s, idle_s)
        environment = {"OPENAI_API_KEY": key, "OPENAI_BASE_URL": url}
        client = UpstreamClient.from_environment(environment, limits, streams, transport)
        try:
            yield client
        finally:
            await client.close()

    return opened


def asks(scenario: Mapping[str, object]) -> GenerationRequest:
    return parse_request(request_for(scenario))


async def body(client: UpstreamClient, request: GenerationRequest) -> bytes:
    """The whole body."""
    pieces: list[bytes] = []
    async with client.open_response(request) as answer:
        while piece := await answer.read():
            pieces.append(piece)
    return b"".join(pieces)


async def test_pieces_are_delivered_as_they_come(upstream: Open) -> None:
    async with Simulator(key=KEY) as simulator, upstream(simulator.url) as client:
        pieces: list[bytes] = []

        def receive(piece: bytes) -> bool:
            pieces.append(piece)
            return len(pieces) % 2 == 0

        async with client.open_response(asks(TEXT)) as answer:
            while await answer.deliver_to(receive):
                pass
            assert answer.ended
    assert pieces[0].startswith(b"data: {")
    assert b"".join(pieces).endswith(b"data: [DONE]\n\n")


async def test_a_delivery_raises_the_errors_of_read(upstream: Open) -> None:
    """given: a server that stops sending or breaks off after some pieces / expect: the error that `read` raises."""
    async with Simulator() as simulator, upstream(simulator.url, idle_s=0.3) as client:
        for fault, code in (("stall", "upstream_timeout"), ("cut", "upstream_truncated")):
            pieces: list[bytes] = []

            def receive(piece: bytes, pieces: list[bytes] = pieces) -> bool:
                pieces.append(piece)
                return True

            async def deliver(fault: str, receive: Callable[[bytes], bool]) -> None:
                async with client.open_response(asks({**TEXT, "faults": [{"kind": fault, "after": 5}]})) as answer:
                    while await answer.deliver_to(receive):
                        pass

            with pytest.raises(UpstreamUnavailable) as raised:
                await deliver(fault, receive)
            assert raised.value.code == code
            assert pieces


async def error_of(client: UpstreamClient, scenario: Mapping[str, object]) -> UpstreamError:
    with pytest.raises(UpstreamError) as raised:
        await body(client, asks(scenario))
    return raised.value


async def test_bytes_are_read_unchanged(upstream: Open) -> None:
    async with Simulator(key=KEY) as simulator, upstream(simulator.url) as client:
        received = await body(client, asks(TEXT))
    assert received.startswith(b"data: {")
    assert received.endswith(b"data: [DONE]\n\n")


async def test_one_connection_serves_several_requests(upstream: Open) -> None:
    """given: readers that stop at the end of the answer, before the end of the body / expect: no new connection."""
    async with Simulator() as simulator, Proxy(simulator.url) as proxy, upstream(proxy.url) as client:
        for _ in range(5):
            async with client.open_response(asks(TEXT)) as answer:
                seen = b""
                while b"[DONE]" not in seen:
                    seen += await answer.read()
            await until(lambda: client.ending == 0)
        assert proxy.connections == 1


async def test_cancelling_closes_the_connection_at_once(upstream: Open) -> None:
    async with Simulator() as simulator, upstream(simulator.url) as client:
        reading = asyncio.create_task(body(client, asks({**TEXT, "pace": {"chunks_per_s": 5}})))
        await until(lambda: simulator.ledger.entries() != [] and simulator.ledger.entries()[0].chunks_sent > 1)
        reading.cancel()
        with pytest.raises(asyncio.CancelledError):
            await reading
        await until(lambda: simulator.ledger.entries()[0].ended == "client_closed")
        assert simulator.open_connections == 0


async def test_a_body_that_never_ends_does_not_keep_the_connection_open(upstream: Open) -> None:
    async with Simulator() as simulator:
        async with upstream(simulator.url) as client:
            scenario = {**TEXT, "faults": [{"kind": "stall", "after": 5}]}
            async with client.open_response(asks(scenario)) as answer:
                await answer.read()
            await until(lambda: simulator.open_connections == 0)


async def test_there_is_a_connection_for_each_job(upstream: Open) -> None:
    """given: a stream for each of many jobs, all open at once / expect: none waits for the connection of another."""
    async with Simulator() as simulator, upstream(simulator.url, streams=120) as client:
        scenario = {**TEXT, "faults": [{"kind": "stall", "after": 1}]}
        tasks = [asyncio.create_task(body(client, asks(scenario))) for _ in range(120)]
        await until(lambda: sum(entry.chunks_sent > 0 for entry in simulator.ledger.entries()) == 120)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


async def test_the_first_byte_timeout_covers_headers_and_body(upstream: Open) -> None:
    async with Simulator() as simulator, upstream(simulator.url, first_byte_s=0.2) as client:
        late: Mapping[str, object] = {**TEXT, "pace": {"first_byte_delay_s": 30}}
        for scenario in ({"faults": [{"kind": "hang"}]}, late):
            error = await error_of(client, scenario)
            assert isinstance(error, UpstreamUnavailable)
            assert error.code == "upstream_first_byte_timeout"
        await until(lambda: simulator.open_connections == 0)


async def test_a_pause_of_the_reader_does_not_count_as_idle(upstream: Open) -> None:
    """given: a reader that pauses for longer than the idle limit, as backpressure causes / expect: no error."""
    async with Simulator() as simulator, upstream(simulator.url, idle_s=0.1) as client:
        async with client.open_response(asks(TEXT)) as answer:
            seen = await answer.read()
            await asyncio.sleep(0.25)
            while piece := await answer.read():
                seen += piece
    assert b"[DONE]" in seen


async def test_the_servers_retry_after_is_kept(upstream: Open) -> None:
    async with Simulator() as simulator, upstream(simulator.url) as client:
        error = await error_of(client, {"faults": [{"kind": "status", "status": 429, "retry_after_s": 1.5}]})
    assert (error.code, error.status, error.retry_after_s) == ("upstream_429", 429, 1.5)


async def test_the_sdk_does_not_retry_by_itself(upstream: Open) -> None:
    async with Simulator() as simulator, upstream(simulator.url) as client:
        await error_of(client, {"faults": [{"kind": "status", "status": 500}]})
        assert len(simulator.ledger.entries()) == 1


async def test_a_masked_key_is_removed(upstream: Open) -> None:
    message = "Incorrect API key provided: sk-test-****************6789."
    async with Simulator() as simulator, upstream(simulator.url) as client:
        error = await error_of(client, {"faults": [{"kind": "status", "status": 401, "message": message}]})
    assert isinstance(error, UpstreamRefused)
    assert error.whose == "operator"
    assert "6789" not in str(error)
    assert "sk-test" not in str(error)


@pytest.mark.parametrize(
    ("raw", "code"),
    [
        (b"", "upstream_connection_lost"),
        (b"HTTP/1.1 200 OK\r\n", "upstream_connection_lost"),
        (b"\x00\x01 nonsense\r\n\r\n", "upstream_connection_lost"),
        (b"HTTP/1.1 500 Oh\r\ncontent-length: 0\r\n\r\n", "upstream_500"),
        (b"HTTP/1.1 404 No\r\ncontent-length: 9\r\n\r\nnot found", "upstream_404"),
        (b"HTTP/1.1 502 No\r\ncontent-type: text/html\r\ncontent-length: 6\r\n\r\n<html>", "upstream_502"),
        (b"HTTP/1.1 200 OK\r\ncontent-length: 100\r\n\r\ndata: {}", "upstream_truncated"),
        (b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\nZZ\r\n", "upstream_truncated"),
        (b"HTTP/1.1 200 OK\r\ncontent-encoding: gzip\r\ncontent-length: 4\r\n\r\nabcd", "upstream_malformed"),
    ],
)
async def test_a_server_that_sends_invalid_http(upstream: Open, raw: bytes, code: str) -> None:
    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(raw)
        await writer.drain()
        writer.close()

    server = await asyncio.start_server(answer, "127.0.0.1", 0)
    port: int = server.sockets[0].getsockname()[1]
    async with server, upstream(f"http://127.0.0.1:{port}/v1") as client:
        error = await error_of(client, TEXT)
    assert error.code == code
    assert str(error).strip()
