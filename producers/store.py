"""Records and logs as producers use them.

Knows keys, scripts and the form of a stream. Knows nothing of what requests contain, of how tails retry or of arq.
"""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple, Self

from tailrace.broker import keys, scripts
from tailrace.broker.cluster import is_cluster
from tailrace.broker.script import Verdict
from tailrace.broker.scripts import CancelStatus, SubmitStatus
from tailrace.producers.link import Link
from tailrace.producers.queue_store import ProducerQueue
from tailrace.schemas.errors import SettingsError
from tailrace.schemas.ids import EntryId
from tailrace.schemas.redis_url import QUEUE_OF_A_CLUSTER

PAGE_ENTRIES = 500
"""Entries per read: bounds the memory of a reader and how long Redis is busy with one read."""

WAIT_S = 5.0
"""How long a reader waits for the next entry before it checks that the log still exists."""


class RawEntry(NamedTuple):
    """An entry as it is in a log."""

    id: EntryId
    raw: bytes


class LogBounds(NamedTuple):
    """One read of a log: its ends, the entries at and after a cursor, and the first of the cursor's attempt."""

    first: RawEntry
    last: RawEntry
    at_cursor: RawEntry | None
    following: RawEntry | None
    beginning: RawEntry | None


class RecordedState(NamedTuple):
    """Those of the requested fields that a record has, and the last entry of its log."""

    record: Mapping[str, bytes]
    last: RawEntry | None


