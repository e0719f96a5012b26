"""The gateway's parts without a socket: combined cursors, submit limits, origins, the frame buffer."""

import asyncio
import itertools
import json
import re
from collections.abc import AsyncGenerator

import pytest
from starlette.types import Message

from tailrace.producers.gateway.access.origins import parse_origins
from tailrace.producers.gateway.access.submit_limit import SubmitLimit
from tailrace.producers.gateway.streams.combined_cursor import CombinedCursor
from tailrace.producers.gateway.streams.event_stream import WRITE, EventStream, StreamEnd, StreamLimits
from tailrace.producers.gateway.streams.follow import FrameContent, FrameContents, frames_of_several
from tailrace.producers.gateway.streams.frame_buffer import FrameBuffer
from tailrace.schemas.errors import CursorInvalid, SettingsError
from tests.until import until


def test_a_combined_cursor_is_read_back_for_each_request() -> None:
    combined = CombinedCursor(["a", "b", "c"])
    combined.advance("a", "1-7", ended=False)
    event_id = combined.advance("b", "2-3", ended=True)
    back = CombinedCursor(["c", "b", "a", "d"], event_id)
    assert [back.cursor(one) for one in "abcd"] == ["1-7", "2-3", None, None]
    assert [back.has_ended(one) for one in "abcd"] == [False, True, False, False]
    # positions of requests that are no longer followed are dropped
    assert CombinedCursor(["a"], event_id).advance("a", "1-8", ended=False).count(",") == 0


@pytest.mark.parametrize("event_id", ["1-7", "abc", "tag:one", "tag:1-7,", ":"])
def test_a_malformed_combined_cursor_is_rejected(event_id: str) -> None:
    with pytest.raises(CursorInvalid):
        CombinedCursor(["a"], event_id)


def test_submits_are_limited_per_tenant_and_refill_with_time() -> None:
    limit = SubmitLimit(60)
    assert [limit.take_submit("acme", 0.0) for _ in range(60)] == [0.0] * 60
    assert limit.take_submit("acme", 0.0) == pytest.approx(1.0)
    assert limit.take_submit("initech", 0.0) == 0.0
    assert limit.take_submit("acme", 0.5) == pytest.approx(0.5)
    assert limit.take_submit("acme", 1.01) == 0.0
    assert limit.take_submit("acme", 1.01) > 0


def test_a_limit_of_zero_is_no_limit() -> None:
    assert [SubmitLimit(0).take_submit("acme", 0.0) for _ in range(1000)] == [0.0] * 1000


def test_origins_are_scheme_and_host() -> None:
    assert parse_origins("") == []
    assert parse_origins("https://a.example, http://localhost:3000") == ["https://a.example", "http://localhost:3000"]
    for wrong in ("*", "a.example", "https://a.example/", "https://*.example"):
        with pytest.raises(SettingsError, match="TAILRACE_GATEWAY_ORIGINS"):
            parse_origins(wrong)


async def test_a_full_buffer_makes_followers_wait_and_loses_nothing() -> None:
    buffer = FrameBuffer(limit_bytes=10)
    sent = [bytes([65 + number]) * 4 for number in range(20)]

    async def follow() -> None:
        for frame in sent:
            await buffer.put_frame(frame)
        buffer.close(b"end")

    following = asyncio.create_task(follow())
    taken: list[bytes] = []
    while (piece := await buffer.take_frames()) is not None:
        assert len(piece) <= 10 + 4 + len(b"end")
        taken.append(piece)
    await following
    assert b"".join(taken) == b"".join(sent) + b"end"
    assert len(taken) > 1


async def test_a_closed_buffer_takes_no_more_frames() -> None:
    buffer = FrameBuffer(limit_bytes=10)
    buffer.close(b"end")
    buffer.add_frame(b"more")
    assert [await buffer.take_frames(), await buffer.take_frames()] == [b"end", None]


class Connection:
    """Takes pieces at once unless it is full, when `send` waits. This is how our server behaves."""

    def __init__(self) -> None:
        self.written: list[bytes] = []
        self.at_once = 0
        self.has_room = asyncio.Event()
        self.has_room.set()

    def write(self, piece: bytes) -> bool:
        if not self.has_room.is_set():
            return False
        self.written.append(piece)
        self.at_once += 1
        return True

    async def send(self, message: Message) -> None:
        await self.has_room.wait()
        self.written.append(message.get("body", b""))


async def nobody_leaves() -> Message:
    await asyncio.Event().wait()
    return {}


