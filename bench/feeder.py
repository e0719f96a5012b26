"""The model's server of benchmarks that need one which outruns any worker: answers rendered beforehand, nothing else.

`python -m bench.feeder` says the port it listens on. A request says in its body how it is to be answered, as `feed`
(`Plan`); whatever else it says is not read. On standard input it takes `hold` (answers begin with their headers and
wait), `go` (all that wait begin, evenly spread, as do later ones) and `tell` (one JSON line, `Told`).

Each chunk of a paced answer says in its text when it was sent, by the machine's monotonic clock in ns, so that whoever
reads it at the other end knows how long it took. It costs a few microseconds a chunk: one timer serves all answers.
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
"""A time as a chunk's text has always so many digits, leading zeros included."""

TICK_S = 0.001
BLOCK_CHUNKS = 128
_BUFFER_BYTES = 256 * 1024
_HEAD = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n"
_LENGTH = re.compile(rb"\r\ncontent-length: *(\d+)", re.IGNORECASE)


class Plan(msgspec.Struct, frozen=True):
    """How an answer comes.

    Attributes:
        chunks: of text; 0 for an answer without an end.
        per_s: chunks a second; 0 for as fast as they are read.
    """

    chunks: int = 0
    per_s: float = 0.0


class Asked(msgspec.Struct):
    """What is read of a request's body."""

    feed: Plan = Plan()


class Told(msgspec.Struct, frozen=True):
    """How it stands.

    Attributes:
        running: answers that have not ended, those held back included.
        sent: chunks of text in all.
        late_ms: the longest that a paced chunk came after its time, since it was last asked.
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
    """All texts of an answer that comes at once."""
    return _BLOCK * (chunks // BLOCK_CHUNKS) + b"".join(_TEXTS[: chunks % BLOCK_CHUNKS])


class Feeder:
    """What all connections share: the pace, and whether answers are held back."""

    def __init__(self) -> None:
        self.running: set[Connection] = set()
        self.sent = 0
        self._held: list[Connection] | None = None
        self._late_ns = 0
        self._due: dict[float, deque[tuple[int, Connection, int]]] = {}

    def hold(self) -> None:
        """Answers wait from now on."""
        self._held = self._held or []

    def go(self) -> None:
        """What waits begins, each at its place within the first pause between two chunks."""
        held, self._held = self._held or [], None
        now = monotonic_ns()
        for number, connection in enumerate(held):
            connection.begin(number / len(held), now)

    def asked(self, connection: "Connection") -> None:
        """A request has come."""
        self.running.add(connection)
        if self._held is None:
            connection.begin(1.0, monotonic_ns())
        else:
            self._held.append(connection)

    def pace(self, connection: "Connection", per_s: float, place: float, now: int) -> None:
        """Lets a connection send so many chunks a second, the first after `place` of a pause."""
        due = now + int(place * 1e9 / per_s)
        self._due.setdefault(per_s, deque()).append((due, connection, connection.answer))

    def tell(self) -> Told:
        """How it stands."""
        late_ns, self._late_ns = self._late_ns, 0
        return Told(len(self.running), self.sent, late_ns / 1e6)

    async def run(self) -> None:
        """Sends what is due. Those of one pace come in turn, so the first in its row is always the next."""
        while True:
            for per_s, row in self._due.items():
                pause = int(1e9 / per_s)
                for _ in range(len(row)):  # no more, so that what is read is not kept waiting when it is late
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
        answer: how many answers it has begun or given up; tells the one that runs from one before.
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
        self._transport = cast(asyncio.Transport, transport)  # uvloop's is one, by no base class
        self._transport.set_write_buffer_limits(_BUFFER_BYTES)

    def data_received(self, data: bytes) -> None:
        """Reads requests; nobody sends one before the answer to the last has ended."""
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
        """Lets the answer come."""
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
        """Sends a chunk that says it is `now`; whether another one is to follow."""
        self._transport.write(b"%b%0*d%b" % (_BEFORE_TIME, CLOCK_DIGITS, now, _AFTER_TIME))
        self._feeder.sent += 1
        self._left -= 1
        if not self._left:
            self._end()
        return self._left > 0

    def resume_writing(self) -> None:
        """Fills the buffer of an answer without end."""
        while self._endless and self._transport.get_write_buffer_size() < _BUFFER_BYTES:
            self._transport.write(_BLOCK)
            self._feeder.sent += BLOCK_CHUNKS

    def connection_lost(self, exc: Exception | None) -> None:
        """The client has gone."""
        self._endless = False
        self.answer += 1
        self._feeder.running.discard(self)

    def _end(self) -> None:
        self._transport.write(_ENDING)
        self._feeder.running.discard(self)


class Ear:
    """Reads what is said on standard input."""

    def __init__(self, feeder: Feeder) -> None:
        self._feeder = feeder
        self._begun = b""

    def hear(self) -> None:
        """Does what each whole line says; ends the process when nothing more can come."""
        said = os.read(0, 4096)
        if not said:
            os._exit(0)
        *lines, self._begun = (self._begun + said).split(b"\n")
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
    loop.add_reader(0, Ear(feeder).hear)
    print(server.sockets[0].getsockname()[1], flush=True)
    await feeder.run()


if __name__ == "__main__":
    uvloop.run(main())
