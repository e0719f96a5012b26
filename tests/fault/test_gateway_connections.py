"""Faults of connections: a reader that takes nothing, a gateway that stops or is killed, a Redis that restarts."""

import asyncio
import os
import random
import signal
import socket
import sys
from collections.abc import AsyncGenerator, Mapping
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path

import httpx2
import pytest

from tailrace.demo.valkey import EmbeddedValkey
from tailrace.producers.gateway.access.api_keys import new_key
from tests.gateway_rig import WAIT_S, Event, Served, events, gateway, reading
from tests.rig import Rig, request_for, rig
from tests.until import until

TAILRACE = Path(sys.executable).with_name("tailrace")
LONG = {"steps": [{"kind": "text", "chunks": 300}], "pace": {"chunks_per_s": 100}}
MUCH = {"steps": [{"kind": "text", "text": 40_000 * "a lot of text "}]}
LARGE = {"steps": [{"kind": "text", "text": 200_000 * "a lot of text "}], "chunking": {"chars": 10_000}}


def idle_reader(served: Served, paths: list[str], *, receive_bytes: int = 4096) -> socket.socket:
    """A connection that sends requests, one after the other, and reads nothing by itself."""
    link = socket.create_connection(("127.0.0.1", served.port))
    link.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_bytes)
    for path in paths:
        link.sendall(f"GET {path} HTTP/1.1\r\nhost: x\r\nauthorization: Bearer {served.key}\r\n\r\n".encode())
    return link


