"""Redis as the worker uses it: the verbs of a request's life, and the line on which commits travel.

Owns the translation of redis-py's errors, once, and the retry of verbs, which all bear being sent twice.
Knows nothing of attempts' inner life, of buffers or of the model's server.
"""

import asyncio
import logging
from collections.abc import AsyncGenerator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from hashlib import sha1
from itertools import chain
from time import monotonic
from typing import Any, NamedTuple, Protocol
from urllib.parse import urlsplit

import msgspec
from redis import exceptions as refusals
from redis.asyncio import ConnectionPool, Redis
from redis.asyncio.connection import AbstractConnection

from schemas import keys, scripts
from schemas.codec import encode_entry, encode_outcome
from schemas.deltas import ErrorInfo
from schemas.errors import AttemptLost, StoreError, StoreFull, StoreRefused, StoreUnavailable, TailraceError
from schemas.ids import EntryId
from schemas.outcome import Outcome, terminal_of
from schemas.push import encode_pushes
from schemas.request import GenerationRequest
from schemas.scripts import Argument, Script, Verdict
from worker.retry import Backoff

CONNECT_TIMEOUT_S = 5.0
REPLY_TIMEOUT_S = 10.0
"""A server that has not answered by then is treated as lost; what was sent is sent again on a new connection."""

PATIENCE_S = 60.0
"""How long a verb or a commit is tried again. Without Redis the lease cannot be renewed and ends long before this."""

RETRY = Backoff(base_s=0.05, cap_s=1.0)

_logger = logging.getLogger("tailrace.store")

FAILURES = (refusals.RedisError, OSError, RuntimeError)
"""What redis-py may raise when something is wrong with Redis or the way to it; `store_error` tells what it is."""

_CLOSED_MEANWHILE = "the handler is closed"
"""So ends uvloop's RuntimeError for a write to a connection that was lost a moment before; asyncio's own goes on."""

_PASSING = ("BUSY", "UNBLOCKED", "MASTERDOWN", "CLUSTERDOWN", "TRYAGAIN", "MISCONF", "NOREPLICAS")
_ID_TOO_SMALL = "equal or smaller"


def store_error(error: Exception) -> StoreError:
    """redis-py's error as ours. What passes by itself is `StoreUnavailable`, also a replica that was the primary.

    Raises:
        RuntimeError: the one given, when it is not about a connection.
    """
    match error:
        case RuntimeError() if _CLOSED_MEANWHILE not in str(error):
            raise error
        case refusals.AuthenticationError() | refusals.AuthorizationError() | refusals.NoPermissionError():
            return StoreRefused(f"Redis refuses: {error}")
        case refusals.OutOfMemoryError():
            return StoreFull(f"Redis is out of memory: {error}")
        case refusals.ReadOnlyError():
            return StoreUnavailable(f"Redis is a read-only replica: {error}")
        case refusals.ResponseError() if not str(error).startswith(_PASSING):
            return StoreRefused(f"Redis refuses: {error}")
        case _:
            return StoreUnavailable(f"Redis is not available: {error or type(error).__name__}")


def address(url: str) -> str:
    """Where a Redis is, without user and password."""
    parts = urlsplit(url)
    return f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}{parts.path}"


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
        pool = ConnectionPool.from_url(url, socket_timeout=None, socket_connect_timeout=CONNECT_TIMEOUT_S)
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


class Begun(NamedTuple):
    """What `begin` says to the owner of an attempt that may write."""

    request: bytes
    cancelled: bool
    submitted_at: str
    started_at: str
    left_s: float
    """Seconds from the begin to the request's deadline; negative when it has passed."""
    failures: int
    """Attempts that failed, whoever made them."""
    crashes: int
    drains: int