async def test_frames_of_one_wake_up_are_written_at_once_in_one_piece() -> None:
    connection, more = Connection(), asyncio.Event()

    async def frames() -> AsyncGenerator[bytes, None]:
        await more.wait()
        for frame in (b"a", b"b", b"c"):
            yield frame
        await asyncio.Event().wait()

    ended: list[StreamEnd] = []
    stream = EventStream([frames()], StreamLimits(1000.0, 1000.0, 300), lambda end, _why: ended.append(end))
    scope = {"type": "http", "extensions": {WRITE: {"write": connection.write}}}
    running = asyncio.create_task(stream(scope, nobody_leaves, connection.send))
    await until(lambda: len(connection.written) == 2)  # the headers and the retry hint
    more.set()
    await until(lambda: len(connection.written) == 3)
    assert connection.written[2] == b"abc"
    assert connection.at_once >= 1
    stream.stop()
    await running
    assert connection.written[-1] == b""
    assert ended == ["stopped"]


async def test_frames_written_at_once_and_frames_that_wait_stay_in_order() -> None:
    connection = Connection()
    sent = [b"%d;" % number for number in range(2_000)]

    async def frames() -> AsyncGenerator[bytes, None]:
        for number, frame in enumerate(sent):
            yield frame
            for _ in range(number * 7 % 4):
                await asyncio.sleep(0)

    async def fill_up_again_and_again() -> None:
        for number in itertools.count():
            (connection.has_room.clear if number % 2 else connection.has_room.set)()
            for _ in range(number % 5):
                await asyncio.sleep(0)

    filling = asyncio.create_task(fill_up_again_and_again())
    stream = EventStream([frames()], StreamLimits(1000.0, 1000.0, 40), lambda _end, _why: None)
    scope = {"type": "http", "extensions": {WRITE: {"write": connection.write}}}
    await stream(scope, nobody_leaves, connection.send)
    filling.cancel()
    assert b"".join(connection.written).partition(b"\n\n")[2] == b"".join(sent)
    assert 0 < connection.at_once < len(connection.written)


async def test_a_reader_that_takes_nothing_is_slow_even_with_immediate_writes() -> None:
    connection, ended = Connection(), list[StreamEnd]()

    async def frames() -> AsyncGenerator[bytes, None]:
        while True:
            yield b"frame"
            await asyncio.sleep(0)

    stream = EventStream([frames()], StreamLimits(1000.0, 0.05, 40), lambda end, _why: ended.append(end))
    scope = {"type": "http", "extensions": {WRITE: {"write": connection.write}}}
    running = asyncio.create_task(stream(scope, nobody_leaves, connection.send))
    await until(lambda: connection.at_once > 3)
    connection.has_room.clear()
    await until(lambda: ended == ["slow"])
    await running
    written = len(connection.written)
    connection.has_room.set()
    await asyncio.sleep(0)
    assert len(connection.written) == written  # nothing is written after the end


async def test_a_combined_cursor_skips_nothing_however_slow_the_reader() -> None:
    ids = ["a", "b", "c", "d"]
    combined = CombinedCursor(ids)

    async def pieces(number: int) -> FrameContents:
        for seq in range(1, 60):
            for _ in range(seq * (number + 3) % 11):  # some arrive while others wait for room
                await asyncio.sleep(0)
            raw = b'{"message_type":"assistant_message","content":"%b"}' % (b"x" * (seq * 37 % 200))
            yield FrameContent(f"1-{seq}", b"assistant_message", raw)

    written: list[bytes] = []

    async def send(message: Message) -> None:
        written.append(message.get("body", b""))
        for _ in range(7):  # lets the followers run
            await asyncio.sleep(0)

    async def receive() -> Message:
        await asyncio.Event().wait()
        return {}

    followers = [frames_of_several(one, pieces(number), combined) for number, one in enumerate(ids)]
    stream = EventStream(followers, StreamLimits(1000.0, 1000.0, 300), lambda _end, _why: None)
    await stream({"type": "http"}, receive, send)
    sent = re.findall(rb"id: (.*)\nevent: .*\ndata: (.*)\n", b"".join(written))
    assert len(sent) == len(ids) * 59
    seen: dict[str, str | None] = dict.fromkeys(ids)
    for event_id, data in sent:
        entry = json.loads(data)
        seen[entry["request_id"]] = entry["entry_id"]
        # if the connection were lost here, the reader would resume exactly after what it has
        known = CombinedCursor(ids, event_id.decode())
        assert {one: known.cursor(one) for one in ids} == seen
