"""The adapter against a real HTTP server: connections, time limits, and every way an answer does not come."""

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
    """Makes an adapter over one of the transports."""

    def __call__(
        self, url: str, *, first_byte_s: float = 10.0, idle_s: float = 10.0, key: str = KEY, streams: int = 10
    ) -> AbstractAsyncContextManager[UpstreamClient]: ...


@pytest.fixture(params=TRANSPORTS)
def upstream(request: pytest.FixtureRequest) -> Open:
    """What every test here is run with: the adapter, over each transport."""
    transport: TransportName = request.param

    @asynccontextmanager
    async def opened(
        url: str, *, first_byte_s: float = 10.0, idle_s: float = 10.0, key: str = KEY, streams: int = 10
    ) -> AsyncGenerator[UpstreamClient]:
        limits = UpstreamTimeouts(2.0, first_byte_s, idle_s)
        environment = {"OPENAI_API_KEY": key, "OPENAI_BASE_URL": url}
        adapter = UpstreamClient.from_environment(environment, limits, streams, transport)
        try:
            yield adapter
        finally:
            await adapter.close()

    return opened


def asks(scenario: Mapping[str, object]) -> GenerationRequest:
    return parse_request(request_for(scenario))


async def body(adapter: UpstreamClient, request: GenerationRequest) -> bytes:
    """The whole body."""
    pieces: list[bytes] = []
    async with adapter.open_response(request) as answer:
        while piece := await answer.read():
            pieces.append(piece)
    return b"".join(pieces)


async def test_pieces_can_be_handed_on_as_they_come(upstream: Open) -> None:
    async with Simulator(key=KEY) as simulator, upstream(simulator.url) as adapter:
        pieces: list[bytes] = []

        def take(piece: bytes) -> bool:
            pieces.append(piece)
            return len(pieces) % 2 == 0

        async with adapter.open_response(asks(TEXT)) as answer:
            while await answer.deliver_to(take):
                pass
            assert answer.ended
    assert pieces[0].startswith(b"data: {")
    assert b"".join(pieces).endswith(b"data: [DONE]\n\n")


async def test_who_is_handed_pieces_hears_what_is_wrong(upstream: Open) -> None:
    """given: a server that falls silent or breaks off after some pieces / expect: the error that `read` raises."""
    async with Simulator() as simulator, upstream(simulator.url, idle_s=0.3) as adapter:
        for fault, code in (("stall", "upstream_timeout"), ("cut", "upstream_truncated")):
            pieces: list[bytes] = []

            def take(piece: bytes, pieces: list[bytes] = pieces) -> bool:
                pieces.append(piece)
                return True

            async def deliver_to(fault: str, take: Callable[[bytes], bool]) -> None:
                async with adapter.open_response(asks({**TEXT, "faults": [{"kind": fault, "after": 5}]})) as answer:
                    while await answer.deliver_to(take):
                        pass

            with pytest.raises(UpstreamUnavailable) as raised:
                await deliver_to(fault, take)
            assert raised.value.code == code
            assert pieces


async def error_of(adapter: UpstreamClient, scenario: Mapping[str, object]) -> UpstreamError:
    with pytest.raises(UpstreamError) as raised:
        await body(adapter, asks(scenario))
    return raised.value


async def test_the_bytes_come_as_they_were_sent(upstream: Open) -> None:
    async with Simulator(key=KEY) as simulator, upstream(simulator.url) as adapter:
        received = await body(adapter, asks(TEXT))
    assert received.startswith(b"data: {")
    assert received.endswith(b"data: [DONE]\n\n")


async def test_one_connection_serves_request_after_request(upstream: Open) -> None:
    """given: readers that stop at the end of the answer, before the end of the body / expect: no new connection."""
    async with Simulator() as simulator, Proxy(simulator.url) as proxy, upstream(proxy.url) as adapter:
        for _ in range(5):
            async with adapter.open_response(asks(TEXT)) as answer:
                seen = b""
                while b"[DONE]" not in seen:
                    seen += await answer.read()
            await until(lambda: adapter.ending == 0)
        assert proxy.connections == 1


