"""A model's server that is faster than any worker: it sends answers that were rendered beforehand.

`python -m bench.feeder` prints its port. The member `feed` of a request's body (`Plan`) says how to answer it; the rest
of the body is ignored. Commands on standard input are `hold` (answers stop after their headers), `go` (held and later
answers begin, evenly spread) and `tell` (prints one JSON line, `FeederState`).

The text of each chunk of a paced answer is the time at which it was sent (ns, by the machine's monotonic clock), so a
reader can compute how long it took. A chunk costs a few microseconds: one timer serves all answers.
"""

import asyncio
import os
import re
import sys
from collections import deque
from functools import cache
from time import monotonic_ns
from typing import cast

import msgspec
import uvloop

from bench.answers import chunk, prose

CLOCK_DIGITS = 16
"""The number of digits of a time in a chunk's text, including leading zeros."""

TICK_S = 0.001
BLOCK_CHUNKS = 128
_BUFFER_BYTES = 256 * 1024
_HEAD = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n"
_LENGTH = re.compile(rb"\r\ncontent-length: *(\d+)", re.IGNORECASE)


class Plan(msgspec.Struct, frozen=True):
    """How an answer is sent.

    Attributes:
        chunks: how many chunks of text; 0 for an endless answer.
        per_s: chunks a second; 0 for as fast as the client reads.
    """

    chunks: int = 0
    per_s: float = 0.0


class Asked(msgspec.Struct):
    """The part of a request's body that is read."""

    feed: Plan = Plan()


class FeederState(msgspec.Struct, frozen=True):
    """The state of the feeder.

    Attributes:
        running: answers that have not ended, including held ones.
        sent: chunks of text in total.
        late_ms: the longest delay of a paced chunk since the last `tell`.
    """

    running: int
    sent: int
    late_ms: float


def frame(data: bytes) -> bytes:
    """An event as one HTTP chunk, as OpenAI's server sends it (RFC 9112 7.1)."""
    event = b"data: " + data + b"\n\n"
    return b"%x\r\n%b\r\n" % (len(event), event)


_OPENING = frame(chunk({"role": "assistant", "content": ""}))
_ENDING = frame(chunk({}, "stop")) + frame(b"[DONE]") + b"0\r\n\r\n"
_BEFORE_TIME, _AFTER_TIME = frame(chunk({"content": "#" * CLOCK_DIGITS})).split(b"#" * CLOCK_DIGITS)
_TEXTS = [frame(chunk({"content": text})) for text in re.findall("....", prose(4 * BLOCK_CHUNKS, 20), re.DOTALL)]
_BLOCK = b"".join(_TEXTS)


