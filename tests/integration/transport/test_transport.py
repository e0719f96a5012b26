"""Our transport and httpx2's, on both event loops, against servers whose bytes a test controls."""

import asyncio
import gzip
import socket
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Generator
from contextlib import ExitStack, contextmanager
from functools import partial
from pathlib import Path

import httpx2
import pytest

from tailrace.worker.upstream.transport import BODY_EXTENSION, ConnectionBody, Transport, connect
from tailrace.worker.upstream.transport.connection import MAX_UNREAD_BYTES, PIECE_BYTES
from tests.certificates import Certificates, made_in
from tests.http_server import Caller, responding_with, serving
from tests.until import until

EVENTS = b"data: an event\n\n" * 1000
PIECES = [b"one", b"two", b"end"]
MANY = 64 * 1024 * 1024
CHUNKED = b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n"
OK = b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok"
IMPATIENT = httpx2.Timeout(10.0, connect=0.2, read=0.2, write=0.2)


@pytest.fixture
async def ours() -> AsyncIterator[httpx2.AsyncClient]:
    """httpx2's client over our transport, for features that its own does not have."""
    async with httpx2.AsyncClient(transport=Transport()) as made:
        yield made


@pytest.fixture(params=["tailrace", "httpx"])
async def client(request: pytest.FixtureRequest) -> AsyncIterator[httpx2.AsyncClient]:
    """httpx2's client over either transport."""
    async with httpx2.AsyncClient(transport=Transport() if request.param == "tailrace" else None) as made:
        yield made


@pytest.fixture(scope="module")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> Certificates:
    return made_in(tmp_path_factory.mktemp("tls"))


async def each(caller: Caller) -> None:
    """Responds to every request until the client closes."""
    while True:
        await caller.request()
        await caller.send(OK)


