"""A small reader of event streams on a plain socket, so that one process can run a thousand of them.

Owns the connections, the frames and the text they add up to. It resumes with `Last-Event-ID` as an `EventSource` does,
but at a random gateway and sooner than the server's hint, so that it resumes more often.
"""

import asyncio
import random
from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing
from dataclasses import dataclass, field

from tailrace.schemas.codec import decode_entry
from tests.fault.campaign.reading import Shown

TERMINALS = ("completed", "incomplete", "failed", "cancelled")
PATIENCE_S = 0.3
"""A reader waits up to this long before it reconnects."""


class Refused(AssertionError):
    """A gateway sent a response after which an `EventSource` would give up."""


@dataclass(frozen=True)
class Frame:
    """An event as a browser would deliver it; `id` is None if the frame had none."""

    name: str
    id: str | None
    text: str


@dataclass
class SseClient:
    """Follows one request to its end, over any number of connections.

    Attributes:
        ports: the ports of the gateways; the list may change at any time.
        path: of the event stream.
        key: API key or token.
        dice: decides where to connect and when to disconnect.
        leaves_after: the most frames before it drops a connection.
        ids: the ids of all entries received, in order.
        shown: the text of the current attempt.
        end: the name of the terminal.
        opened: connections on which an event stream began.
    """

    ports: Sequence[int]
    path: str
    key: str
    dice: random.Random
    leaves_after: int
    ids: list[str] = field(default_factory=list[str])
    shown: Shown = field(default_factory=Shown)
    end: str | None = None
    opened: int = 0

    async def read_to_end(self) -> None:
        """Reads until the terminal, then reconnects once more, as an `EventSource` would, and expects 204.

        Raises:
            Refused: a status other than 200, or than 204 after the terminal, or a gap.
        """
        while await self._once():  # noqa: ASYNC110 - no event says when a gateway is back
            await asyncio.sleep(self.dice.random() * PATIENCE_S)
        if self.end is None:
            raise Refused(f"{self.path}: 204 before the terminal, after {self.ids[-1:]}")

    async def _once(self) -> bool:
        """Reads one connection; returns whether to reconnect."""
        frames_left = self.dice.randrange(1, self.leaves_after)
        try:
            reader, writer = await asyncio.open_connection("127.0.0.1", self.dice.choice(self.ports))
        except OSError:
            return True
        try:
            writer.write(self._head())
            status = await _status(reader)
            if status != 200:
                if status == 204:
                    return False
                raise Refused(f"{self.path}: {status}")
            self.opened += 1
            async with aclosing(_frames(reader)) as frames:
                async for frame in frames:
                    self._take(frame)
                    frames_left -= 1
                    if not frames_left:
                        break
        except (OSError, asyncio.IncompleteReadError):  # the gateway has gone
            pass
        finally:
            writer.transport.abort()  # without an orderly close, as when a phone loses its network
        return True

    def _head(self) -> bytes:
        head = [
            f"GET {self.path} HTTP/1.1",
            "host: x",
            "accept: text/event-stream",
            f"authorization: Bearer {self.key}",
        ]
        if self.ids:
            head.append(f"last-event-id: {self.ids[-1]}")
        return "\r\n".join([*head, "", ""]).encode()

    def _take(self, frame: Frame) -> None:
        if frame.id is None:
            if frame.name == "gap":
                raise Refused(f"{self.path}: {frame.text} after {self.ids[-1:]}")
            return
        self.ids.append(frame.id)
        if frame.name == "attempt_started":
            self.shown = Shown()
        self.shown.add_entry(decode_entry(frame.text.encode()))
        if frame.name in TERMINALS:
            self.end = frame.name


async def _status(reader: asyncio.StreamReader) -> int:
    head = await reader.readuntil(b"\r\n\r\n")
    return int(head.split(b" ", 2)[1])


async def _frames(reader: asyncio.StreamReader) -> AsyncGenerator[Frame, None]:
    """Parses the frames of a chunked body (RFC 9112, 7.1), to its end or the connection's end."""
    rest = b""
    while size := int(await reader.readuntil(b"\r\n"), 16):
        rest += (await reader.readexactly(size + 2))[:-2]
        *whole, rest = rest.split(b"\n\n")
        for lines in whole:
            if frame := _frame(lines.decode()):
                yield frame


def _frame(lines: str) -> Frame | None:
    """Parses a frame (WHATWG HTML, "Interpreting an event stream"); None for one without data."""
    fields: dict[str, str] = {}
    for line in lines.split("\n"):
        name, _, value = line.partition(":")
        fields[name] = value.removeprefix(" ")
    return Frame(fields["event"], fields.get("id"), fields["data"]) if "data" in fields else None
