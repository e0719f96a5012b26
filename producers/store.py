"""Redis as producers use it: one method a verb, and the translation of redis-py's errors, once.

Knows keys, scripts and the stream's form. Knows nothing of requests' content, of retries of tails or of arq.
"""

import asyncio
from collections.abc import AsyncGenerator, Mapping, Sequence
from contextlib import asynccontextmanager
from typing import Any, NamedTuple, Self
from urllib.parse import urlsplit

from redis import exceptions as refusals
from redis.asyncio import ConnectionPool, Redis
from redis.asyncio.connection import AbstractConnection
from redis.asyncio.retry import Retry
from redis.backoff import ConstantBackoff

from schemas import keys, scripts
from schemas.errors import SettingsError, StoreError, StoreFull, StoreRefused, StoreUnavailable
from schemas.ids import EntryId
from schemas.scripts import Argument, Script, Verdict
from schemas.settings import check_redis_url

PAGE_ENTRIES = 500
"""Entries read at once: bounds what a reader holds in memory and how long Redis is busy with one of them."""

WAIT_S = 5.0
"""How long a reader waits for the next entry before it looks whether the log still stands."""

_SCRIPTS = (scripts.SUBMIT, scripts.CANCEL, scripts.ENQUEUE, scripts.UNQUEUE, scripts.OVERVIEW)
_LETTER_FIELDS = ("error", "died_ms", "attempt", "failures", "crashes", "drains", "tenant")
_RETRY_PAUSE_S = 0.05
_PASSING = ("BUSY", "UNBLOCKED", "LOADING", "MASTERDOWN", "CLUSTERDOWN", "TRYAGAIN", "NOREPLICAS")
_CLOSED_MEANWHILE = "the handler is closed"
"""So ends uvloop's RuntimeError for a write to a connection that was lost a moment before; asyncio's own goes on."""
_LOST = (refusals.ConnectionError, refusals.TimeoutError, refusals.WatchError, OSError)


class RawEntry(NamedTuple):
    """An entry as it stands in a log."""

    id: EntryId
    raw: bytes


class Glimpse(NamedTuple):
    """What one look at a log tells: its ends, the neighbourhood of a cursor, and how the cursor's attempt began."""

    first: RawEntry
    last: RawEntry
    at_cursor: RawEntry | None
    following: RawEntry | None
    beginning: RawEntry | None


class Standing(NamedTuple):
    """What record and log of a request say just now: the fields asked for that there are, and the last entry."""

    record: Mapping[str, bytes]
    last: RawEntry | None