class Store:
    """The worker's verbs. Each is one script, tried again while Redis is away.

    Args:
        redis: a client with socket timeouts; it is used, not closed.
        patience_s: how long a verb is tried again.
    """

    def __init__(self, redis: Redis, *, patience_s: float = PATIENCE_S) -> None:
        self._redis = redis
        self._patience_s = patience_s

    async def submit(
        self, request_id: str, request: GenerationRequest, accepted: bytes, *, timeout_s: float, retention_s: float
    ) -> Verdict:
        """Record and log for a request that came with its job: words of `scripts.SUBMIT`."""
        return await self._run(
            scripts.SUBMIT,
            request_id,
            request=request.encoded(),
            digest=request.digest(),
            api=request.api,
            model=request.model,
            timeout_ms=round(timeout_s * 1000),
            retention_ms=round(retention_s * 1000),
            accepted=accepted,
            tenant=request.tenant or "",
            priority=request.priority,
            retry_of=request.retry_of or "",
        )

    async def begin(
        self, request_id: str, attempt: int, token: str, started: bytes, crashes: int = 0
    ) -> Begun | Verdict:
        """Takes the log over for an attempt. A verdict instead of `Begun`: stale, finished or unknown."""
        verdict = await self._run(
            scripts.BEGIN, request_id, attempt=attempt, token=token, attempt_started=started, crashes=crashes
        )
        if verdict.word not in ("begun", "again"):
            return verdict
        return Begun(
            request=verdict.fields["request"],
            cancelled=verdict.text("cancel") == "1",
            submitted_at=verdict.text("submitted_at"),
            started_at=verdict.text("started_at"),
            left_s=(verdict.number("deadline_ms") - verdict.number("started_ms")) / 1000,
            failures=verdict.number("failures"),
            crashes=verdict.number("crashes"),
            drains=verdict.number("drains"),
        )

    async def fail(self, request_id: str, attempt: int, token: str, failures: int) -> Verdict:
        """Counts a failed attempt that another follows: words of `scripts.FAIL`."""
        return await self._run(scripts.FAIL, request_id, attempt=attempt, token=token, failures=failures)

    async def finish(
        self, token: str, terminal_id: EntryId, outcome: Outcome, *, ms: int, dead: bool = False
    ) -> Verdict:
        """Terminal entry, outcome, status and lifetime in one step: words of `scripts.FINISH`.

        Args:
            token: the owner's.
            terminal_id: of the terminal entry.
            outcome: with its request's id.
            ms: milliseconds since the attempt began.
            dead: whether the request belongs into the dead-letter list; `bury` puts it there.
        """
        return await self._run(
            scripts.FINISH,
            outcome.request_id or "",
            attempt=terminal_id.attempt,
            token=token,
            terminal_id=str(terminal_id),
            terminal=encode_entry(terminal_of(outcome, ms)),
            outcome=encode_outcome(outcome),
            status=outcome.status,
            failures=outcome.failures,
            error=msgspec.json.encode(outcome.error) if outcome.error else "",
            dead=int(dead),
        )

    async def bury(self, job_id: str, error: ErrorInfo, *, crashes: int, with_envelope: bool) -> Verdict:
        """Lists a request that ended dead, or a job without a record: words of `scripts.BURY`.

        Args:
            job_id: the job; any text, not only what can be a request's id.
            error: why, of a job without a record.
            crashes: of a job without a record.
            with_envelope: whether arq's envelope is worth a look although there is a record.
        """
        return await self._run(
            scripts.BURY,
            job_id,
            id=job_id,
            error=msgspec.json.encode(error),
            crashes=crashes,
            with_envelope=int(with_envelope),
            life_ms=keys.DEAD_LIFETIME_S * 1000,
            entries_max=keys.DEAD_MAX,
            bytes_max=keys.DEAD_BYTES_MAX,
        )

    async def release(self, request_id: str, attempt: int, token: str) -> Verdict:
        """The owner gives the request back, unfinished: words of `scripts.RELEASE`."""
        return await self._run(scripts.RELEASE, request_id, attempt=attempt, token=token)

    async def _run(self, script: Script, request_id: str, **given: Argument) -> Verdict:
        """Runs a script.

        Raises:
            StoreUnavailable, StoreFull: after `patience_s` of trying again.
            StoreRefused: at once.
        """
        named = {
            "rec": keys.rec_key(request_id),
            "log": keys.log_key(request_id),
            "job": keys.job_key(request_id),
            "dead": keys.DEAD,
            "letter": keys.letter_key(request_id),
        }
        key_list, args = script.call(**{name: named[name] for name in script.keys}, **given)

        async def once() -> list[bytes]:
            try:
                return await self._redis.evalsha(_sha(script), len(key_list), *key_list, *args)
            except refusals.NoScriptError:
                return await self._redis.eval(script.text, len(key_list), *key_list, *args)

        return script.verdict(await patiently(script.name, once, self._patience_s))


async def patiently(verb: str, once: Callable[[], Awaitable[Any]], patience_s: float) -> Any:
    """Awaits `once()` again and again while Redis is away or full; of that it logs the first time.

    Raises:
        StoreUnavailable, StoreFull: it still is after `patience_s`.
        StoreRefused: at once.
    """
    end = monotonic() + patience_s
    tries = 0
    while True:
        try:
            return await once()
        except FAILURES as error:
            ours = store_error(error)
            tries += 1
            pause_s = RETRY.pause_s(tries)
            if isinstance(ours, StoreRefused) or monotonic() + pause_s > end:
                raise ours from error
            if tries == 1:
                _logger.warning("cannot %s (%s); trying again for %g s", verb, ours, patience_s)
        await asyncio.sleep(pause_s)


_SHAS: dict[str, str] = {}


def _sha(script: Script) -> str:
    sha = _SHAS.get(script.name)
    if sha is None:
        sha = _SHAS[script.name] = sha1(script.text.encode(), usedforsecurity=False).hexdigest()
    return sha
