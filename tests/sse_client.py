"""A light reader of event streams on a bare socket, so that one process can hold a thousand.

Owns connections to gateways that come and go, the frames, and what they add up to. It resumes as an `EventSource` does,
by `Last-Event-ID`, but from whichever gateway it pleases and sooner than the server's hint: more returns, more chances
to get one wrong.
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
"""A reader waits up to this before it comes back."""


class Refused(AssertionError):
    """A gateway answered something that an `EventSource` would take for final."""


@dataclass(frozen=True)
class Frame:
    """An event as a browser would hand it on; `id` is None where the frame had none."""

    name: str
    id: str | None
    text: str


@dataclass
class SseClient:
    """Follows one request to its end, over any number of connections.

    Attributes:
        ports: where gateways listen just now; the list may change at any time.
        path: of the event stream.
        key: API key or token.
        dice: decides where it connects and when it leaves.
        leaves_after: it drops a connection after at most so many frames.
        ids: of every entry it was given, in order.
        shown: what stands, void attempts dropped.
        end: name of the terminal.
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

    async def to_its_end(self) -> None:
        """Reads until the terminal, then comes back once more, as an `EventSource` would, to be told to stay away.

        Raises:
            Refused: a status other than 200, or than 204 after the terminal; or entries are said to be missing.
        """
        while await self._once():  # noqa: ASYNC110 - no event says when a gateway is back
            await asyncio.sleep(self.dice.random() * PATIENCE_S)
        if self.end is None:
            raise Refused(f"{self.path}: told to stay away before the terminal, behind {self.ids[-1:]}")

    async def _once(self) -> bool:
        """One connection; whether to come back."""
        stay = self.dice.randrange(1, self.leaves_after)
        try:
            reader, writer = await asyncio.open_connection("127.0.0.1", self.dice.choice(self.ports))
        except OSError:
            return True
        try:
            writer.write(self._asking())
            status = await _status(reader)
            if status != 200:
                if status == 204:
                    return False
                raise Refused(f"{self.path}: {status}")
            self.opened += 1
            async with aclosing(_frames(reader)) as frames:
                async for frame in frames:
                    self._take(frame)
                    stay -= 1
                    if not stay:
                        break
        except (OSError, asyncio.IncompleteReadError):  # the gateway has gone
            pass
        finally:
            writer.transport.abort()  # and not in good order: nobody waits for a phone that is out of reach
        return True

    def _asking(self) -> bytes:
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
                raise Refused(f"{self.path}: {frame.text} behind {self.ids[-1:]}")
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
    """Frames out of a chunked body (RFC 9112, 7.1), to its end or the connection's."""
    rest = b""
    while size := int(await reader.readuntil(b"\r\n"), 16):
        rest += (await reader.readexactly(size + 2))[:-2]
        *whole, rest = rest.split(b"\n\n")
        for lines in whole:
            if frame := _frame(lines.decode()):
                yield frame


def _frame(lines: str) -> Frame | None:
    """A frame as WHATWG HTML reads it, "Interpreting an event stream"; None for one without an event."""
    fields: dict[str, str] = {}
    for line in lines.split("\n"):
        name, _, value = line.partition(":")
        fields[name] = value.removeprefix(" ")
    return Frame(fields["event"], fields.get("id"), fields["data"]) if "data" in fields else None