class ProducerStore:
    """Records and logs; `queue` has the queue, which may be on another server. Every method raises StoreError.

    Args:
        url: the Redis with records and logs, as `tailrace.schemas.redis_url` reads it.
        timeout_s: the limit for connecting and for each answer.
        wait_s: the longest that `read` waits for the next entry.
        queue_url: the Redis with the queue, if it is another one.

    Raises:
        SettingsError: a URL cannot be used, or the queue's is a cluster.
    """

    def __init__(self, url: str, *, timeout_s: float, wait_s: float = WAIT_S, queue_url: str | None = None) -> None:
        self.link = Link(url, timeout_s=timeout_s)
        if is_cluster(queue_url or url):
            raise SettingsError(QUEUE_OF_A_CLUSTER)
        is_one = queue_url is None or queue_url == url
        self.queue = ProducerQueue(self.link if is_one else Link(queue_url or url, timeout_s=timeout_s))
        self.wait_s = wait_s

    @classmethod
    async def connect(cls, url: str, *, timeout_s: float, queue_url: str | None = None) -> Self:
        """A store whose Redis has answered.

        Raises:
            SettingsError: a URL cannot be used.
            StoreError: Redis cannot be reached, or refuses.
        """
        store = cls(url, timeout_s=timeout_s, queue_url=queue_url)
        try:
            await store.ping()
        except BaseException:
            await store.close()
            raise
        return store

    async def ping(self) -> None:
        """Raises StoreError if one of the servers does not answer."""
        for link in self._links():
            async with link.asking():
                await link.redis.ping()

    async def close(self) -> None:
        """Closes every connection, those of running tails included."""
        for link in self._links():
            await link.close()

    def _links(self) -> set[Link]:
        return {self.link, self.queue.link}

    async def submit(
        self,
        request_id: str,
        *,
        request: bytes,
        digest: str,
        api: str,
        model: str,
        timeout_ms: int,
        retention_ms: int,
        accepted: bytes,
        tenant: str | None,
        priority: str,
        retry_of: str | None,
    ) -> Verdict[SubmitStatus]:
        """Writes record and first entry.

        Args:
            request_id: the request.
            request: its content, packed.
            digest: the digest of its content: the same id with another digest is a conflict.
            api: its API.
            model: its model.
            timeout_ms: milliseconds until its deadline.
            retention_ms: milliseconds that record and log live after the end.
            accepted: the first entry of the log.
            tenant: its tenant.
            priority: its class.
            retry_of: the dead letter it retries.
        """
        return await self.link.run(
            scripts.SUBMIT,
            request_id,
            request=request,
            digest=digest,
            api=api,
            model=model,
            timeout_ms=timeout_ms,
            retention_ms=retention_ms,
            accepted=accepted,
            tenant=tenant or "",
            priority=priority,
            retry_of=retry_of or "",
        )

    async def cancel(
        self, request_id: str, *, terminal: bytes, outcome: bytes, keep_record_ms: int = 0
    ) -> Verdict[CancelStatus]:
        """Ends a waiting request, or signals the owner of a running one.

        Args:
            request_id: the request.
            terminal: the terminal entry of one that waits.
            outcome: the outcome of one that waits.
            keep_record_ms: how long its record lives at least, because the outcome waits for a database.
        """
        return await self.link.run(
            scripts.CANCEL,
            request_id,
            terminal=terminal,
            outcome=outcome,
            keep_record_ms=keep_record_ms,
        )

    async def record(self, request_id: str, *fields: str) -> dict[str, bytes] | None:
        """Fields of the record that are set; None if there is no record."""
        names = ("status", *fields)
        async with self.link.asking():
            values = await self.link.redis.hmget(keys.rec_key(request_id), names)
        if values[0] is None:
            return None
        return {name: value for name, value in zip(names, values, strict=True) if value is not None}

    async def request_states(self, request_ids: Sequence[str], fields: Sequence[str]) -> list[RecordedState]:
        """Fields of each request's record, and the last entry of its log."""
        async with self.link.asking():
            async with self.link.redis.pipeline(transaction=False) as pipe:
                for request_id in request_ids:
                    pipe.execute_command("HMGET", keys.rec_key(request_id), *fields)
                    pipe.execute_command("XREVRANGE", keys.log_key(request_id), "+", "-", "COUNT", 1)
                answers = await pipe.execute()
        return [
            RecordedState(
                {name: value for name, value in zip(fields, record, strict=True) if value is not None},
                *(_entries(last) or (None,)),
            )
            for record, last in zip(answers[::2], answers[1::2], strict=True)
        ]

    async def log_bounds(self, request_id: str, cursor: EntryId) -> LogBounds | None:
        """One consistent read of a log; None if there is none."""
        log = keys.log_key(request_id)
        async with self.link.asking():
            async with self.link.redis.pipeline(transaction=True) as pipe:
                pipe.xrange(log, "-", "+", count=1)
                pipe.execute_command("XREVRANGE", log, "+", "-", "COUNT", 1)
                pipe.xrange(log, str(cursor), str(cursor))
                pipe.xrange(log, f"({cursor}", "+", count=1)
                pipe.xrange(log, f"{cursor.attempt}-0", f"{cursor.attempt}-0")
                replies = [_entries(reply) for reply in await pipe.execute()]
        first, last, *others = (entries[0] if entries else None for entries in replies)
        return LogBounds(first, last, *others) if first is not None and last is not None else None

    async def page(self, request_id: str, first: EntryId, last: EntryId) -> list[RawEntry]:
        """Up to `PAGE_ENTRIES` entries from `first` to `last`, both included."""
        async with self.link.asking():
            return _entries(
                await self.link.redis.xrange(keys.log_key(request_id), str(first), str(last), count=PAGE_ENTRIES)
            )

    async def read(self, request_id: str, after: EntryId, wait_s: float | None = None) -> list[RawEntry]:
        """Up to `PAGE_ENTRIES` entries after `after`; if there are none, waits up to `wait_s` for the next.

        It waits on a connection of its own, and never longer than the store's own `wait_s`.
        """
        wait_s = self.wait_s if wait_s is None else min(wait_s, self.wait_s)
        streams = {keys.log_key(request_id): str(after)}
        async with self.link.asking(wait_s):
            reply = await self.link.reads.xread(
                streams, count=PAGE_ENTRIES, block=max(1, int(wait_s * 1000))
            )  # 0 would be without limit
        return _entries(reply[0][1]) if reply else []

    def leave(self) -> None:
        """Does nothing: the store keeps nothing for a reader."""


def _entries(reply: Sequence[tuple[bytes, dict[bytes, Any]]]) -> list[RawEntry]:
    field = keys.ENTRY_FIELD.encode()
    return [RawEntry(EntryId.parse(entry_id), fields[field]) for entry_id, fields in reply]
