"""The connection that carries commits: entries for their logs, followed by the pushes of what was written.

Owns one connection and the packed commands on it. Knows nothing of leases, of what an entry contains, or of when a
commit is due.
"""

import asyncio
from collections.abc import AsyncGenerator, Sequence
from contextlib import asynccontextmanager

from redis.asyncio import ConnectionPool

from tailrace.broker.cluster import Redirect, redirect_of
from tailrace.broker.connections import at_node, connection_options, place_of
from tailrace.broker.errors import FAILURES, store_error
from tailrace.broker.time_limits import CONNECT_TIMEOUT_S, REPLY_TIMEOUT_S
from tailrace.broker.wire import CommandConnection, packed
from tailrace.schemas.errors import AttemptLost, StoreUnavailable
from tailrace.schemas.push import encode_pushes
from tailrace.schemas.redis_url import Node
from tailrace.worker.publish.commit_replies import (
    WRITTEN,
    AttemptState,
    Moved,
    Rejected,
    Result,
    attempt_state,
    batch_reply,
    is_written_before,
    last_id,
    listened_channels,
    raise_if_not_primary,
    says_id_too_small,
)
from tailrace.worker.publish.log_buffer import Batch, LogBuffer

_ASKING = b"*1\r\n$6\r\nASKING\r\n"
_MULTI = b"*1\r\n$5\r\nMULTI\r\n"
_EXEC = b"*1\r\n$4\r\nEXEC\r\n"


