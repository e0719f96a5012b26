"""The one connection on which a client hears what is pushed: subscribed to what is wanted, made anew when it is lost.

Knows channels and connections. What a push says, and to whom, it leaves to whoever it tells.
"""

import asyncio
from collections.abc import AsyncGenerator, Sequence
from contextlib import asynccontextmanager
from typing import Any, Protocol

from redis.asyncio.connection import AbstractConnection

from tailrace.broker.backoff import Backoff
from tailrace.broker.errors import FAILURES
from tailrace.broker.keys import push_channel, push_channel_pattern
from tailrace.producers.link import Link
from tailrace.producers.tail.fanout.log_lines import packed
from tailrace.producers.tail.fanout.push_wire import PushWire
from tailrace.schemas.errors import StoreError, StoreRefused

_BACKOFF = Backoff(base_s=0.05, cap_s=2.0)
_PING_S = 5.0


class Listener(Protocol):
    """Who is told."""

    def pushed(self, messages: Sequence[bytes]) -> None:
        """Messages came, in this order."""
        ...

    def heard(self, number: int) -> None:
        """From now on, all that is pushed for this shard (its number) comes, until the connection is lost."""
        ...

    def lost(self, refusal: StoreRefused | None) -> None:
        """The connection is lost; `refusal` when Redis does not let us listen."""
        ...


class PushLine:
    """Listens for one client, in one event loop.

    Args:
        link: to whom, with its time limits and errors.
        listener: who is told.
    """

    def __init__(self, link: Link, listener: Listener) -> None:
        self._link = link
        self._listener = listener
        self._wanted: dict[int, int] = {}
        self._heard: set[int] = set()
        self._unanswered: dict[int, int] = {}
        self._changed = asyncio.Event()
        self._is_alive = True
        self._is_connected = False

    def add(self, shard: int) -> None:
        """One request more is followed in this shard."""
        self._wanted[shard] = self._wanted.get(shard, 0) + 1
        self._changed.set()

    def remove(self, shard: int) -> None:
        """One request less."""
        self._wanted[shard] -= 1
        if not self._wanted[shard]:
            del self._wanted[shard]
            self._changed.set()

    def hears(self, shard: int) -> bool:
        """Whether all that is pushed for this shard comes."""
        return shard in self._heard

    async def run(self) -> None:
        """Listens from the first request on; connects again whenever the connection is lost."""
        failures = 0
        while True:
            while not self._wanted:
                self._changed.clear()
                await self._changed.wait()
            refusal = None
            try:
                async with self._connected() as wire:
                    raise await wire.lost
            except StoreRefused as error:
                refusal = error.with_context(after=f"; tails need the channels {push_channel_pattern()}")
            except StoreError:
                pass  # readers find out by themselves, as soon as they ask the log
            if self._is_connected or refusal is not None:
                if self._heard:
                    failures = 0
                self._heard.clear()
                self._unanswered.clear()
                self._is_connected = False
                self._listener.lost(refusal)
            # Full jitter: the web tier's processes must not all come back in the same instant.
            failures += 1
            await asyncio.sleep(_BACKOFF.pause_s(failures))

    @asynccontextmanager
    async def _connected(self) -> AsyncGenerator[PushWire]:
        connection = self._link.connection()
        try:
            async with self._link.asking():
                wire = await PushWire.open(connection, self._take)
            self._is_connected = True
            steering = asyncio.create_task(self._steer(connection, wire), name="push line: steer")
            try:
                yield wire
            finally:
                steering.cancel()
                await asyncio.wait([steering])
        except FAILURES as error:
            raise self._link.translated(error) from error
        finally:
            await connection.disconnect(nowait=True)

    def _take(self, said: Sequence[Any]) -> None:
        """All that one read has brought."""
        self._is_alive = True
        messages: list[bytes] = []
        for one in said:
            match one:
                case [b"message", _, message]:
                    messages.append(message)
                case [(b"subscribe" | b"unsubscribe") as kind, channel, _]:
                    if messages:  # those of before are nothing to who waits for this
                        self._listener.pushed(messages)
                        messages = []
                    self._answered(kind, channel)
                case _:  # the answer to a PING, or a refusal, of which the wire knows
                    pass
        if messages:
            self._listener.pushed(messages)

    def _answered(self, kind: bytes, channel: bytes) -> None:
        shard = int(channel.rpartition(b":")[2])
        self._unanswered[shard] -= 1
        if kind == b"subscribe" and not self._unanswered[shard]:
            self._heard.add(shard)
            self._listener.heard(shard)

    async def _steer(self, connection: AbstractConnection, wire: PushWire) -> None:
        """Subscribes to what is wanted, and to nothing else, as long as the connection stands.

        It ends the connection on which nothing comes any more, not even the answer to a PING.
        """
        subscribed: set[int] = set()
        self._is_alive = True
        while True:
            self._changed.clear()
            wanted = set(self._wanted)
            self._say(wire, b"SUBSCRIBE", wanted - subscribed)
            self._say(wire, b"UNSUBSCRIBE", subscribed - wanted)
            subscribed = wanted
            try:
                async with asyncio.timeout(_PING_S):
                    await self._changed.wait()
            except TimeoutError:
                if not self._is_alive:
                    break
                self._is_alive = False
                wire.send(packed([b"PING"]))
        await connection.disconnect(nowait=True)

    def _say(self, wire: PushWire, verb: bytes, shards: set[int]) -> None:
        if shards:
            for shard in shards:
                self._unanswered[shard] = self._unanswered.get(shard, 0) + 1
            self._heard -= shards
            wire.send(packed([verb, *(push_channel(shard).encode() for shard in shards)]))
