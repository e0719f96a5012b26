"""The verbs of a request's life, as the worker says them to Redis. Each bears being sent twice, and is tried again.

Knows nothing of attempts' inner life, of commits or of the model's server.
"""

from hashlib import sha1
from typing import NamedTuple

import msgspec
from redis import exceptions as redis_errors
from redis.asyncio import Redis

from tailrace.broker import keys, scripts
from tailrace.broker.backoff import Retries, retry_until_answered
from tailrace.broker.clients import asking
from tailrace.broker.scripts import Argument, Script, Verdict
from tailrace.broker.time_limits import PATIENCE_S
from tailrace.schemas.codec import encode_entry, encode_outcome
from tailrace.schemas.deltas import ErrorInfo
from tailrace.schemas.errors import StoreFull, StoreUnavailable
from tailrace.schemas.ids import EntryId
from tailrace.schemas.outcome import Outcome, terminal_of
from tailrace.schemas.request import GenerationRequest
from tailrace.worker.queue.outbox_state import OutboxState


class Begun(NamedTuple):
    """What `begin` says to the owner of an attempt that may write."""

    request: bytes
    cancelled: bool
    submitted_ms: int
    started_ms: int
    deadline_ms: int
    """Times by the clock of Redis, in milliseconds since 1970."""
    failures: int
    """Attempts that failed, whoever made them."""
    crashes: int
    drains: int


class Store:
    """The worker's verbs. Each is one script, tried again while Redis is away.

    Args:
        redis: a client for records and logs, with socket timeouts; it is used, not closed.
        queue: one for the queue, where that has a server of its own.
        patience_s: how long a verb is tried again.
        outbox_state: says how long a record has to stay after its end.
    """

    def __init__(
        self,
        redis: Redis,
        *,
        queue: Redis | None = None,
        patience_s: float = PATIENCE_S,
        outbox_state: OutboxState | None = None,
    ) -> None:
        self._redis = redis
        self._queue = queue or redis
        self._patience_s = patience_s
        self._outbox_state = outbox_state or OutboxState()

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
            submitted_ms=verdict.number("submitted_ms"),
            started_ms=verdict.number("started_ms"),
            deadline_ms=verdict.number("deadline_ms"),
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
            hold_ms=self._outbox_state.keep_record_ms,
        )

    async def stored(self, request_id: str, attempt: int) -> Verdict:
        """The outcome of that attempt is in a database: words of `scripts.STORED`."""
        return await self._run(scripts.STORED, request_id, attempt=attempt)

    async def bury(self, job_id: str, error: ErrorInfo, *, crashes: int, with_envelope: bool) -> Verdict:
        """Lists a request that ended dead, or a job without a record: `buried`, or `spared` if it has not ended so.

        Args:
            job_id: the job; any text, not only what can be a request's id.
            error: why, of a job without a record.
            crashes: of a job without a record.
            with_envelope: whether arq's envelope is worth a look although there is a record.
        """
        epitaph = await self._run(scripts.EPITAPH, job_id, bytes_max=keys.DEAD_BYTES_MAX)
        if epitaph.word == "spared":
            return epitaph
        said: dict[str, Argument] = {"error": msgspec.json.encode(error), "crashes": crashes, **epitaph.fields}
        return await self._run(
            scripts.BURY,
            job_id,
            id=job_id,
            with_envelope=int(with_envelope),
            life_ms=keys.DEAD_LIFETIME_S * 1000,
            entries_max=keys.DEAD_MAX,
            bytes_max=keys.DEAD_BYTES_MAX,
            **said,
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
        redis = self._queue if script is scripts.BURY else self._redis

        async def once() -> list[bytes]:
            async with asking(redis):
                try:
                    return await redis.evalsha(_sha(script), len(key_list), *key_list, *args)
                except redis_errors.NoScriptError:
                    return await redis.eval(script.text, len(key_list), *key_list, *args)

        retries = Retries(script.name, patience_s=self._patience_s, retried=(StoreUnavailable, StoreFull))
        return script.verdict(await retry_until_answered(once, retries))


_SHAS: dict[str, str] = {}


def _sha(script: Script) -> str:
    sha = _SHAS.get(script.name)
    if sha is None:
        sha = _SHAS[script.name] = sha1(script.text.encode(), usedforsecurity=False).hexdigest()
    return sha