@cache
def rendered(chunks: int) -> bytes:
    """All chunks of an answer that is sent at once."""
    return _BLOCK * (chunks // BLOCK_CHUNKS) + b"".join(_TEXTS[: chunks % BLOCK_CHUNKS])


class Feeder:
    """The state that all connections share: the schedule of chunks, and whether answers are held."""

    def __init__(self) -> None:
        self.running: set[Connection] = set()
        self.sent = 0
        self._held: list[Connection] | None = None
        self._late_ns = 0
        self._due: dict[float, deque[tuple[int, Connection, int]]] = {}

    def hold(self) -> None:
        """Holds back answers from now on."""
        self._held = self._held or []

    def go(self) -> None:
        """Lets the held answers begin, spread over the first pause between two chunks."""
        held, self._held = self._held or [], None
        now = monotonic_ns()
        for number, connection in enumerate(held):
            connection.begin(number / len(held), now)

    def asked(self, connection: "Connection") -> None:
        """A request has arrived."""
        self.running.add(connection)
        if self._held is None:
            connection.begin(1.0, monotonic_ns())
        else:
            self._held.append(connection)

    def pace(self, connection: "Connection", per_s: float, place: float, now: int) -> None:
        """Lets a connection send `per_s` chunks a second, the first one after the fraction `place` of a pause."""
        due = now + int(place * 1e9 / per_s)
        self._due.setdefault(per_s, deque()).append((due, connection, connection.answer))

    def tell(self) -> FeederState:
        """The current state."""
        late_ns, self._late_ns = self._late_ns, 0
        return FeederState(len(self.running), self.sent, late_ns / 1e6)

    async def run(self) -> None:
        """Sends the chunks that are due. Connections of one rate take turns, so the first of a row is always next."""
        while True:
            for per_s, row in self._due.items():
                pause = int(1e9 / per_s)
                for _ in range(len(row)):  # at most once around, so that requests are read even when chunks are late
                    if row[0][0] > (now := monotonic_ns()):
                        break
                    due, connection, answer = row.popleft()
                    self._late_ns = max(self._late_ns, now - due)
                    if connection.answer == answer and connection.send_one(now):
                        row.append((due + pause, connection, answer))
            await asyncio.sleep(TICK_S)


class Connection(asyncio.Protocol):
    """One connection, one answer after the other.

    Attributes:
        answer: counts the answers begun or given up, to distinguish the current one from earlier ones.
    """

    def __init__(self, feeder: Feeder) -> None:
        self._feeder = feeder
        self._plan = Plan()
        self._left = 0
        self._said = b""
        self._endless = False
        self.answer = 0

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Waits for a request."""
        self._transport = cast(asyncio.Transport, transport)  # uvloop's transport has no such base class
        self._transport.set_write_buffer_limits(_BUFFER_BYTES)

    def data_received(self, data: bytes) -> None:
        """Reads requests. A client sends none before the previous answer has ended."""
        self._said += data
        head, found, body = self._said.partition(b"\r\n\r\n")
        length = _LENGTH.search(head)
        size = int(length[1]) if length else 0
        if not found or len(body) < size:
            return
        self._said = body[size:]
        self._plan = msgspec.json.decode(body[:size], type=Asked).feed
        self._left = self._plan.chunks or sys.maxsize
        self._transport.write(_HEAD)
        self._feeder.asked(self)

    def begin(self, place: float, now: int) -> None:
        """Sends the answer."""
        if self._transport.is_closing():
            return
        self.answer += 1
        self._transport.write(_OPENING)
        if self._plan.per_s:
            self._feeder.pace(self, self._plan.per_s, place, now)
        elif self._plan.chunks:
            self._feeder.sent += self._plan.chunks
            self._transport.write(rendered(self._plan.chunks))
            self._end()
        else:
            self._endless = True
            self.resume_writing()

    def send_one(self, now: int) -> bool:
        """Sends a chunk with the time `now`; returns whether another one follows."""
        self._transport.write(b"%b%0*d%b" % (_BEFORE_TIME, CLOCK_DIGITS, now, _AFTER_TIME))
        self._feeder.sent += 1
        self._left -= 1
        if not self._left:
            self._end()
        return self._left > 0

    def resume_writing(self) -> None:
        """Fills the buffer of an endless answer."""
        while self._endless and self._transport.get_write_buffer_size() < _BUFFER_BYTES:
            self._transport.write(_BLOCK)
            self._feeder.sent += BLOCK_CHUNKS

    def connection_lost(self, exc: Exception | None) -> None:
        """Ends the answer of a client that has gone."""
        self._endless = False
        self.answer += 1
        self._feeder.running.discard(self)

    def _end(self) -> None:
        self._transport.write(_ENDING)
        self._feeder.running.discard(self)


class CommandReader:
    """Reads commands from standard input."""

    def __init__(self, feeder: Feeder) -> None:
        self._feeder = feeder
        self._begun = b""

    def read_commands(self) -> None:
        """Runs each complete command; ends the process at the end of the input."""
        data = os.read(0, 4096)
        if not data:
            os._exit(0)
        *lines, self._begun = (self._begun + data).split(b"\n")
        for line in lines:
            match line:
                case b"hold":
                    self._feeder.hold()
                case b"go":
                    self._feeder.go()
                case _:
                    os.write(1, msgspec.json.encode(self._feeder.tell()) + b"\n")


async def main() -> None:
    """Serves until stdin ends."""
    loop, feeder = asyncio.get_running_loop(), Feeder()
    server = await loop.create_server(lambda: Connection(feeder), "127.0.0.1", 0, backlog=4096)
    loop.add_reader(0, CommandReader(feeder).read_commands)
    print(server.sockets[0].getsockname()[1], flush=True)
    await feeder.run()


if __name__ == "__main__":
    uvloop.run(main())