@pytest.mark.parametrize(
    "parts",
    [
        [b"HTTP/1.1 200 OK\r\ncontent-length: %d\r\n\r\n" % len(EVENTS), EVENTS],
        [CHUNKED, b"%x\r\n" % len(EVENTS), EVENTS, b"\r\n0\r\n\r\n"],
        [b"HTTP/1.1 200 OK\r\n\r\n", EVENTS],
        [b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 200 OK\r\n\r\n", EVENTS],
        [b"HTTP/1.1 200 OK\r\ncontent-encoding: gzip\r\n\r\n", gzip.compress(EVENTS)],
    ],
)
async def test_a_body_in_every_framing(client: httpx2.AsyncClient, parts: list[bytes]) -> None:
    async with serving(responding_with(*parts)) as server:
        response = await client.post(server.url, json={"a": "b"})
    assert (response.status_code, response.reason_phrase, response.content) == (200, "OK", EVENTS)


async def test_a_head_request_and_a_response_without_a_body(client: httpx2.AsyncClient) -> None:
    async with serving(responding_with(b"HTTP/1.1 200 OK\r\ncontent-length: 5\r\n\r\n")) as server:
        assert (await client.head(server.url)).headers["content-length"] == "5"
    async with serving(responding_with(b"HTTP/1.1 204 No Content\r\n\r\n")) as server:
        assert (await client.post(server.url)).status_code == 204


async def test_a_request_is_sent_whole(client: httpx2.AsyncClient) -> None:
    # given bodies of known and of unknown length, expect the server to receive them whole
    async def echo(caller: Caller) -> None:
        for _ in range(2):
            request = await caller.request()
            if b"chunked" in request:
                request += await caller.reader.readuntil(b"0\r\n\r\n")
            await caller.send(b"HTTP/1.1 200 OK\r\ncontent-length: %d\r\n\r\n" % len(request), request)

    async def parts() -> AsyncGenerator[bytes]:
        yield b"01234"
        yield b""
        yield b"56789"

    async with serving(echo) as server:
        whole = await client.post(server.url + "/a?b=c", content=b"0123456789", headers={"x-y": "z"})
        in_parts = await client.post(server.url, content=parts())
    assert whole.content.startswith(b"POST /a?b=c HTTP/1.1\r\n")
    assert b"\r\nx-y: z\r\n" in whole.content.lower()
    assert whole.content.endswith(b"\r\n\r\n0123456789")
    assert in_parts.content.endswith(b"\r\n\r\n5\r\n01234\r\n5\r\n56789\r\n0\r\n\r\n")


async def test_a_header_value_with_a_line_end_is_not_sent(client: httpx2.AsyncClient) -> None:
    async with serving(each) as server:
        for value in (b"a\r\nx-other: b", b"a\nb", b"a\0b"):
            with pytest.raises(httpx2.LocalProtocolError):
                await client.get(server.url, headers=[(b"x-one", value)])


@pytest.mark.parametrize(
    "parts",
    [
        [],
        [b"HTTP/1.1 200 OK\r\n"],
        [b"HTTP/1.1 200 OK\r\ncontent-length: 100\r\n\r\nless"],
        [CHUNKED + b"4\r\nless\r\n"],
        [CHUNKED + b"4\r\nless\r\nZZ\r\n"],
        [b"SSH-2.0-OpenSSH\r\n"],
    ],
)
async def test_a_response_that_breaks_off_is_an_error(client: httpx2.AsyncClient, parts: list[bytes]) -> None:
    async with serving(responding_with(*parts)) as server:
        with pytest.raises(httpx2.RemoteProtocolError):
            await client.post(server.url)


async def test_pieces_before_a_break_are_read(client: httpx2.AsyncClient) -> None:
    async with (
        serving(responding_with(CHUNKED + b"4\r\nless\r\n")) as server,
        client.stream("POST", server.url) as response,
    ):
        pieces = response.aiter_raw()
        assert await anext(pieces) == b"less"
        with pytest.raises(httpx2.RemoteProtocolError):
            await anext(pieces)


async def test_a_connection_reset(client: httpx2.AsyncClient) -> None:
    async def answer(caller: Caller) -> None:
        await caller.request()
        own = caller.writer.get_extra_info("socket")
        own.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
        caller.writer.transport.abort()

    async with serving(answer) as server:
        with pytest.raises(httpx2.ReadError):
            await client.post(server.url)


async def test_a_port_that_nothing_listens_on(client: httpx2.AsyncClient) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        with pytest.raises(httpx2.ConnectError, match=r"."):
            await client.get(f"http://127.0.0.1:{taken.getsockname()[1]}")
    with pytest.raises(httpx2.UnsupportedProtocol):
        await client.get("ftp://127.0.0.1")


async def test_each_wait_has_its_timeout(client: httpx2.AsyncClient) -> None:
    async def silent(caller: Caller) -> None:
        await asyncio.Event().wait()

    async def begins(caller: Caller) -> None:
        await caller.request()
        await caller.send(CHUNKED)
        await asyncio.Event().wait()

    async with serving(silent) as server:
        with pytest.raises(httpx2.ConnectTimeout):
            await client.get(server.url.replace("http:", "https:"), timeout=IMPATIENT)
        with pytest.raises(httpx2.ReadTimeout):
            await client.get(server.url, timeout=IMPATIENT)
        with pytest.raises(httpx2.WriteTimeout):
            await client.post(server.url, content=bytes(MANY), timeout=IMPATIENT)
    async with serving(begins) as server, client.stream("GET", server.url, timeout=IMPATIENT) as response:
        with pytest.raises(httpx2.ReadTimeout):
            await response.aread()


async def test_a_short_timeout_after_a_long_one_is_kept(ours: httpx2.AsyncClient) -> None:
    # given a wait that ended before its long timeout, expect the short timeout of the next wait to be kept
    goes_on = asyncio.Event()

    async def answer(caller: Caller) -> None:
        await caller.request()
        await caller.send(CHUNKED)
        await goes_on.wait()
        await caller.send(b"4\r\nmore\r\n")
        await caller.wait_until_closed()

    loop = asyncio.get_running_loop()
    async with serving(answer) as server, ours.stream("GET", server.url, timeout=None) as response:
        body: ConnectionBody = response.extensions[BODY_EXTENSION]
        patient = asyncio.create_task(body.read(loop.time() + 60))
        await asyncio.sleep(0)
        goes_on.set()
        assert await patient == b"more"
        short = asyncio.create_task(body.read(loop.time() + 0.05))
        await until(short.done)
        assert isinstance(short.exception(), TimeoutError)


async def test_pieces_are_delivered_in_the_callback_that_receives_them(ours: httpx2.AsyncClient) -> None:
    # given a task that waits in `deliver_to`, expect each piece as it came, without a task switch
    async def answer(caller: Caller) -> None:
        await caller.request()
        await caller.send(CHUNKED)
        for piece in PIECES:
            await caller.send(b"3\r\n%b\r\n" % piece)
            await until(partial(is_last, piece))
        await caller.send(b"0\r\n\r\n")
        await caller.wait_until_closed()

    def is_last(piece: bytes) -> bool:
        return taken[-1:] == [piece]

    def take(piece: bytes) -> bool:
        taken.append(piece)
        by.append(asyncio.current_task())
        return True

    taken: list[bytes] = []
    by: list[asyncio.Task[object] | None] = []
    async with serving(answer) as server, ours.stream("GET", server.url) as response:
        body: ConnectionBody = response.extensions[BODY_EXTENSION]
        assert not await body.deliver_to(take, 10.0)
        assert not await body.deliver_to(take, 10.0), "there is nothing after the end"
    assert taken == PIECES
    assert by[1:] == [None, None], "the first piece may have come with the headers"


async def test_a_receiver_that_has_enough_gets_no_more(ours: httpx2.AsyncClient) -> None:
    # given a body larger than the buffer and a receiver of one piece at a time, expect all pieces, one per call
    async def answer(caller: Caller) -> None:
        await caller.request()
        await caller.send(b"HTTP/1.1 200 OK\r\ncontent-length: %d\r\n\r\n" % MANY)
        await caller.send(bytes(MANY))
        await caller.wait_until_closed()

    def take(piece: bytes) -> bool:
        taken.append(len(piece))
        return False

    taken: list[int] = []
    async with serving(answer) as server, ours.stream("GET", server.url) as response:
        body: ConnectionBody = response.extensions[BODY_EXTENSION]
        calls = 0
        while await body.deliver_to(take, 10.0):
            calls += 1
            assert len(taken) == calls
    assert sum(taken) == MANY
    assert max(taken) <= PIECE_BYTES


async def test_what_ends_a_delivery_early(ours: httpx2.AsyncClient) -> None:
    # given a server that closes, one that stops sending, and a receiver that fails, expect the pieces and the error
    async def stops(caller: Caller) -> None:
        await caller.request()
        await caller.send(CHUNKED)
        await caller.send(b"3\r\none\r\n")

    async def silent(caller: Caller) -> None:
        await stops(caller)
        await caller.wait_until_closed()

    def take(piece: bytes) -> bool:
        taken.append(piece)
        return True

    def refuse(piece: bytes) -> bool:
        raise ValueError(piece)

    for answer, by, reason in (
        (stops, take, httpx2.RemoteProtocolError),
        (silent, take, TimeoutError),
        (silent, refuse, ValueError),
    ):
        taken: list[bytes] = []
        async with serving(answer) as server, ours.stream("GET", server.url) as response:
            body: ConnectionBody = response.extensions[BODY_EXTENSION]
            with pytest.raises(reason):
                await body.deliver_to(by, 0.2)
        assert taken == ([b"one"] if by is take else [])


async def test_a_pause_starts_with_the_last_piece(ours: httpx2.AsyncClient) -> None:
    # given pieces over a longer time than the timeout, each within it, expect all of them
    async def answer(caller: Caller) -> None:
        await caller.request()
        await caller.send(CHUNKED)
        for _ in range(8):
            await caller.send(b"1\r\n.\r\n")
            await asyncio.sleep(0.1)
        await caller.send(b"0\r\n\r\n")
        await caller.wait_until_closed()

    def take(piece: bytes) -> bool:
        taken.append(piece)
        return True

    taken: list[bytes] = []
    async with serving(answer) as server, ours.stream("GET", server.url) as response:
        body: ConnectionBody = response.extensions[BODY_EXTENSION]
        assert not await body.deliver_to(take, 0.5)
    assert b"".join(taken) == b"." * 8


async def test_a_refusal_before_the_request_is_sent_is_read(ours: httpx2.AsyncClient) -> None:
    async def refuse(caller: Caller) -> None:
        await caller.request()
        await caller.send(b"HTTP/1.1 413 Too Large\r\ncontent-length: 0\r\n\r\n")
        await caller.wait_until_closed()

    async def parts() -> AsyncGenerator[bytes]:
        for _ in range(1024):
            yield bytes(MANY // 1024)
            await asyncio.sleep(0)

    async with serving(refuse) as server:
        assert (await ours.post(server.url, content=parts())).status_code == 413
        assert (await ours.post(server.url)).status_code == 413
        assert len(server.callers) == 2, "a second request would be read as the rest of the first"
        await until(lambda: server.callers[0].gone)


async def test_one_connection_serves_several_requests(client: httpx2.AsyncClient) -> None:
    async with serving(each) as server:
        for _ in range(5):
            assert (await client.post(server.url)).content == b"ok"
        assert len(server.callers) == 1
        await asyncio.gather(*(client.post(server.url) for _ in range(20)))
        assert 1 < len(server.callers) <= 20


async def test_a_connection_that_the_server_has_closed_is_not_used(client: httpx2.AsyncClient) -> None:
    # given a server that closes after each response, announced or not, expect a new connection
    async with serving(responding_with(OK)) as server:
        for number in range(1, 4):
            assert (await client.post(server.url)).content == b"ok"
            await until(lambda: all(caller.writer.is_closing() for caller in server.callers))
            assert len(server.callers) == number

    async def closing(caller: Caller) -> None:
        await caller.request()
        await caller.send(OK.replace(b"OK\r\n", b"OK\r\nconnection: close\r\n"))
        await caller.wait_until_closed()

    async with serving(closing) as server:
        for _ in range(3):
            assert (await client.post(server.url)).content == b"ok"
        assert len(server.callers) == 3
        await until(lambda: all(caller.gone for caller in server.callers))


async def test_bytes_after_a_response_are_not_the_next_response(ours: httpx2.AsyncClient) -> None:
    async def answer(caller: Caller) -> None:
        await caller.request()
        await caller.send(OK + OK.replace(b"ok", b"no"))
        await caller.wait_until_closed()

    async with serving(answer) as server:
        for _ in range(2):
            assert (await ours.post(server.url)).content == b"ok"
        assert len(server.callers) == 2


async def test_leaving_a_body_closes_the_connection(client: httpx2.AsyncClient) -> None:
    async def endless(caller: Caller) -> None:
        await caller.request()
        await caller.send(CHUNKED, b"4\r\nmore\r\n")
        await caller.wait_until_closed()

    async with serving(endless) as server:
        async with client.stream("POST", server.url) as response:
            assert await anext(response.aiter_raw()) == b"more"
        await until(lambda: server.callers[0].gone)

        reading = asyncio.create_task(client.post(server.url))
        await until(lambda: len(server.callers) == 2 and server.callers[1].sent > 0)
        reading.cancel()
        await until(lambda: server.callers[1].gone)


async def test_cancelling_a_request_closes_the_connection(client: httpx2.AsyncClient) -> None:
    async def silent(caller: Caller) -> None:
        await caller.request()
        await caller.wait_until_closed()

    async with serving(silent) as server:
        asking = asyncio.create_task(client.post(server.url))
        await until(lambda: server.callers != [])
        asking.cancel()
        await until(lambda: server.callers[0].gone)


async def test_a_slow_reader_pauses_the_server(client: httpx2.AsyncClient) -> None:
    # given more bytes than the socket buffers hold, expect the server to wait until they are read, and then all of them
    part = b"%x\r\n" % 65536 + b"a" * 65536 + b"\r\n"
    count = MANY // 65536

    async def much(caller: Caller) -> None:
        await caller.request()
        await caller.send(CHUNKED, *([part] * count), b"0\r\n\r\n")

    async def stuck() -> bool:
        before = server.callers[0].sent
        await asyncio.sleep(0.2)
        return server.callers[0].sent == before > 0

    async with serving(much) as server, client.stream("POST", server.url) as response:
        async with asyncio.timeout(20):
            while not await stuck():
                pass
        assert server.callers[0].sent < MANY / 2
        received = 0
        async for piece in response.aiter_raw():
            received += len(piece)
            assert len(piece) <= MAX_UNREAD_BYTES
    assert received == MANY


async def test_a_certificate_of_an_unknown_authority(client: httpx2.AsyncClient, certificates: Certificates) -> None:
    async with serving(each, certificates.server) as server:
        with pytest.raises(httpx2.ConnectError, match="certificate"):
            await client.get(server.url)


@pytest.mark.parametrize("transport", ["tailrace", "httpx"])
async def test_a_trusted_certificate(
    transport: str, certificates: Certificates, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    # given SSL_CERT_FILE, expect persistent connections with SNI and HTTP/1.1, and none to another name
    names: list[str | None] = []
    certificates.server.set_alpn_protocols(["h2", "http/1.1"])
    certificates.server.sni_callback = lambda _, name, __: names.append(name)
    monkeypatch.setenv("SSL_CERT_FILE", str(certificates.authority))
    agreed: list[str | None] = []

    async def answer(caller: Caller) -> None:
        agreed.append(caller.writer.get_extra_info("ssl_object").selected_alpn_protocol())
        await each(caller)

    async with (
        httpx2.AsyncClient(transport=Transport() if transport == "tailrace" else None) as client,
        serving(answer, certificates.server) as server,
    ):
        by_name = server.url.replace("127.0.0.1", "localhost")
        for _ in range(3):
            assert (await client.post(by_name)).content == b"ok"
        assert (await client.post(server.url)).content == b"ok"
        assert (names, agreed) == (["localhost", None], ["http/1.1", "http/1.1"])

    other = made_in(tmp_path, "DNS:elsewhere.example")
    monkeypatch.setenv("SSL_CERT_FILE", str(other.authority))
    async with (
        httpx2.AsyncClient(transport=Transport() if transport == "tailrace" else None) as client,
        serving(each, other.server) as server,
    ):
        with pytest.raises(httpx2.ConnectError, match=r"certificate|match"):
            await client.get(server.url)


async def test_an_address_that_does_not_answer_delays_little(
    ours: httpx2.AsyncClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    # given a host whose first addresses refuse or do not answer, expect a response from the next
    async with serving(each) as server:
        port = int(server.url.rpartition(":")[2])
        with silent_at("127.0.0.2", port):
            monkeypatch.setattr(connect, "_addresses", are("127.0.0.3", "127.0.0.2", "127.0.0.1"))
            assert (await ours.get(server.url)).content == b"ok"
            monkeypatch.setattr(connect, "_addresses", are("127.0.0.2"))
            with pytest.raises(httpx2.ConnectTimeout):
                await ours.get(server.url.replace("127.0.0.1", "localhost"), timeout=IMPATIENT)
        monkeypatch.setattr(connect, "_addresses", are("127.0.0.3", "127.0.0.2"))
        with pytest.raises(httpx2.ConnectError):
            await ours.get(server.url.replace("127.0.0.1", "localhost"))


@contextmanager
def silent_at(host: str, port: int) -> Generator[None]:
    """An address that does not answer connection attempts, since its backlog is full."""
    with ExitStack() as stack:
        stack.enter_context(socket.create_server((host, port), backlog=0))
        for _ in range(4):
            waiting = stack.enter_context(socket.socket())
            waiting.setblocking(False)
            waiting.connect_ex((host, port))
        yield


def are(*hosts: str) -> Callable[[connect.Origin], Awaitable[list[str]]]:
    async def addresses(_: connect.Origin) -> list[str]:
        return list(hosts)

    return addresses