class CommitLine:
    """One connection that is used only for commits.

    What a commit has written is pushed to live readers afterwards: with the commands of the next commit, or by `push`
    if none follows at once. It is not pushed before Redis has answered: readers must not see what Redis refuses
    (because the writer is fenced off, or for lack of memory).

    The last command of a commit asks which channels have listeners; the other channels get no push. A reader that
    subscribes later reads the log after it has subscribed, so it finds entries that were not pushed. On a cluster
    everything is pushed, because a listener may be connected to any node.

    Args:
        url: the Redis to write to.
        node: the node to connect to, if it is a cluster.
    """

    def __init__(self, url: str, node: Node | None = None) -> None:
        # redis-py sets no socket timeout here: one timer spans the whole commit.
        options = connection_options(url, connect_s=CONNECT_TIMEOUT_S, reply_s=None)
        options = options if node is None else at_node(options, node)
        self._place = place_of(options)
        self._node = node
        self._connection = CommandConnection(ConnectionPool(**options).make_connection())
        self._unpushed: list[Batch] = []

    async def commit(self, batches: Sequence[Batch]) -> list[Result]:
        """Writes all batches in one round trip, each all or nothing.

        Returns:
            A result for each batch, in their order; `WRITTEN` itself for those that are written.

        Raises:
            StoreUnavailable: the connection was lost, or Redis did not answer. The same batches may be sent again.
        """
        frames = self._pushes()
        count = len(frames)
        ends: list[int] = []
        channels: set[bytes] = set()
        for batch in batches:
            log, commands = batch.log, batch.commands
            channels.add(log.channel)
            if log.asking:
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
            replies = await self._connection.ask(b"".join(frames), count + (self._node is None))
            results: list[Result] = []
            for batch, end in zip(batches, ends, strict=True):
                reply = batch_reply(replies, end, len(batch.commands))
                results.append(WRITTEN if type(reply) is bytes else await self._result(batch, reply))
        if listened := channels if self._node else listened_channels(replies[count], channels):
            with_results = zip(batches, results, strict=True)
            self._unpushed = [
                batch for batch, result in with_results if result is WRITTEN and batch.log.channel in listened
            ]
        return results

    def push(self) -> None:
        """Pushes what the last commit has written, unless another commit has already done so.

        If the connection is lost, readers find in the log what was not pushed.
        """
        if pushes := self._pushes():
            self._connection.send(b"".join(pushes), len(pushes))

    async def attempt_states(self, logs: Sequence[LogBuffer]) -> list[AttemptState | Moved]:
        """Whether the server still has these attempts: a failover may have lost some.

        Raises:
            StoreUnavailable: the server did not answer.
        """
        frames = [frame for log in logs for frame in _questions(log)]
        async with self._round_trip():
            replies = await self._connection.ask(b"".join(frames), len(frames))
            raise_if_not_primary(replies)
        answers = iter(reply for frame, reply in zip(frames, replies, strict=True) if frame is not _ASKING)
        return [self._state(log, next(answers), next(answers)) for log in logs]

    async def close(self) -> None:
        """Closes the connection; the next commit opens it again."""
        self._unpushed = []
        await self._connection.close()

    @asynccontextmanager
    async def _round_trip(self) -> AsyncGenerator[None]:
        """Limits the time of the block, and closes a connection on which replies are outstanding."""
        try:
            async with asyncio.timeout(REPLY_TIMEOUT_S):
                yield
        except FAILURES as error:  # including a refused login, which may also be temporary
            await self.close()
            raise StoreUnavailable(str(store_error(error, self._place))) from error
        except BaseException:
            await self.close()
            raise

    def _pushes(self) -> list[bytes]:
        """A PUBLISH for each channel with new entries. If one is refused, its readers get the entries later."""
        if not self._unpushed:
            return []
        channels: dict[bytes, list[tuple[str, int, int, Sequence[bytes]]]] = {}
        for batch in self._unpushed:
            log = batch.log
            channels.setdefault(log.channel, []).append((log.request_id, log.attempt, batch.first, batch.entries))
        self._unpushed = []
        return [packed(b"PUBLISH", channel, encode_pushes(pushes)) for channel, pushes in channels.items()]

    async def _result(self, batch: Batch, reply: Exception | None) -> Result:
        """The result of a batch that this commit did not write."""
        log = batch.log
        if reply is None:
            return Rejected(
                AttemptLost(f"the log of {log.request_id} is gone: its lifetime is over, or it was deleted")
            )
        raise_if_not_primary([reply])
        if redirect := self._redirect(reply):
            return Moved(redirect)
        if not says_id_too_small(reply):
            return Rejected(store_error(reply, self._place))
        # The id is not above the log's last one: an earlier sending was executed, or a later attempt has begun.
        frames = _last_entry(log)
        *_, last_entry = await self._connection.ask(b"".join(frames), len(frames))
        raise_if_not_primary([last_entry])
        if redirect := self._redirect(last_entry):
            return Moved(redirect)
        if is_written_before(batch, last_entry):
            return WRITTEN
        entry_id = f"{log.attempt}-{batch.first}"
        return Rejected(
            AttemptLost(f"entry {entry_id} was refused: the log of {log.request_id} is at {last_id(last_entry)}")
        )

    def _state(self, log: LogBuffer, fields: object, last_entry: object) -> AttemptState | Moved:
        moved = self._redirect(fields), self._redirect(last_entry)
        if not any(moved) and isinstance(fields, Exception):
            error = store_error(fields, self._place)
            if isinstance(error, StoreUnavailable):
                raise error
        expected = [b"%d" % log.attempt, log.token.encode()]
        return attempt_state(fields, last_entry, expected, moved, asking=log.asking)

    def _redirect(self, reply: object) -> Redirect | None:
        return redirect_of(reply, self._node) if self._node else None


def _questions(log: LogBuffer) -> list[bytes]:
    """Commands that read an attempt's state: the fields of its record, and the last entry of its log."""
    record = packed(b"HMGET", log.record_key, b"attempt", b"token")
    return [_ASKING, record, *_last_entry(log)] if log.asking else [record, *_last_entry(log)]


def _last_entry(log: LogBuffer) -> list[bytes]:
    command = packed(b"XREVRANGE", log.key, b"+", b"-", b"COUNT", b"1")
    return [_ASKING, command] if log.asking else [command]
