"""The floor: the least that Python has to do between the model's server and a log, without any guarantee.

`python -m bench.floor REDIS_PORT FEEDER_PORT` prints "ready". Each line on standard input is a JSON object (`Work`): it
requests so many answers and writes each delta to a log of its answer. It uses raw sockets, decodes as few fields as
possible, packs commands by hand, and has one commit in flight. It relies on the feeder sending one event per chunk.
"""

import asyncio
import os
import sys
from collections.abc import Callable
from functools import partial
from time import monotonic
from typing import cast

import msgspec
import uvloop

from bench.feeder import Plan
from tailrace.broker.keys import log_key

MAX_COMMIT = 512
MAX_WAITING = 8 * MAX_COMMIT
"""Commands that may wait for a commit before reading pauses."""

HOST = "127.0.0.1"


class Work(msgspec.Struct):
    """Answers to request: `count` of them, named `<prefix><number>`, with numbers from `first` on."""

    prefix: str
    first: int
    count: int
    feed: Plan


class _Delta(msgspec.Struct):
    content: str | None = None


class _Choice(msgspec.Struct):
    delta: _Delta


class _Chunk(msgspec.Struct):
    choices: list[_Choice]


class _Entry(msgspec.Struct, tag_field="message_type", tag="assistant_message"):
    """An entry with the same bytes as one of Tailrace."""

    i: int
    ms: int
    content: str


_decode = msgspec.json.Decoder(_Chunk).decode
_encode = msgspec.json.Encoder().encode


class Commits(asyncio.Protocol):
    """The connection to Redis. Commands that arrive while a commit is in flight go with the next one."""

    def __init__(self) -> None:
        self._waiting: list[bytes] = []
        self._unanswered = 0
        self._scheduled = False
        self._paused: set[asyncio.Transport] = set()
        self._loop = asyncio.get_running_loop()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Keeps the transport."""
        self._transport = cast(asyncio.Transport, transport)  # uvloop's transport has no such base class

    def add(self, commands: list[bytes], source: asyncio.Transport) -> None:
        """Takes commands; reading their source pauses while too many wait."""
        self._waiting += commands
        if len(self._waiting) > MAX_WAITING:
            source.pause_reading()
            self._paused.add(source)
        if not self._unanswered and not self._scheduled:
            self._scheduled = True
            self._loop.call_soon(self._commit)  # so that data of other sockets joins the same commit

    def data_received(self, data: bytes) -> None:
        """Counts the replies: each XADD is answered by an id in a bulk string, and no id has a `$`."""
        if b"-ERR" in data or b"-OOM" in data:
            sys.stderr.write(f"Redis refuses: {data[:200]!r}\n")
            os._exit(1)
        self._unanswered -= data.count(b"$")
        if not self._unanswered and self._waiting:
            self._commit()

    def connection_lost(self, exc: Exception | None) -> None:
        """Ends the process: without Redis there is nothing to measure."""
        os._exit(1)

    def _commit(self) -> None:
        self._scheduled = False
        commands, self._waiting = self._waiting[:MAX_COMMIT], self._waiting[MAX_COMMIT:]
        self._unanswered = len(commands)
        self._transport.write(b"".join(commands))
        if self._paused and len(self._waiting) <= MAX_WAITING:
            for source in self._paused:
                source.resume_reading()
            self._paused.clear()


class Answer(asyncio.Protocol):
    """Requests one answer and reads its texts.

    Args:
        request: the bytes to send.
        took: receives the texts that arrived, and the transport they came from.
    """

    def __init__(self, request: bytes, took: Callable[[list[str], asyncio.Transport], None]) -> None:
        self._request = request
        self._took = took
        self._rest = b""
        self.ended = asyncio.get_running_loop().create_future()
        """Done at the end of the answer."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Sends the request."""
        self._transport = cast(asyncio.Transport, transport)  # uvloop's transport has no such base class
        self._transport.write(self._request)

    def data_received(self, data: bytes) -> None:
        """Reads every complete event."""
        *events, self._rest = (self._rest + data).split(b"\n\n")
        texts: list[str] = []
        for event in events:
            data = event[event.index(b"data: ") + 6 :]
            if data == b"[DONE]":
                self._transport.close()
                self.ended.set_result(None)
            elif text := _decode(data).choices[0].delta.content:
                texts.append(text)
        if texts:
            self._took(texts, self._transport)


class Log:
    """Makes packed commands from the texts of an answer."""

    def __init__(self, request_id: str, commits: Commits) -> None:
        log = log_key(request_id).encode()
        self._prefix = b"*5\r\n$4\r\nXADD\r\n$%d\r\n%b\r\n$" % (len(log), log)
        self._commits = commits
        self._seq = 0
        self._began = monotonic()

    def add(self, texts: list[str], source: asyncio.Transport) -> None:
        """Adds an entry for each text."""
        ms, prefix, seq = int((monotonic() - self._began) * 1000), self._prefix, self._seq
        commands: list[bytes] = []
        for seq, text in enumerate(texts, self._seq + 1):
            entry, entry_id = _encode(_Entry(0, ms, text)), b"1-%d" % seq
            commands.append(
                b"%b%d\r\n%b\r\n$1\r\ne\r\n$%d\r\n%b\r\n" % (prefix, len(entry_id), entry_id, len(entry), entry)
            )
        self._seq = seq
        self._commits.add(commands, source)


def request(feed: Plan) -> bytes:
    """A minimal request to the feeder."""
    body = msgspec.json.encode({"model": "m", "messages": [], "stream": True, "feed": feed})
    return b"POST /v1/chat/completions HTTP/1.1\r\nhost: f\r\ncontent-length: %d\r\n\r\n%b" % (len(body), body)


async def _ask(work: Work, port: int, commits: Commits) -> None:
    loop, asked = asyncio.get_running_loop(), request(work.feed)
    for number in range(work.first, work.first + work.count):
        log = Log(f"{work.prefix}{number}", commits)
        await loop.create_connection(partial(Answer, asked, log.add), HOST, port)


async def main(redis_port: int, feeder_port: int) -> None:
    """Does the work that arrives on standard input, until it ends."""
    loop = asyncio.get_running_loop()
    _, commits = await loop.create_connection(Commits, HOST, redis_port)
    print("ready", flush=True)
    while line := await asyncio.to_thread(sys.stdin.readline):
        await _ask(msgspec.json.decode(line, type=Work), feeder_port, commits)
    os._exit(0)


if __name__ == "__main__":
    uvloop.run(main(int(sys.argv[1]), int(sys.argv[2])))
