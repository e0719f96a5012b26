"""What the simulator does to a connection when a scenario says so, seen from a bare socket; and what it notices."""

from __future__ import annotations

import asyncio
import contextlib
import json
import socket
from collections.abc import Callable
from typing import Any

import pytest

from tailrace.demo.simulator import Simulator

TEXT = [{"kind": "text", "text": "one two three four"}]


async def until(condition: Callable[[], bool]) -> None:
    """Waits for a condition; fails after five seconds."""
    async with asyncio.timeout(5):
        while not condition():  # noqa: ASYNC110 -- what is waited for has no event: it is the simulator's own record
            await asyncio.sleep(0.005)


def request_bytes(path: str = "/v1/chat/completions", method: str = "POST", **body: Any) -> bytes:
    content = json.dumps(body).encode() if body else b""
    head = (
        f"{method} {path} HTTP/1.1\r\nhost: sim\r\nauthorization: Bearer any\r\ncontent-length: {len(content)}\r\n\r\n"
    )
    return head.encode() + content


def asking(scenario: dict[str, Any], **more: Any) -> bytes:
    said = [{"role": "user", "content": "Hello"}]
    body: dict[str, Any] = {
        "model": "sim",
        "messages": said,
        "stream": True,
        "simulator": {"steps": TEXT, **scenario},
        **more,
    }
    return request_bytes(**body)