async def test_a_reader_that_takes_nothing_is_cut_off_alone(
    redis_url: str, tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    # One of two readers of a long answer takes nothing. Its connection is cut off; the other reader gets everything.
    caplog.set_level("INFO")
    async with rig(redis_url) as tailrace, gateway(redis_url, tmp_path, gateway_write_timeout_s=0.5) as served:
        submitted = await served.submit(request_for(MUCH))
        path = submitted["links"]["events"]
        with idle_reader(served, [path]):
            whole = await events(served.http, path)
            assert whole[-1].name == "completed"
            await until(lambda: f"stream {submitted['id']} slow" in caplog.text)
            await until(lambda: len(served.server.server_state.connections) <= 1)  # nothing is buffered for it any more
            assert "without completing" not in caplog.text
        text = "".join(event.entry["content"] for event in whole if event.name == "assistant_message")
        assert text == (await tailrace.outcome(submitted["id"])).content


@pytest.mark.parametrize("requests", [1, 3])
async def test_a_response_that_is_not_taken_is_dropped(redis_url: str, tmp_path: Path, requests: int) -> None:
    # The client requests an outcome of megabytes, once or three times on one connection, and reads nothing.
    async with rig(redis_url) as tailrace, gateway(redis_url, tmp_path, gateway_write_timeout_s=0.25) as served:
        submitted = await served.submit(request_for(LARGE))
        assert (await tailrace.outcome(submitted["id"])).status == "completed"
        connections = served.server.server_state.connections
        await until(lambda: len(connections) == 1)
        with idle_reader(served, requests * [submitted["links"]["self"]]):
            await until(lambda: len(connections) == 2)
            await until(lambda: len(connections) == 1)


async def test_a_slow_reader_gets_a_frame_that_takes_longer_than_the_write_timeout(
    redis_url: str, tmp_path: Path
) -> None:
    # The reader takes a snapshot of megabytes slowly but steadily. It must arrive on one connection: a snapshot has no
    # cursor inside, so a reader that is cut off would begin again, for ever.
    async with rig(redis_url) as tailrace, gateway(redis_url, tmp_path, gateway_write_timeout_s=0.5) as served:
        submitted = await served.submit(request_for(LARGE))
        assert (await tailrace.outcome(submitted["id"])).status == "completed"
        body = bytearray()
        with idle_reader(served, [f"{submitted['links']['events']}?snapshot=1"], receive_bytes=64 * 1024) as link:
            link.setblocking(False)
            async with asyncio.timeout(WAIT_S):
                while b"event: completed" not in body[-1000:]:
                    piece = await asyncio.get_running_loop().sock_recv(link, 64 * 1024)
                    assert piece, f"cut off after {len(body)} bytes"
                    body += piece
                    await asyncio.sleep(0.03)  # how slow it is
        assert len(body) > 2_000_000


class Process:
    """`tailrace gateway` as a process."""

    def __init__(self, child: asyncio.subprocess.Process, url: str) -> None:
        self.child = child
        self.url = url

    async def ends(self, by: signal.Signals) -> int:
        """Sends the signal and returns the exit code."""
        self.child.send_signal(by)
        async with asyncio.timeout(WAIT_S):
            return await self.child.wait()


@asynccontextmanager
async def process(redis_url: str, keys_file: Path, *arguments: str, **more: str) -> AsyncGenerator[Process]:
    environment: Mapping[str, str] = {
        "PATH": os.environ["PATH"],
        "TAILRACE_REDIS_URL": redis_url,
        "TAILRACE_GATEWAY_KEYS_FILE": str(keys_file),
        **more,
    }
    child = await asyncio.create_subprocess_exec(
        TAILRACE, "gateway", "--port", "0", *arguments, env=environment, stdout=asyncio.subprocess.PIPE
    )
    assert child.stdout is not None
    try:
        async with asyncio.timeout(WAIT_S):
            line = (await child.stdout.readline()).decode()
        assert line.startswith("tailrace gateway listens on http://127.0.0.1:"), line
        yield Process(child, line.split()[-1])
    finally:
        if child.returncode is None:
            child.kill()
            await child.wait()


@pytest.mark.parametrize("by", [signal.SIGTERM, signal.SIGINT])
async def test_readers_of_a_stopped_gateway_resume_at_another(
    redis_url: str, tmp_path: Path, by: signal.Signals
) -> None:
    shown, kept = new_key("acme")
    (tmp_path / "keys").write_text(kept.line)
    headers = {"authorization": f"Bearer {shown}"}
    async with (
        rig(redis_url) as tailrace,
        process(redis_url, tmp_path / "keys") as first,
        process(redis_url, tmp_path / "keys") as second,
        httpx2.AsyncClient(headers=headers, timeout=WAIT_S) as http,
    ):
        submitted = (await http.post(f"{first.url}/v1/streams", json=request_for(LONG))).json()
        received: list[Event] = []
        async with reading(http, first.url + submitted["links"]["events"]) as reader:
            async for event in reader:
                received.append(event)
                if event.id == "1-10":
                    first.child.send_signal(by)
        # the stopped stream has a complete body and a second retry hint, and the process exits with 0
        assert len(reader.retries) == 2
        assert received[-1].name != "completed"
        async with asyncio.timeout(WAIT_S):
            assert await first.child.wait() == 0
        received += await events(
            http, second.url + submitted["links"]["events"], {"last-event-id": received[-1].id or ""}
        )
        assert [event.id for event in received] == await tailrace.ids(submitted["id"])
        assert await second.ends(signal.SIGTERM) == 0


async def follow(http: httpx2.AsyncClient, urls: list[str], path: str, dice: random.Random) -> tuple[str, list[str]]:
    """Reads as an EventSource, from a random gateway, and disconnects at random; returns the text and all ids."""
    text, ids, last = "", list[str](), ""
    while True:
        frames_left = dice.randrange(1, 200)
        try:
            async with reading(http, dice.choice(urls) + path, {"last-event-id": last}) as reader:
                if reader.status == 204:
                    return text, ids
                assert reader.status == 200
                async for event in reader:
                    if event.name == "attempt_started":
                        text = ""
                    if event.name == "assistant_message":
                        text += event.entry["content"]
                    if event.id is not None:
                        last = event.id
                        ids.append(event.id)
                    frames_left -= 1
                    if not frames_left:
                        break
        except httpx2.TransportError:
            await asyncio.sleep(dice.random() * 0.2)


async def test_readers_resumed_at_random_during_restarts_get_the_exact_text(tmp_path: Path) -> None:
    # While gateways are killed and replaced and Redis restarts, each of many readers gets every entry once, and the
    # text of the outcome.
    dice = random.Random(5)  # noqa: S311 - reproducible, not a secret
    shown, kept = new_key("acme")
    (tmp_path / "keys").write_text(kept.line)
    with EmbeddedValkey(appendonly=True, options={"appendfsync": "always"}) as valkey:
        async with (
            rig(valkey.url) as tailrace,
            process(valkey.url, tmp_path / "keys") as first,
            process(valkey.url, tmp_path / "keys") as second,
            httpx2.AsyncClient(
                headers={"authorization": f"Bearer {shown}"},
                timeout=WAIT_S,
                limits=httpx2.Limits(max_connections=None),
            ) as http,
        ):
            urls = [first.url, second.url]
            paths = [
                (await http.post(f"{second.url}/v1/streams", json=request_for(LONG))).json()["links"]["events"]
                for _ in range(5)
            ]
            readers = [asyncio.create_task(follow(http, urls, path, dice)) for path in paths for _ in range(8)]
            for request in paths:
                await until(partial(_has_started, tailrace, request))
            await first.ends(signal.SIGKILL)
            valkey.kill()
            valkey.start()
            async with process(valkey.url, tmp_path / "keys") as third:
                urls[0] = third.url
                async with asyncio.timeout(60):
                    ends = await asyncio.gather(*readers)
                for path in paths:
                    request_id = path.split("/")[3]
                    content = (await tailrace.outcome(request_id)).content
                    for text, ids in ends[8 * paths.index(path) : 8 * paths.index(path) + 8]:
                        assert text == content
                        assert ids == await tailrace.ids(request_id)


async def _has_started(tailrace: Rig, path: str) -> bool:
    return len(await tailrace.ids(path.split("/")[3])) > 5


@pytest.mark.parametrize(
    ("arguments", "environment", "expected"),
    [
        ((), {}, "TAILRACE_GATEWAY_KEYS_FILE"),
        (("--port", "70000"), {}, "not a port"),
        (("--open", "--host", "0.0.0.0"), {}, "loopback"),  # noqa: S104 - it is rejected
        (("--open",), {"TAILRACE_REDIS_URL": "redis://127.0.0.1:1/0"}, "cannot be reached"),
        (("--open",), {"TAILRACE_TOKEN_SECRETS": "short"}, "TAILRACE_TOKEN_SECRETS"),
        (("--open",), {"TAILRACE_GATEWAY_ORIGINS": "*"}, "TAILRACE_GATEWAY_ORIGINS"),
        (("--open", "--port", "{taken}"), {}, "cannot listen"),
    ],
)
async def test_an_error_at_the_start_prints_one_line(
    redis_url: str, arguments: tuple[str, ...], environment: dict[str, str], expected: str
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        child = await asyncio.create_subprocess_exec(
            TAILRACE,
            "gateway",
            *(argument.format(taken=taken.getsockname()[1]) for argument in arguments),
            env={"PATH": os.environ["PATH"], "TAILRACE_REDIS_URL": redis_url, **environment},
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
        )
        async with asyncio.timeout(WAIT_S):
            out, errors = await child.communicate()
    assert child.returncode in (1, 2)
    assert out == b""
    assert expected in errors.decode()
    assert errors.count(b"\n") == 1


async def test_keys_are_made_listed_and_removed(tmp_path: Path) -> None:
    async def run(*arguments: str) -> tuple[int | None, str]:
        child = await asyncio.create_subprocess_exec(
            *(TAILRACE, "key", *arguments, "--file", str(tmp_path / "keys")),
            env={"PATH": os.environ["PATH"]},
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.DEVNULL,
        )
        out, _ = await child.communicate()
        return child.returncode, out.decode().strip()

    _, first = await run("new", "--tenant", "acme")
    _, second = await run("new", "--tenant", "initech", "--until", "2030-01-01")
    assert (tmp_path / "keys").stat().st_mode & 0o077 == 0
    assert first.rpartition("_")[2] not in (tmp_path / "keys").read_text()
    code, listed = await run("list")
    assert code == 0
    assert [line.split()[:2] for line in listed.splitlines()] == [
        [first.split("_")[1], "acme"],
        [second.split("_")[1], "initech"],
    ]
    assert await run("drop", first.split("_")[1]) == (0, "")
    assert "acme" not in (await run("list"))[1]
    assert (await run("drop", "unknown"))[0] == 1
    assert (await run("new"))[0] == 2
