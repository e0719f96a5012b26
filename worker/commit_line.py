"""The line on which commits travel: entries into their logs, and then the pushes of what was written.

Owns one connection and the packed commands on it. Knows nothing of buffers, of leases and of what an entry says.
"""

import asyncio
from collections.abc import AsyncGenerator, Sequence
from contextlib import asynccontextmanager
from itertools import chain
from typing import Any, Protocol

from redis import exceptions as refusals
from redis.asyncio import ConnectionPool
from redis.asyncio.connection import AbstractConnection

from schemas.errors import AttemptLost, StoreUnavailable, TailraceError
from schemas.ids import EntryId
from schemas.push import encode_pushes
from schemas.redis_way import connection_options
from worker.redis_link import CONNECT_TIMEOUT_S, FAILURES, REPLY_TIMEOUT_S, store_error

_ID_TOO_SMALL = "equal or smaller"


class Batch(Protocol):
    """What a commit writes into one log, all or nothing."""

    request_id: str
    log: str
    channel: str
    entries: Sequence[bytes]
    commands: Sequence[bytes]
    last: EntryId


class Fence(Protocol):
    """What tells an attempt that has begun from every other."""

    rec: str
    attempt: int
    token: str


def xadd_prefix(log: str) -> bytes:
    """The part of an XADD command that is the same for every entry of a log (RESP2, Redis serialization protocol)."""
    key = log.encode()
    return b"*6\r\n$4\r\nXADD\r\n$%d\r\n%b\r\n$10\r\nNOMKSTREAM\r\n" % (len(key), key)


def xadd(prefix: bytes, entry_id: bytes, entry: bytes) -> bytes:
    """A packed XADD with an id of its own. Packed here because redis-py's packing costs more than the whole commit."""
    return b"%b$%d\r\n%b\r\n$1\r\ne\r\n$%d\r\n%b\r\n" % (prefix, len(entry_id), entry_id, len(entry), entry)


def publish(channel: str, message: bytes) -> bytes:
    """A packed PUBLISH."""
    return b"*3\r\n$7\r\nPUBLISH\r\n$%d\r\n%b\r\n$%d\r\n%b\r\n" % (
        len(channel),
        channel.encode(),
        len(message),
        message,
    )


_MULTI = b"*1\r\n$5\r\nMULTI\r\n"
_EXEC = b"*1\r\n$4\r\nEXEC\r\n"


