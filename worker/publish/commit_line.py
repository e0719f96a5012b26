"""The line on which commits travel: entries into their logs, and then the pushes of what was written.

Owns one connection and the packed commands on it. Knows nothing of buffers, of leases and of what an entry says.
"""

import asyncio
from collections.abc import AsyncGenerator, Sequence
from contextlib import asynccontextmanager
from typing import Any, Protocol

from redis import exceptions as refusals
from redis.asyncio import ConnectionPool

from tailrace.broker.cluster import Redirect, redirect_of
from tailrace.broker.connections import at_node, connection_options, place_of
from tailrace.broker.errors import FAILURES, store_error
from tailrace.broker.time_limits import CONNECT_TIMEOUT_S, REPLY_TIMEOUT_S
from tailrace.broker.wire import Wire, packed
from tailrace.schemas.errors import AttemptLost, StoreUnavailable, TailraceError
from tailrace.schemas.ids import EntryId
from tailrace.schemas.push import encode_pushes
from tailrace.schemas.redis_url import Node

_ID_TOO_SMALL = "equal or smaller"


class Elsewhere(StoreUnavailable):
    """Another node of the cluster has the log, for good or (`asking`) while its slot moves there.

    Attributes:
        redirect: as the node has said it.
    """

    def __init__(self, redirect: Redirect) -> None:
        super().__init__(f"its slot has gone to {redirect.node[0]}:{redirect.node[1]}")
        self.redirect = redirect


class Log(Protocol):
    """Where a batch is written, and where that is pushed."""

    request_id: str
    log: bytes
    channel: bytes
    asking: bool
    """Whether its slot was moving to this line's node when we were sent there."""


class Batch(Protocol):
    """What a commit writes into one log, all or nothing."""

    @property
    def log(self) -> Log:
        """Into which log."""
        ...

    attempt: int
    first: int
    """Seq of the first of the entries, which follow one another."""
    entries: Sequence[bytes]
    commands: Sequence[bytes]


class Fence(Protocol):
    """What tells an attempt that has begun from every other."""

    rec: str
    attempt: int
    token: str
    asking: bool


def xadd_prefix(log: bytes) -> bytes:
    """The part of an XADD command that is the same for every entry of a log (RESP2, Redis serialization protocol)."""
    return b"*6\r\n$4\r\nXADD\r\n$%d\r\n%b\r\n$10\r\nNOMKSTREAM\r\n" % (len(log), log)


def xadd(prefix: bytes, entry_id: bytes, entry: bytes) -> bytes:
    """A packed XADD with an id of its own. Packed here because redis-py's packing costs more than the whole commit."""
    return b"%b$%d\r\n%b\r\n$1\r\ne\r\n$%d\r\n%b\r\n" % (prefix, len(entry_id), entry_id, len(entry), entry)


_ASKING = b"*1\r\n$6\r\nASKING\r\n"
_MULTI = b"*1\r\n$5\r\nMULTI\r\n"
_EXEC = b"*1\r\n$4\r\nEXEC\r\n"