class ProducerStore:
    """The verbs of a producer. Every one bears being sent twice, so a lost connection is tried once more at once.

    Args:
        url: `redis://`, `rediss://` or `unix://`.
        timeout_s: for connecting, and for each answer.
        wait_s: the longest a `read` waits for the next entry.

    Raises:
        SettingsError: the URL cannot be used.
    """

    def __init__(self, url: str, *, timeout_s: float, wait_s: float = WAIT_S) -> None:
        self.place = _place(url)
        self._url = url
        self._timeout_s = timeout_s
        self.wait_s = wait_s
        self._wait_ms = max(1, int(wait_s * 1000))  # BLOCK 0 would be for ever
        self._redis = Redis(connection_pool=self._pool())
        # Not tried again here: a tail has to know that it reads on from a server that may have lost something.
        self._reads = Redis(connection_pool=self._pool(tries=0))
        self._scripts = {script.name: self._redis.register_script(script.text) for script in _SCRIPTS}

    @classmethod
    async def connect(cls, url: str, *, timeout_s: float) -> Self:
        """A store whose Redis answered just now.

        Raises:
            SettingsError: the URL cannot be used.
            StoreError: Redis cannot be reached, or refuses.
        """
        store = cls(url, timeout_s=timeout_s)
        try:
            async with store.asking():
                await store._redis.ping()
        except BaseException:
            await store.close()
            raise
        return store

    async def close(self) -> None:
        """Closes every connection, those of running tails included."""
        await self._redis.connection_pool.disconnect()
        await self._reads.connection_pool.disconnect()

    @asynccontextmanager
    async def asking(self, wait_s: float = 0.0) -> AsyncGenerator[None]:
        """Bounds the time of what is asked inside, and translates what redis-py raises.

        Not redis-py's `socket_timeout`: it sends by `asyncio.wait_for`, which in Python 3.11 loses a cancel that comes
        in the moment the command is sent, and then a cancelled tail would go on.
        """
        try:
            async with asyncio.timeout(wait_s + self._timeout_s):
                yield
        except TimeoutError as error:
            raise StoreUnavailable(
                f"Redis at {self.place} did not answer within {wait_s + self._timeout_s:g} s"
            ) from error
        except (refusals.RedisError, OSError, RuntimeError) as error:
            raise self.translated(error) from error

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
    ) -> Verdict:
        """Writes record and first entry: `accepted`, `standing` with its status, or `conflict`."""
        return await self._run(
            scripts.SUBMIT,
            _request_keys(request_id),
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

    async def cancel(self, request_id: str, *, terminal: bytes, outcome: bytes) -> Verdict:
        """Ends a request that waits (`ended`), tells the owner of one that runs (`signalled`), or says `finished`."""
        return await self._run(
            scripts.CANCEL,
            _request_keys(request_id),
            channel=keys.CANCEL_CHANNEL,
            request_id=request_id,
            terminal=terminal,
            outcome=outcome,
        )

    async def record(self, request_id: str, *fields: str) -> dict[str, bytes] | None:
        """Fields of the record that are set; None when there is no record."""
        names = ("status", *fields)
        async with self.asking():
            values = await self._redis.hmget(keys.rec_key(request_id), names)
        if values[0] is None:
            return None
        return {name: value for name, value in zip(names, values, strict=True) if value is not None}

    async def enqueue(self, request_id: str, lane: str | None, envelope: bytes, *, life_ms: int, since_ms: int) -> None:
        """Puts a request into its lane or arq's queue, unless it waits or runs already, and wakes an idle worker."""
        await self._run(
            scripts.ENQUEUE,
            {"queue": keys.QUEUE, "lease": keys.lease_key(request_id), "job": keys.job_key(request_id)},
            id=request_id,
            lane=lane or "",
            envelope=envelope,
            life_ms=life_ms,
            since_ms=since_ms,
            wake_tokens_max=keys.WAKE_TOKENS_MAX,
        )

    async def unqueue(self, request_id: str, lane: str | None) -> None:
        """Takes a request that has ended out of the queue, unless a worker holds it: then that one acknowledges."""
        places = {
            "queue": keys.QUEUE,
            "lease": keys.lease_key(request_id),
            "state": keys.queue_state_key(request_id),
            "job": keys.job_key(request_id),
            "retry": keys.retry_key(request_id),
        }
        await self._run(scripts.UNQUEUE, places, id=request_id, lane=lane or "")

    async def overview(self, *, lanes_max: int, begun_max: int, workers_max: int) -> scripts.Overview:
        """What waits, what has begun, who works, how many died."""
        places = {"queue": keys.QUEUE, "workers": keys.WORKERS, "dead": keys.DEAD}
        limits = {"lanes_max": lanes_max, "begun_max": begun_max, "workers_max": workers_max}
        return scripts.read_overview(await self._reply(scripts.OVERVIEW, places, **limits))

    async def standings(self, request_ids: Sequence[str], fields: Sequence[str]) -> list[Standing]:
        """Fields of each request's record, and the last entry of its log."""
        async with self.asking():
            async with self._redis.pipeline(transaction=False) as pipe:
                for request_id in request_ids:
                    pipe.execute_command("HMGET", keys.rec_key(request_id), *fields)
                    pipe.execute_command("XREVRANGE", keys.log_key(request_id), "+", "-", "COUNT", 1)
                answers = await pipe.execute()
        return [
            Standing(
                {name: value for name, value in zip(fields, record, strict=True) if value is not None},
                *(_entries(last) or (None,)),
            )
            for record, last in zip(answers[::2], answers[1::2], strict=True)
        ]

    async def letters(self, limit: int) -> list[tuple[str, dict[str, bytes]]]:
        """The newest dead letters first, without their contents."""
        async with self.asking():
            ids: list[bytes] = await self._redis.execute_command("ZREVRANGE", keys.DEAD, 0, limit - 1)
            async with self._redis.pipeline(transaction=False) as pipe:
                for job_id in ids:
                    pipe.execute_command("HMGET", keys.letter_key(job_id.decode()), *_LETTER_FIELDS)
                answers = await pipe.execute()
        found: list[tuple[str, dict[str, bytes]]] = []
        for job_id, values in zip(ids, answers, strict=True):
            fields = {name: value for name, value in zip(_LETTER_FIELDS, values, strict=True) if value is not None}
            if "error" in fields:  # its lifetime may be over
                found.append((job_id.decode(), fields))
        return found

    async def letter(self, job_id: str) -> dict[str, bytes] | None:
        """One dead letter, whole; None when there is none."""
        async with self.asking():
            fields = await self._redis.hgetall(keys.letter_key(job_id))
        return {name.decode(): value for name, value in fields.items()} or None

    async def drop_letter(self, job_id: str) -> bool:
        """Takes a dead letter out of the list; False when it was not there."""
        async with self.asking():
            async with self._redis.pipeline(transaction=True) as pipe:
                pipe.execute_command("ZREM", keys.DEAD, job_id)
                pipe.execute_command("DEL", keys.letter_key(job_id))
                return any(await pipe.execute())

    async def glimpse(self, request_id: str, cursor: EntryId) -> Glimpse | None:
        """One consistent look at a log; None when there is none."""
        log = keys.log_key(request_id)
        async with self.asking():
            async with self._redis.pipeline(transaction=True) as pipe:
                pipe.xrange(log, "-", "+", count=1)
                pipe.execute_command("XREVRANGE", log, "+", "-", "COUNT", 1)
                pipe.xrange(log, str(cursor), str(cursor))
                pipe.xrange(log, f"({cursor}", "+", count=1)
                pipe.xrange(log, f"{cursor.attempt}-0", f"{cursor.attempt}-0")
                replies = [_entries(reply) for reply in await pipe.execute()]
        first, last, *others = (entries[0] if entries else None for entries in replies)
        return Glimpse(first, last, *others) if first is not None and last is not None else None

    async def page(self, request_id: str, first: EntryId, last: EntryId) -> list[RawEntry]:
        """Up to `PAGE_ENTRIES` entries from `first` to `last`, both included."""
        async with self.asking():
            return _entries(
                await self._redis.xrange(keys.log_key(request_id), str(first), str(last), count=PAGE_ENTRIES)
            )

    async def read(self, request_id: str, after: EntryId, wait_s: float | None = None) -> list[RawEntry]:
        """Up to `PAGE_ENTRIES` entries behind `after`; with none there, waits up to `wait_s` for the next.

        It waits on a connection that nobody else uses meanwhile, and never longer than the store's own `wait_s`.
        """
        wait_s = self.wait_s if wait_s is None else min(wait_s, self.wait_s)
        streams = {keys.log_key(request_id): str(after)}
        async with self.asking(wait_s):
            reply = await self._reads.xread(
                streams, count=PAGE_ENTRIES, block=max(1, int(wait_s * 1000))
            )  # 0 would be for ever
        return _entries(reply[0][1]) if reply else []

    def leave(self) -> None:
        """Whoever read is done: nothing is kept for it."""

    def connection(self) -> AbstractConnection:
        """A connection of its own, not open yet and not tried again, for whom one can be shared by many readers."""
        return self._reads.connection_pool.make_connection()

    async def _run(self, script: Script, named: Mapping[str, str], **given: Argument) -> Verdict:
        return script.verdict(await self._reply(script, named, **given))

    async def _reply(self, script: Script, named: Mapping[str, str], **given: Argument) -> list[Any]:
        places, values = script.call(**named, **given)
        async with self.asking():
            return await self._scripts[script.name]([str(place) for place in places], values)

    def _pool(self, tries: int = 1) -> ConnectionPool:
        try:
            pool = ConnectionPool.from_url(
                self._url,
                socket_timeout=None,
                socket_connect_timeout=self._timeout_s,
                socket_keepalive=True,
                retry=Retry(ConstantBackoff(_RETRY_PAUSE_S), tries),
                retry_on_error=[refusals.ConnectionError],
            )
            pool.make_connection()  # an option in the URL that redis-py does not have is noticed only here
        except (ValueError, TypeError) as error:
            raise SettingsError(f"redis_url: {self.place} cannot be used: {error}") from error
        return pool

    def translated(self, error: Exception) -> StoreError:
        """redis-py's error as ours."""
        said = str(error).splitlines()[0] if str(error) else type(error).__name__
        match error:
            case RuntimeError() if _CLOSED_MEANWHILE not in said:
                raise error  # none of Redis's
            case refusals.AuthenticationError() | refusals.AuthorizationError() | refusals.NoPermissionError():
                return StoreRefused(f"Redis at {self.place} refuses: {said}; check user and password in its URL")
            case refusals.OutOfMemoryError():
                return StoreFull(f"Redis at {self.place} is out of memory: {said}")
            case refusals.ReadOnlyError():
                return StoreRefused(f"Redis at {self.place} is a read-only replica: give the URL of the primary")
            case refusals.InvalidResponse():
                return StoreRefused(f"what answers at {self.place} is not a Redis: {said}")
            case refusals.ResponseError() if not str(error).startswith(_PASSING):
                return StoreRefused(f"Redis at {self.place} refuses: {said}")
            case refusals.TimeoutError():
                return StoreUnavailable(f"Redis at {self.place} did not answer within {self._timeout_s:g} s")
            case _ if isinstance(error, _LOST):
                return StoreUnavailable(f"Redis at {self.place} cannot be reached: {said}")
            case _:
                return StoreUnavailable(f"Redis at {self.place} is not available: {said}")


def _request_keys(request_id: str) -> dict[str, str]:
    return {"rec": keys.rec_key(request_id), "log": keys.log_key(request_id)}


def _place(url: str) -> str:
    """Where a URL points to, without user, password and options: fit for messages."""
    try:
        check_redis_url(url)
    except ValueError as error:
        raise SettingsError(f"redis_url: {error}") from error
    parts = urlsplit(url)
    return parts.path if parts.scheme == "unix" else f"{parts.hostname or 'localhost'}:{parts.port or 6379}"


def _entries(reply: Sequence[tuple[bytes, dict[bytes, Any]]]) -> list[RawEntry]:
    field = keys.ENTRY_FIELD.encode()
    return [RawEntry(EntryId.parse(entry_id), fields[field]) for entry_id, fields in reply]