class Line:
    """A bare connection to the simulator."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader, self._writer = reader, writer

    async def __aenter__(self) -> Line:
        return self

    async def __aexit__(self, *_: object) -> None:
        self._writer.close()

    def send(self, data: bytes) -> None:
        self._writer.write(data)

    async def until(self, mark: bytes) -> bytes:
        async with asyncio.timeout(5):
            return await self._reader.readuntil(mark)

    async def rest(self) -> bytes:
        """All that comes until the server closes; ConnectionResetError where it resets."""
        async with asyncio.timeout(5):
            return await self._reader.read()

    def abort(self) -> None:
        self._writer.transport.abort()


async def call(simulator: Simulator) -> Line:
    port = int(simulator.root.rpartition(":")[2])
    return Line(*await asyncio.open_connection("127.0.0.1", port))


def events_in(raw: bytes) -> int:
    return raw.count(b"data: ")


async def test_a_cut_closes_without_the_last_chunk(simulator: Simulator) -> None:
    async with await call(simulator) as line:
        line.send(asking({"faults": [{"kind": "cut", "after": 3}]}))
        raw = await line.rest()

    assert events_in(raw) == 3
    assert not raw.endswith(b"0\r\n\r\n")
    assert [(entry.ended, entry.chunks_sent) for entry in simulator.ledger.entries()] == [("cut", 3)]


async def test_a_reset_arrives_after_what_was_sent(simulator: Simulator) -> None:
    async with await call(simulator) as line:
        line.send(asking({"faults": [{"kind": "rst", "after": 2}]}))
        raw = await line.until(b"\r\n\r\n")
        raw += await line.until(b"\n\n\r\n")
        raw += await line.until(b"\n\n\r\n")
        with pytest.raises(ConnectionResetError):
            await line.rest()

    assert events_in(raw) == 2
    assert simulator.ledger.entries()[0].ended == "rst"


async def test_a_premature_end_is_clean(simulator: Simulator) -> None:
    # given: a body that ends after three events, on a connection that is kept
    async with await call(simulator) as line:
        line.send(asking({"faults": [{"kind": "end", "after": 3}]}))
        raw = await line.until(b"0\r\n\r\n")
        line.send(request_bytes("/v1/models", "GET"))
        second = await line.until(b"\r\n\r\n")

    # expect: nothing but the end is missing, and the connection goes on
    assert events_in(raw) == 3
    assert b"[DONE]" not in raw
    assert second.startswith(b"HTTP/1.1 200 OK\r\n")


async def test_error_and_garbage_events(simulator: Simulator) -> None:
    faults = [{"kind": "garbage", "after": 1}, {"kind": "error", "after": 2, "message": "broken wheel"}]
    async with await call(simulator) as line:
        line.send(asking({"faults": faults}))
        raw = await line.until(b"0\r\n\r\n")

    assert b'data: {"id": "chatcmpl-\n\n' in raw
    assert b'data: {"error":{"message":"broken wheel","type":"server_error","param":null,"code":null}}\n\n' in raw
    assert b"[DONE]" not in raw


async def test_html_with_status_200(simulator: Simulator) -> None:
    async with await call(simulator) as line:
        line.send(asking({"faults": [{"kind": "html"}]}))
        head = await line.until(b"\r\n\r\n")
        assert b"</html>" in await line.until(b"</html>\n")

    assert head.startswith(b"HTTP/1.1 200 OK\r\n")
    assert b"content-type: text/html" in head


async def test_one_body_can_be_cut_in_its_middle(simulator: Simulator) -> None:
    async with await call(simulator) as line:
        line.send(asking({"faults": [{"kind": "cut", "after": 9}]}, stream=False))
        raw = await line.rest()

    head, _, body = raw.partition(b"\r\n\r\n")
    promised = int(head.lower().partition(b"content-length: ")[2].split(b"\r\n")[0])
    assert 0 < len(body) < promised


@pytest.mark.parametrize(
    "fault",
    [{"kind": "hang"}, {"kind": "stall", "after": 0}, {"kind": "stall", "after": 2}, None],
    ids=["hang", "stall at once", "stall", "slow"],
)
async def test_a_client_that_goes_is_noticed(simulator: Simulator, fault: dict[str, Any] | None) -> None:
    # given: a request that is not going to end
    scenario: dict[str, Any] = {"pace": {"chunks_per_s": 0.001}, "faults": [fault] if fault else []}
    for resets in (True, False):
        async with await call(simulator) as line:
            line.send(asking(scenario))
            if fault != {"kind": "hang"}:
                await line.until(b"\r\n\r\n")
            await until(lambda: any(entry.ended == "open" for entry in simulator.ledger.entries()))
            if resets:
                line.abort()

        # expect: its end is noticed, whether the client resets or closes
        await until(lambda: simulator.ledger.entries()[-1].ended == "client_closed")
        await until(lambda: simulator.open_connections == 0)


async def test_a_client_that_does_not_read_is_waited_for_and_missed_when_it_goes(simulator: Simulator) -> None:
    # given: some 35 MB, more than fits into the sockets' buffers, and a client that reads none of it
    async with await call(simulator) as line:
        line.send(asking({"steps": [{"kind": "text", "chunks": 100_000}]}))
        await line.until(b"\r\n\r\n")
        for _ in range(3000):  # turns of the loop, several times what it takes to write it all
            await asyncio.sleep(0)
        [entry] = simulator.ledger.entries()

        # expect: it is not heaped up in memory, and the client is missed when it goes
        assert entry.ended == "open"
        assert entry.chunks_sent < 100_000
        line.abort()
    await until(lambda: entry.ended == "client_closed")


async def test_comments_keep_a_stall_alive(simulator: Simulator) -> None:
    scenario = {"keepalive_s": 0.01, "faults": [{"kind": "stall", "after": 1}]}
    async with await call(simulator) as line:
        line.send(asking(scenario))
        for _ in range(3):
            await line.until(b": keep-alive\n\n")


async def test_requests_in_one_go_are_answered_in_turn(simulator: Simulator) -> None:
    async with await call(simulator) as line:
        line.send(asking({}) + asking({}, stream=False) + request_bytes("/v1/models/sim", "GET"))
        streamed = await line.until(b"0\r\n\r\n")
        whole = await line.until(b"chat.completion")
        model = await line.until(b'"object": "model"')

    assert b"[DONE]" in streamed
    assert b"HTTP/1.1 200 OK" in whole
    assert b"HTTP/1.1 200 OK" in model


async def test_what_is_not_http_is_refused(simulator: Simulator) -> None:
    too_large = b"POST /v1/responses HTTP/1.1\r\nhost: a\r\ncontent-length: 99999999\r\n\r\n" + b" " * (33 << 20)
    for raw, status in (
        (b"nonsense\r\n\r\n", b"400"),
        (b"GET / HTTP/1.1\r\n" + b"a: b\r\n" * 20_000, b"431"),
        (b"GET /v1/models HTTP/1.0\r\n\r\n", b"505"),
        (too_large, b"413"),
    ):
        async with await call(simulator) as line:
            line.send(raw)
            assert (await line.until(b"\r\n")).split()[1] == status


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b'{"model": "\xff"}', b"[" * 200_000], ids=range(5))
async def test_a_body_that_is_no_json_object_is_refused(simulator: Simulator, content: bytes) -> None:
    head = ["POST /v1/chat/completions HTTP/1.1", "host: sim", "authorization: Bearer any"]
    async with await call(simulator) as line:
        line.send("\r\n".join([*head, f"content-length: {len(content)}", "", ""]).encode() + content)
        assert (await line.until(b"\r\n")).split()[1] == b"400"
        assert b"could not parse" in await line.until(b"}\n}")


async def test_the_simulator_tells_what_it_was_asked(simulator: Simulator) -> None:
    # given: one request that has ended and one that runs
    async with await call(simulator) as done, await call(simulator) as running, await call(simulator) as control:
        done.send(asking({}))
        await done.until(b"0\r\n\r\n")
        running.send(asking({"faults": [{"kind": "stall", "after": 2}]}))
        await running.until(b"\n\n\r\n")
        control.send(request_bytes("/__sim/requests", "GET"))
        head = await control.until(b"\r\n\r\n")
        length = int(head.lower().partition(b"content-length: ")[2].split(b"\r\n")[0])
        report = json.loads(await control.until(b"}]}"))
        assert length > 0

        # expect: both, how they stand, and when; the question itself is not counted
        assert (report["total"], report["running"], report["open_connections"]) == (2, 1, 3)
        first, second = report["requests"]
        assert (first["model"], first["stream"], first["status"], first["ended"]) == ("sim", True, 200, "completed")
        assert first["started_s"] <= first["first_byte_s"] <= first["ended_s"] <= report["now_s"]
        assert (second["ended"], second["ended_s"], second["chunks_sent"]) == ("open", None, 2)
        control.send(request_bytes("/__sim/reset"))
        await control.until(b"{}")
        assert simulator.ledger.entries() == []


async def test_leaving_drops_what_runs() -> None:
    async with Simulator() as simulator:
        line = await call(simulator)
        line.send(asking({"faults": [{"kind": "stall", "after": 1}]}))
        await line.until(b"\n\n\r\n")
    async with line:
        with contextlib.suppress(ConnectionResetError):  # a plain close is as good as a reset
            assert b"0\r\n\r\n" not in await line.rest()
    assert simulator.ledger.entries()[0].ended == "stopped"
    with pytest.raises(OSError, match="Connect"):
        socket.create_connection(("127.0.0.1", int(simulator.root.rpartition(":")[2])), timeout=5)