async def test_whoever_is_cancelled_closes_the_connection_at_once(upstream: Open) -> None:
    async with Simulator() as simulator, upstream(simulator.url) as adapter:
        reading = asyncio.create_task(body(adapter, asks({**TEXT, "pace": {"chunks_per_s": 5}})))
        await until(lambda: simulator.ledger.entries() != [] and simulator.ledger.entries()[0].chunks_sent > 1)
        reading.cancel()
        with pytest.raises(asyncio.CancelledError):
            await reading
        await until(lambda: simulator.ledger.entries()[0].ended == "client_closed")
        assert simulator.open_connections == 0


async def test_a_server_that_never_ends_the_body_does_not_keep_the_connection_for_ever(upstream: Open) -> None:
    async with Simulator() as simulator:
        async with upstream(simulator.url) as adapter:
            scenario = {**TEXT, "faults": [{"kind": "stall", "after": 5}]}
            async with adapter.open_response(asks(scenario)) as answer:
                await answer.read()
            await until(lambda: simulator.open_connections == 0)


async def test_as_many_streams_as_jobs(upstream: Open) -> None:
    """given: a stream for each of many jobs, all open at once / expect: none waits for another's connection."""
    async with Simulator() as simulator, upstream(simulator.url, streams=120) as adapter:
        scenario = {**TEXT, "faults": [{"kind": "stall", "after": 1}]}
        tasks = [asyncio.create_task(body(adapter, asks(scenario))) for _ in range(120)]
        await until(lambda: sum(entry.chunks_sent > 0 for entry in simulator.ledger.entries()) == 120)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


async def test_the_first_byte_has_one_limit_for_headers_and_body(upstream: Open) -> None:
    async with Simulator() as simulator, upstream(simulator.url, first_byte_s=0.2) as adapter:
        late: Mapping[str, object] = {**TEXT, "pace": {"first_byte_delay_s": 30}}
        for scenario in ({"faults": [{"kind": "hang"}]}, late):
            error = await error_of(adapter, scenario)
            assert isinstance(error, UpstreamUnavailable)
            assert error.code == "upstream_first_byte_timeout"
        await until(lambda: simulator.open_connections == 0)


async def test_a_pause_in_the_reader_is_not_the_servers(upstream: Open) -> None:
    """given: a reader that pauses for longer than the idle limit, as back-pressure makes it / expect: no error."""
    async with Simulator() as simulator, upstream(simulator.url, idle_s=0.1) as adapter:
        async with adapter.open_response(asks(TEXT)) as answer:
            seen = await answer.read()
            await asyncio.sleep(0.25)
            while piece := await answer.read():
                seen += piece
    assert b"[DONE]" in seen


async def test_what_the_server_asks_for_is_kept(upstream: Open) -> None:
    async with Simulator() as simulator, upstream(simulator.url) as adapter:
        error = await error_of(adapter, {"faults": [{"kind": "status", "status": 429, "retry_after_s": 1.5}]})
    assert (error.code, error.status, error.retry_after_s) == ("upstream_429", 429, 1.5)


async def test_the_sdk_does_not_retry_by_itself(upstream: Open) -> None:
    async with Simulator() as simulator, upstream(simulator.url) as adapter:
        await error_of(adapter, {"faults": [{"kind": "status", "status": 500}]})
        assert len(simulator.ledger.entries()) == 1


async def test_a_masked_key_does_not_get_through(upstream: Open) -> None:
    said = "Incorrect API key provided: sk-test-****************6789."
    async with Simulator() as simulator, upstream(simulator.url) as adapter:
        error = await error_of(adapter, {"faults": [{"kind": "status", "status": 401, "message": said}]})
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
async def test_a_server_that_speaks_broken_http(upstream: Open, raw: bytes, code: str) -> None:
    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(raw)
        await writer.drain()
        writer.close()

    server = await asyncio.start_server(answer, "127.0.0.1", 0)
    port: int = server.sockets[0].getsockname()[1]
    async with server, upstream(f"http://127.0.0.1:{port}/v1") as adapter:
        error = await error_of(adapter, TEXT)
    assert error.code == code
    assert str(error).strip()