class CommitLine:
    """One connection for commits alone.

    What a commit has written is then pushed to those who follow live: with the commands of the next commit, or by
    `push` when none follows at once. Not before Redis has answered: what it refuses (a fenced writer's, or for want of
    memory) must not be seen.

    The last command of a commit asks on which channels somebody listens; the others are left out. Whoever subscribes
    after that reads the log after that, and so finds there what was not pushed.

    Of a cluster it is the line to one node. There all is pushed: who listens does so at any node.

    Args:
        url: of the Redis to write to.
        node: which of a cluster's.
    """

    def __init__(self, url: str, node: Node | None = None) -> None:
        # No socket timeout of redis-py's: one timer spans the whole commit.
        options = connection_options(url, connect_s=CONNECT_TIMEOUT_S, reply_s=None)
        options = options if node is None else at_node(options, node)
        pool = ConnectionPool(**options)
        self._place = place_of(options)
        self._node = node
        self._wire = Wire(pool.make_connection())
        self._written: list[Batch] = []

    async def commit(self, batches: Sequence[Batch]) -> list[TailraceError | None]:
        """Writes all batches in one round trip, each all or nothing.

        Returns:
            For each batch None when it stands in its log (also when an earlier sending of it did), or why not.

        Raises:
            StoreUnavailable: the connection was lost or Redis did not answer; the same batches may be sent again.
        """
        frames = self._pushes()
        count = len(frames)
        ends: list[int] = []
        channels: set[bytes] = set()
        for batch in batches:
            channels.add(batch.log.channel)
            commands = batch.commands
            if batch.log.asking:
                frames.append(_ASKING)
                count += 1
            if len(commands) == 1:
                frames.append(commands[0])
                count += 1
            else:
                frames += (_MULTI, *commands, _EXEC)
                count += len(commands) + 2
            ends.append(count)
        if self._node is None:
            frames.append(packed(b"PUBSUB", b"NUMSUB", *channels))
        async with self._round_trip():
            replies = await self._wire.ask(b"".join(frames), count + (self._node is None))
            reasons: list[TailraceError | None] = []
            for batch, end in zip(batches, ends, strict=True):
                answer = _answer(replies, end, len(batch.commands))
                reasons.append(None if type(answer) is bytes else await self._judge(batch, answer))
        if heard := channels if self._node else _heard(replies[count], channels):
            written = zip(batches, reasons, strict=True)
            self._written = [batch for batch, why in written if why is None and batch.log.channel in heard]
        return reasons

    def push(self) -> None:
        """Pushes what the last commit has written, unless another commit has taken that along.

        Where the connection is lost readers find in the log what was not pushed.
        """
        if pushes := self._pushes():
            self._wire.tell(b"".join(pushes), len(pushes))

    async def standing(self, fences: Sequence[Fence]) -> list[bool | Elsewhere]:
        """Which of these attempts the server still knows as begun: after a failover it may have forgotten.

        Raises:
            StoreUnavailable: it could not be asked.
        """
        asked = [packed(b"HMGET", fence.rec.encode(), b"attempt", b"token") for fence in fences]
        frames = [
            _ASKING + question if fence.asking else question for fence, question in zip(fences, asked, strict=True)
        ]
        async with self._round_trip():
            replies = await self._wire.ask(b"".join(frames), len(asked) + sum(fence.asking for fence in fences))
            _raise_passing(replies)
        answers = iter(replies)
        return [self._knows(fence, [next(answers) for _ in range(1 + fence.asking)][-1]) for fence in fences]

    def _knows(self, fence: Fence, answer: object) -> bool | Elsewhere:
        if elsewhere := self._elsewhere(answer):
            return elsewhere
        if isinstance(answer, Exception) and isinstance(why := store_error(answer, self._place), StoreUnavailable):
            raise why
        return answer == [b"%d" % fence.attempt, fence.token.encode()]

    @asynccontextmanager
    async def _round_trip(self) -> AsyncGenerator[None]:
        """Bounds what is asked inside, and leaves no connection behind on which replies are to come."""
        try:
            async with asyncio.timeout(REPLY_TIMEOUT_S):
                yield
        except FAILURES as error:  # connecting may be refused, too; that may pass as well
            await self.close()
            raise StoreUnavailable(str(store_error(error, self._place))) from error
        except BaseException:
            await self.close()
            raise

    async def close(self) -> None:
        """Closes the connection; the next commit opens it again."""
        self._written = []
        await self._wire.close()

    def _pushes(self) -> list[bytes]:
        """A PUBLISH for each shard in which something was written. A push refused is late for its readers, not lost."""
        if not self._written:
            return []
        shards: dict[bytes, list[tuple[str, int, int, Sequence[bytes]]]] = {}
        for batch in self._written:
            push = (batch.log.request_id, batch.attempt, batch.first, batch.entries)
            shards.setdefault(batch.log.channel, []).append(push)
        self._written = []
        return [packed(b"PUBLISH", channel, encode_pushes(pushes)) for channel, pushes in shards.items()]

    async def _judge(self, batch: Batch, answer: Exception | None) -> TailraceError | None:
        """Why a batch was not written, unless it was before."""
        if answer is None:
            return AttemptLost(f"the log of {batch.log.request_id} is gone: its lifetime is over, or it was deleted")
        _raise_passing([answer])
        if elsewhere := self._elsewhere(answer):
            return elsewhere
        if _ID_TOO_SMALL not in str(answer):
            return store_error(answer, self._place)
        return await self._written_before(batch)

    async def _written_before(self, batch: Batch) -> AttemptLost | Elsewhere | None:
        """An id that does not grow: either an earlier sending of this batch came through, or a later attempt began."""
        look = packed(b"XREVRANGE", batch.log.log, b"+", b"-", b"COUNT", b"1")
        *_, found = await self._wire.ask(_ASKING + look if batch.log.asking else look, 1 + batch.log.asking)
        _raise_passing([found])
        if elsewhere := self._elsewhere(found):
            return elsewhere
        last = EntryId.parse(found[0][0]) if isinstance(found, list) and found else None  # pyright: ignore[reportUnknownArgumentType] - a reply has no type
        ours = EntryId(batch.attempt, batch.first + len(batch.entries) - 1)
        if last is not None and last.attempt == ours.attempt and last.seq >= ours.seq:
            return None
        return AttemptLost(f"entry {ours} was refused: the log of {batch.log.request_id} has gone on to {last}")

    def _elsewhere(self, answer: object) -> Elsewhere | None:
        redirect = redirect_of(answer, self._node) if self._node else None
        return Elsewhere(redirect) if redirect else None


def _answer(replies: Sequence[Any], end: int, commands: int) -> Any:
    """What says how it went with a batch whose replies come before `end`: the first entry's id, None, or a refusal.

    In a transaction none of a log's entries can be refused but for the reason of the first; what makes the server
    refuse the transaction as a whole stands where a command was queued.
    """
    executed = replies[end - 1]
    if commands == 1:
        return executed
    if isinstance(executed, list):
        return executed[0]  # pyright: ignore[reportUnknownVariableType] - a reply has no type
    queued = replies[end - commands - 2 : end - 1]
    return next((reply for reply in queued if isinstance(reply, Exception)), executed)


def _heard(counts: object, channels: set[bytes]) -> set[bytes]:
    """On which channels somebody listens; on all of them where our user may not ask."""
    if not isinstance(counts, list):
        return channels
    pairs: list[Any] = counts  # pyright: ignore[reportUnknownVariableType] - a reply has no type
    return {channel for channel, count in zip(pairs[::2], pairs[1::2], strict=True) if count}


def _raise_passing(answers: Sequence[object]) -> None:
    """Of a replica that was the primary, or a server that is not ready: connect anew, to whoever is the primary now."""
    for answer in answers:
        if isinstance(answer, refusals.ReadOnlyError | refusals.ConnectionError):
            raise answer