class CommitLine:
    """One connection for commits alone; redis-py brings TLS, authentication and the reading of replies.

    What a commit has written is then pushed to those who follow live: with the commands of the next commit, or by
    `push` when none waits. Not before Redis has answered: what it refuses (a fenced writer's, or for want of memory)
    must not be seen. Whether anybody hears a push is not asked, so a push costs no wait.

    Args:
        url: of the Redis to write to.
    """

    def __init__(self, url: str) -> None:
        # No socket timeout of redis-py's: it would set a timer for each reply. One timer spans the whole commit.
        pool = ConnectionPool(**connection_options(url, connect_s=CONNECT_TIMEOUT_S, reply_s=None))
        self._connection: AbstractConnection = pool.make_connection()
        self._written: list[Batch] = []
        self._unread = 0

    async def commit(self, batches: Sequence[Batch]) -> list[TailraceError | None]:
        """Writes all batches in one round trip, each all or nothing.

        Returns:
            For each batch None when it stands in its log (also when an earlier sending of it did), or why not.

        Raises:
            StoreUnavailable: the connection was lost or Redis did not answer; the same batches may be sent again.
        """
        async with self._round_trip():
            frames = self._pushes()
            frames += [frame for batch in batches for frame in _frames(batch.commands)]
            await self._connection.send_packed_command(b"".join(frames), check_health=False)
            await self._read_counts()
            answers = [await self._answers(len(batch.commands)) for batch in batches]
            reasons = [await self._judge(batch, answer) for batch, answer in zip(batches, answers, strict=True)]
            self._written = [batch for batch, why in zip(batches, reasons, strict=True) if why is None]
            return reasons

    async def push(self) -> None:
        """Pushes what the last commit has written, unless another commit has taken that along.

        Raises:
            StoreUnavailable: the connection was lost; readers find in the log what was not pushed.
        """
        if self._written:
            async with self._round_trip():
                await self._connection.send_packed_command(b"".join(self._pushes()), check_health=False)

    async def standing(self, fences: Sequence[Fence]) -> list[bool]:
        """Which of these attempts the server still knows as begun: after a failover it may have forgotten.

        Raises:
            StoreUnavailable: it could not be asked.
        """
        async with self._round_trip():
            asked = [self._connection.pack_command("HMGET", fence.rec, "attempt", "token") for fence in fences]
            await self._connection.send_packed_command(b"".join(chain(*asked)), check_health=False)
            await self._read_counts()
            answers = [await self._connection.read_response() for _ in fences]
        return [
            answer == [b"%d" % fence.attempt, fence.token.encode()]
            for answer, fence in zip(answers, fences, strict=True)
        ]

    @asynccontextmanager
    async def _round_trip(self) -> AsyncGenerator[None]:
        """Bounds what is sent and received inside, and leaves no connection behind on which replies are left unread."""
        try:
            async with asyncio.timeout(REPLY_TIMEOUT_S):
                yield
        except FAILURES as error:  # connecting may be refused, too; that may pass as well
            await self.close()
            raise StoreUnavailable(str(store_error(error))) from error
        except BaseException:
            await self.close()
            raise

    async def close(self) -> None:
        """Closes the connection; the next commit opens it again."""
        self._written, self._unread = [], 0
        await self._connection.disconnect(nowait=True)

    def _pushes(self) -> list[bytes]:
        """A PUBLISH for each shard in which something was written; their answers are read with those of a commit."""
        shards: dict[str, list[tuple[str, int, int, Sequence[bytes]]]] = {}
        for batch in self._written:
            first = batch.last.seq + 1 - len(batch.entries)
            shards.setdefault(batch.channel, []).append((batch.request_id, batch.last.attempt, first, batch.entries))
        self._written = []
        self._unread += len(shards)
        return [publish(channel, encode_pushes(pushes)) for channel, pushes in shards.items()]

    async def _read_counts(self) -> None:
        """How many heard each push: nobody asks. A push that is refused is late for its readers, not lost."""
        while self._unread:
            await self._reply()
            self._unread -= 1

    async def _answers(self, count: int) -> list[Any]:
        """The replies to a batch of `count` commands, one each."""
        if count == 1:
            return [await self._reply()]
        await self._reply()
        queued = [await self._reply() for _ in range(count)]
        executed = await self._reply()
        if isinstance(executed, list):
            return executed  # pyright: ignore[reportUnknownVariableType] - a reply has no type
        return [*(reply for reply in queued if isinstance(reply, Exception)), executed]

    async def _reply(self) -> Any:
        try:
            return await self._connection.read_response()
        except refusals.ReadOnlyError:
            raise  # the primary has become a replica: connect anew, to whoever is the primary now
        except refusals.ResponseError as error:
            return error

    async def _judge(self, batch: Batch, answers: list[Any]) -> TailraceError | None:
        first = answers[0]
        if first is None:
            return AttemptLost(f"the log {batch.log} is gone: its lifetime is over, or it was deleted")
        if not isinstance(first, Exception):
            return None
        if isinstance(first, refusals.ReadOnlyError):
            raise first
        if _ID_TOO_SMALL not in str(first):
            return store_error(first)
        return await self._written_before(batch)

    async def _written_before(self, batch: Batch) -> AttemptLost | None:
        """An id that does not grow: either an earlier sending of this batch came through, or a later attempt began."""
        await self._connection.send_command("XREVRANGE", batch.log, "+", "-", "COUNT", "1", check_health=False)
        found = await self._reply()
        last = EntryId.parse(found[0][0]) if isinstance(found, list) and found else None  # pyright: ignore[reportUnknownArgumentType] - a reply has no type
        if last is not None and last.attempt == batch.last.attempt and last.seq >= batch.last.seq:
            return None
        return AttemptLost(f"entry {batch.last} was refused: the log {batch.log} has gone on to {last}")


def _frames(commands: Sequence[bytes]) -> Sequence[bytes]:
    return commands if len(commands) == 1 else (_MULTI, *commands, _EXEC)
