"""The one connection on which a client receives pushes: subscribed to the wanted channels, reopened when it is lost.

Knows channels and connections. Knows nothing of what a push contains or which readers it is for.
"""

import asyncio
from collections.abc import AsyncGenerator, Sequence
from contextlib import asynccontextmanager
from typing import Any, Protocol

from redis.asyncio.connection import AbstractConnection

from tailrace.broker.backoff import Backoff
from tailrace.broker.errors import FAILURES
from tailrace.broker.keys import push_channel, push_channel_pattern
from tailrace.broker.wire import packed
from tailrace.producers.link import Link
from tailrace.producers.tail.fanout.push_wire import PushWire
from tailrace.schemas.errors import StoreError, StoreRefused

_BACKOFF = Backoff(base_s=0.05, cap_s=2.0)
_PING_S = 5.0


class Listener(Protocol):
    """Receives the events of a push line."""

    def pushes_received(self, messages: Sequence[bytes]) -> None:
        """Called when messages have arrived, in this order."""
        ...

    def shard_subscribed(self, number: int) -> None:
        """Called when all further pushes of this shard will arrive, until the connection is lost."""
        ...

    def push_line_lost(self, refusal: StoreRefused | None) -> None:
        """Called when the connection is lost; with `refusal` if Redis does not allow the subscription."""
        ...


class PushLine:
    """Receives pushes for one client, in one event loop.

    Args:
        link: the link to the server, with its time limits and errors.
        listener: receives the events.
    """

    def __init__(self, link: Link, listener: Listener) -> None:
        self._link = link
        self._listener = listener
        self._wanted: dict[int, int] = {}
        self._subscribed: set[int] = set()
        self._unconfirmed: dict[int, int] = {}
        self._changed = asyncio.Event()
        self._is_alive = True
        self._is_connected = False

    def follow_shard(self, shard: int) -> None:
        """Counts one more followed request of this shard."""
        self._wanted[shard] = self._wanted.get(shard, 0) + 1
        self._changed.set()

    def unfollow_shard(self, shard: int) -> None:
        """Counts one followed request of this shard less."""
        self._wanted[shard] -= 1
        if not self._wanted[shard]:
            del self._wanted[shard]
            self._changed.set()

    def is_subscribed(self, shard: int) -> bool:
        """Whether all pushes of this shard arrive."""
        return shard in self._subscribed

    async def run(self) -> None:
        """Connects when the first request is followed, and again whenever the connection is lost."""
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
                pass  # readers learn of it when they read the log
            if self._is_connected or refusal is not None:
                if self._subscribed:
                    failures = 0
                self._subscribed.clear()
                self._unconfirmed.clear()
                self._is_connected = False
                self._listener.push_line_lost(refusal)
            failures += 1
            await asyncio.sleep(_BACKOFF.pause_s(failures))

    @asynccontextmanager
    async def _connected(self) -> AsyncGenerator[PushWire]:
        connection = self._link.connection()
        try:
            async with self._link.asking():
                wire = await PushWire.open(connection, self._receive)
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

    def _receive(self, replies: Sequence[Any]) -> None:
        """Processes the replies of one read."""
        self._is_alive = True
        messages: list[bytes] = []
        for reply in replies:
            match reply:
                case [b"message", _, message]:
                    messages.append(message)
                case [(b"subscribe" | b"unsubscribe") as kind, channel, _]:
                    if messages:  # they arrived before the subscription that is confirmed here
                        self._listener.pushes_received(messages)
                        messages = []
                    self._confirmed(kind, channel)
                case _:  # the reply to a PING, or an error, which the wire handles
                    pass
        if messages:
            self._listener.pushes_received(messages)

    def _confirmed(self, kind: bytes, channel: bytes) -> None:
        shard = int(channel.rpartition(b":")[2])
        self._unconfirmed[shard] -= 1
        if kind == b"subscribe" and not self._unconfirmed[shard]:
            self._subscribed.add(shard)
            self._listener.shard_subscribed(shard)

    async def _steer(self, connection: AbstractConnection, wire: PushWire) -> None:
        """Subscribes to the wanted shards, and to no others, while the connection is open.

        Closes a connection on which nothing arrives any more, not even the reply to a PING.
        """
        subscribed: set[int] = set()
        self._is_alive = True
        while True:
            self._changed.clear()
            wanted = set(self._wanted)
            self._send(wire, b"SUBSCRIBE", wanted - subscribed)
            self._send(wire, b"UNSUBSCRIBE", subscribed - wanted)
            subscribed = wanted
            try:
                async with asyncio.timeout(_PING_S):
                    await self._changed.wait()
            except TimeoutError:
                if not self._is_alive:
                    break
                self._is_alive = False
                wire.send(packed(b"PING"))
        await connection.disconnect(nowait=True)

    def _send(self, wire: PushWire, command: bytes, shards: set[int]) -> None:
        if shards:
            for shard in shards:
                self._unconfirmed[shard] = self._unconfirmed.get(shard, 0) + 1
            self._subscribed -= shards
            wire.send(packed(command, *(push_channel(shard).encode() for shard in shards)))
