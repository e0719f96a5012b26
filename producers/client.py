"""What a web tier holds: submit, tail, snapshot, result, cancel, status. Composes store, tail and enqueue.

Knows the order of steps. Knows nothing of Redis commands, of arq or of workers.
"""

import asyncio
import secrets
import time
from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping
from contextlib import aclosing, suppress
from functools import partial
from types import TracebackType
from typing import TYPE_CHECKING, Any, Literal, Self, TypeVar, overload

from tailrace.broker.keys import OUTBOX_LIFETIME_S, lane_of
from tailrace.producers.answers import (
    COUNTS,
    RECORD_FIELDS,
    CancelVerdict,
    Status,
    Submitted,
    counts_of,
    status_of,
    status_of_stored,
)
from tailrace.producers.queue import overview
from tailrace.producers.queue.dead_letters import DeadLetters
from tailrace.producers.queue.enqueue import Enqueuer
from tailrace.producers.store import Glimpse, ProducerStore
from tailrace.producers.tail import log_tail as tails
from tailrace.producers.tail.assembled import Assembled
from tailrace.producers.tail.collapsed import collapsed
from tailrace.producers.tail.fanout.fanout import Fanout, Following
from tailrace.producers.tail.letta import LettaItem, letta
from tailrace.producers.tail.log_tail import Tailed
from tailrace.producers.tail.snapshot import Snapshot, snapshot, snapshot_of
from tailrace.producers.tail.stalled import StallWatch
from tailrace.producers.tokens import Grant, TokenSigner
from tailrace.producers.tracing import current_traceparent
from tailrace.schemas import codec
from tailrace.schemas.deltas import FORMAT_VERSION, Accepted, Cancelled, ReaderEvent
from tailrace.schemas.errors import RequestConflict, RequestRejected, SettingsError, StoreError, UnknownRequest
from tailrace.schemas.ids import BEGINNING, REQUEST_ID_PATTERN, EntryId
from tailrace.schemas.outcome import UNFILLED, Outcome
from tailrace.schemas.request import GenerationRequest, decode_request, parse_request
from tailrace.schemas.results import SQL_MISSING, Stored
from tailrace.schemas.settings import DEFAULT_RETENTION_S, DEFAULT_RUN_LIMIT_S, Settings

if TYPE_CHECKING:
    from tailrace.producers.results import Results

DEFAULT_TIMEOUT_S = 5.0
DEFAULT_AWAY_LIMIT_S = 30.0
DEFAULT_STALLED_AFTER_S = 10.0

_Item = TypeVar("_Item")
_TailItem = TypeVar("_TailItem", bound=tails.Item)

_ID_BYTES = 16


class Client:
    """A producer's connection to one Redis, for use in one event loop. Also an async context manager.

    Args:
        store: the Redis, connected.
        run_limit_s: the longest a request may take from submit to its end, where it says nothing itself.
        retention_s: how long log and record stay after the end.
        away_limit_s: how long Redis may be away in one piece before a running tail gives up.
        stalled_after_s: nobody has worked on a request for so long before its readers are told.
        tokens: signs what `tail_token` mints.
        results: the database of outcomes, for what Redis has forgotten; it is closed with the client.

    Attributes:
        dead: the dead-letter list.
    """

    def __init__(
        self,
        store: ProducerStore,
        *,
        run_limit_s: float = DEFAULT_RUN_LIMIT_S,
        retention_s: float = DEFAULT_RETENTION_S,
        away_limit_s: float = DEFAULT_AWAY_LIMIT_S,
        stalled_after_s: float = DEFAULT_STALLED_AFTER_S,
        tokens: TokenSigner | None = None,
        results: "Results | None" = None,
    ) -> None:
        self._store = store
        self._results = results
        self._has_outbox = results is not None
        self._fanout = Fanout(store)
        self._tokens = tokens
        self._run_limit_s = run_limit_s
        self._retention_s = retention_s
        self._away_limit_s = away_limit_s
        self._stalled_after_s = stalled_after_s
        self.dead = DeadLetters(store.queue, store, self.submit)
        self._enqueuer = Enqueuer(store)

    @classmethod
    async def connect(
        cls,
        url: str,
        *,
        queue_url: str | None = None,
        timeout_s: float = DEFAULT_TIMEOUT_S,
        run_limit_s: float = DEFAULT_RUN_LIMIT_S,
        retention_s: float = DEFAULT_RETENTION_S,
        away_limit_s: float = DEFAULT_AWAY_LIMIT_S,
        tokens: TokenSigner | None = None,
        results_url: str = "",
        results_timeout_s: float = DEFAULT_TIMEOUT_S,
    ) -> Self:
        """A client whose Redis answered just now: `async with await Client.connect(url) as client`.

        Args:
            url: of Redis: `redis://`, `rediss://` or `unix://`.
            queue_url: of the one with the queue, where that is another one than that with records and logs.
            timeout_s: for connecting and for each answer of Redis.
            run_limit_s: the longest a request may take from submit to its end, where it says nothing itself.
            retention_s: how long log and record stay after the end.
            away_limit_s: how long Redis may be away in one piece before a running tail gives up.
            tokens: signs what `tail_token` mints.
            results_url: of the database of outcomes, asked for what Redis has forgotten; empty for none.
            results_timeout_s: for each of its answers.

        Raises:
            SettingsError: a URL cannot be used.
            StoreUnavailable: Redis is not there.
            StoreRefused: it refuses, for example the password.
        """
        results = _results(results_url, results_timeout_s) if results_url else None
        store = await ProducerStore.connect(url, timeout_s=timeout_s, queue_url=queue_url)
        return cls(
            store,
            run_limit_s=run_limit_s,
            retention_s=retention_s,
            away_limit_s=away_limit_s,
            tokens=tokens,
            results=results,
        )

    @classmethod
    async def from_settings(cls, settings: Settings) -> Self:
        """As `connect`, with what the environment's `TAILRACE_*` say."""
        return await cls.connect(
            settings.log_url,
            queue_url=settings.queue_url,
            run_limit_s=settings.run_limit_s,
            retention_s=settings.retention_s,
            tokens=TokenSigner.of(settings.token_secrets.get_secret_value()),
            results_url=settings.results_url.get_secret_value(),
            results_timeout_s=settings.results_timeout_s,
        )

    async def close(self) -> None:
        """Closes all connections; tails that still run end with an error."""
        await self._fanout.close()
        await self._store.close()
        if self._results is not None:
            await self._results.close()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await self.close()

    async def submit(
        self, request: GenerationRequest | Mapping[str, Any] | None = None, /, **parameters: Any
    ) -> Submitted:
        """Accepts a request and enqueues it, once, however often the same id and content are submitted.

        A call that failed with `StoreError` may be repeated; with an id of the caller's own it cannot double anything.

        Args:
            request: the request, or its parameters as a dict; or give the parameters by name.

        Raises:
            RequestRejected: something is wrong with the request; the message names the parameter.
            RequestTooLarge: it is above the limit.
            RequestConflict: its id stands already, with other content.
            StoreError: Redis is away, full or refuses; where the request may stand by then, the message says its id.
        """
        checked = _traced(_request(request, parameters))
        packed = checked.encoded()
        request_id = checked.id or secrets.token_hex(_ID_BYTES)
        lifetime_s = (checked.timeout_s or self._run_limit_s) + self._retention_s
        verdict = await self._store.submit(
            request_id,
            request=packed,
            digest=checked.digest(),
            api=checked.api,
            model=checked.model,
            timeout_ms=_ms(checked.timeout_s or self._run_limit_s),
            retention_ms=_ms(self._retention_s),
            accepted=codec.encode_entry(Accepted(FORMAT_VERSION, UNFILLED, checked.api, checked.model)),
            tenant=checked.tenant,
            priority=checked.priority,
            retry_of=checked.retry_of,
        )
        if verdict.word == "conflict":
            raise RequestConflict(f"a request with id {request_id!r} stands and has other content: take a new id")
        status: Any = verdict.text("status")
        if status == "queued":
            lane = lane_of(checked.tenant, checked.priority)
            since_ms = verdict.number("submitted_ms")
            await self._enqueuer.enqueue(request_id, lane, since_ms=since_ms, lifetime_s=lifetime_s)
        return Submitted(request_id, verdict.word == "standing" and checked.id is not None, status)

    @overload
    def tail(
        self, request_id: str, after: str | None = None, *, snapshot: Literal[False] = False
    ) -> AsyncGenerator[Tailed, None]: ...

    @overload
    def tail(
        self, request_id: str, after: str | None = None, *, snapshot: bool
    ) -> AsyncGenerator[Snapshot | Tailed, None]: ...

    def tail(self, request_id: str, after: str | None = None, *, snapshot: bool = False) -> AsyncGenerator[Any, None]:
        """Follows a request: what its log has behind the cursor, then what comes, up to the terminal.

        A dropped connection is made good without loss or doubles. Use `contextlib.aclosing` where you may leave early.

        Args:
            request_id: the request.
            after: the cursor of the last item seen; None for all from the beginning.
            snapshot: without a cursor, begin with one `Snapshot` of all so far, and go on behind its cursor.

        Raises:
            UnknownRequest: no such id, or its lifetime is over.
            CursorInvalid: the cursor is malformed, or no entry of this log.
            StoreUnavailable: Redis could not be reached at the start, or was away for longer than `away_limit_s`.
        """
        if snapshot and after is None:
            return self._from_snapshot(request_id)
        return self._tail(tails.tailed, request_id, _cursor(request_id, after), None)

    async def _from_snapshot(self, request_id: str) -> AsyncGenerator[Snapshot | Tailed, None]:
        state = await self.snapshot(request_id)
        yield state
        async with aclosing(await self.open_tail(request_id, state.cursor)) as items:
            async for item in items:
                yield item

    async def open_tail(self, request_id: str, after: str | None = None) -> AsyncGenerator[Tailed, None]:
        """As `tail`, but looks at once: a wrong id or cursor is raised here, not at the first item."""
        return await self.open_tail_as(tails.tailed, request_id, after)

    async def open_tail_as(
        self,
        form: Callable[[str | None, bytes, ReaderEvent | None], _TailItem],
        request_id: str,
        after: str | None = None,
    ) -> AsyncGenerator[_TailItem, None]:
        """As `open_tail`, with items of another form: for who passes entries on, and need not decode them.

        Args:
            form: as of `tailrace.producers.tail.log_tail.tail`.
            request_id: the request.
            after: the cursor of the last item seen.
        """
        cursor = _cursor(request_id, after)
        seen = await tails.look(self._fanout.place(request_id), request_id, cursor)
        return self._tail(form, request_id, cursor, seen)

    def _tail(
        self,
        form: Callable[[str | None, bytes, ReaderEvent | None], _TailItem],
        request_id: str,
        cursor: EntryId,
        seen: Glimpse | None,
    ) -> AsyncGenerator[_TailItem, None]:
        place = self._fanout.place(request_id)
        mend = partial(self._enqueuer.mend, request_id)
        watch = StallWatch(partial(self._fanout.signs, request_id), mend, after_s=self._stalled_after_s)
        return tails.tail(place, request_id, cursor, seen, form, away_limit_s=self._away_limit_s, watch=watch)

    def collapsed(self, request_id: str, after: str | None = None) -> AsyncGenerator[Assembled, None]:
        """As `tail`, but after each item gives what the current attempt has come to so far, for those who render.

        It is one object, that changes: read of it what you show. What a later attempt voids is gone from it; nothing is
        final before `is_final`. Resumed, it begins with the state behind the cursor.
        """
        return _opened(partial(self.open_collapsed, request_id, after))

    async def open_collapsed(self, request_id: str, after: str | None = None) -> AsyncGenerator[Assembled, None]:
        """As `collapsed`, but looks at once, as `open_tail` does."""
        return collapsed(self._fanout, request_id, after, await self.open_tail(request_id, after))

    def letta(self, request_id: str, after: str | None = None) -> AsyncGenerator[LettaItem, None]:
        """As `tail`, each delta also in the Letta form, the same however often it is resumed."""
        return _opened(partial(self.open_letta, request_id, after))

    async def open_letta(self, request_id: str, after: str | None = None) -> AsyncGenerator[LettaItem, None]:
        """As `letta`, but looks at once, as `open_tail` does."""
        return letta(self._fanout, request_id, after, await self.open_tail(request_id, after))

    async def result(self, request_id: str, wait_s: float | None = 0.0) -> Outcome | None:
        """The outcome, or None when the request has not ended within `wait_s`.

        Args:
            request_id: the request.
            wait_s: how long to wait for its end; None for as long as it takes.

        Raises:
            UnknownRequest: no such id, or its lifetime is over.
            StoreUnavailable: Redis, or the database of outcomes where Redis has forgotten it, could not be reached.
        """
        try:
            outcome = await self._outcome(request_id)
            if outcome is None and wait_s != 0:
                with suppress(TimeoutError):
                    async with asyncio.timeout(wait_s):
                        await self._until_ended(request_id)
                outcome = await self._outcome(request_id)
            return outcome
        except UnknownRequest:
            return (await self.stored(request_id)).outcome

    async def stored(self, request_id: str) -> Stored:
        """What the database of outcomes has of a request, whatever Redis has.

        Raises:
            UnknownRequest: it has nothing of it, or there is no such database.
            ResultsUnavailable: it cannot be asked.
        """
        _check_known_form(request_id)
        found = await self._results.find(request_id) if self._results is not None else None
        if found is None:
            raise UnknownRequest.of(request_id)
        return found

    async def reach(self) -> None:
        """Raises StoreError where queue or logs do not answer."""
        await self._store.ping()

    async def cancel(self, request_id: str) -> CancelVerdict:
        """Asks to stop. What waits has ended when this returns; what runs is ended by its worker.

        Raises:
            UnknownRequest: no such id, or its lifetime is over.
            StoreError: Redis is away, full or refuses.
        """
        try:
            record = await self._record(request_id, "api", "model", "request", *COUNTS)
        except UnknownRequest:
            return CancelVerdict("finished", (await self.stored(request_id)).outcome.status)
        api: Any = record["api"].decode()
        request = decode_request(record["request"])
        outcome = Outcome(
            status="cancelled",
            request_id=request_id,
            submitted_at=UNFILLED,
            finished_at=UNFILLED,
            api=api,
            model=record["model"].decode(),
            retry_of=request.retry_of,
            metadata=request.metadata,
            **counts_of(record),
        )
        verdict = await self._store.cancel(
            request_id,
            terminal=codec.encode_entry(Cancelled(0)),
            outcome=codec.encode_outcome(outcome),
            hold_ms=OUTBOX_LIFETIME_S * 1000 if self._has_outbox else 0,
        )
        match verdict.word:
            case "ended":
                with suppress(StoreError):  # a worker that meets the job sees its end, and does the same
                    left = await self._store.queue.unqueue(request_id, lane_of(request.tenant, request.priority))
                    if left.word == "removed":
                        self._has_outbox = left.number("outbox") == 1
                return CancelVerdict("ended", "cancelled")
            case "signalled":
                return CancelVerdict("signalled", "running")
            case "finished":
                status: Any = verdict.text("status")
                return CancelVerdict("finished", status)
            case _:
                raise UnknownRequest.of(request_id)

    async def status(self, request_id: str) -> Status:
        """Where a request stands.

        Raises:
            UnknownRequest: no such id, or its lifetime is over.
            StoreUnavailable: Redis could not be reached.
        """
        try:
            return status_of(request_id, await self._record(request_id, *RECORD_FIELDS))
        except UnknownRequest:
            return status_of_stored(await self.stored(request_id))

    @property
    def following(self) -> Following:
        """How much this client follows just now."""
        return self._fanout.following

    async def overview(self, *, runs_max: int = overview.RUNS_MAX) -> overview.Overview:
        """What waits, what runs, who works, what died: for those who operate (`overview.look`)."""
        return await overview.look(self._store.queue, self._store, runs_max=runs_max)

    async def snapshot(self, request_id: str, *, merged: bool = False) -> Snapshot:
        """What a request has come to, merged, and the cursor behind which `tail` goes on: for whoever joins late.

        Args:
            request_id: the request.
            merged: merge deltas also where the request has ended; otherwise its outcome is the snapshot.

        Raises:
            UnknownRequest: no such id, or its lifetime is over.
            StoreUnavailable: Redis could not be reached.
        """
        _check_known_form(request_id)
        try:
            return await snapshot(self._fanout, request_id, merged=merged)
        except UnknownRequest:
            outcome = None if merged else await self.result(request_id)
            if outcome is None:
                raise
            return snapshot_of(outcome)

    async def tail_token(self, request_id: str, *, may_cancel: bool = False, lifetime_s: float = 3600.0) -> str:
        """A token with which a browser reads this request through the gateway, and nothing else.

        Args:
            request_id: the request; it must stand.
            may_cancel: whether the token's holder may also cancel it.
            lifetime_s: how long the token is valid.

        Raises:
            SettingsError: the client has no secrets to sign with (`TAILRACE_TOKEN_SECRETS`).
            UnknownRequest: no such id, or its lifetime is over.
            StoreUnavailable: Redis could not be reached.
        """
        if self._tokens is None:
            raise SettingsError("TAILRACE_TOKEN_SECRETS: is not set, and tokens are signed with it")
        tenant = (await self.status(request_id)).tenant
        expires_s = int(time.time() + lifetime_s)
        return self._tokens.mint(Grant(request_id, tenant, may_cancel, expires_s))

    async def _until_ended(self, request_id: str) -> None:
        """Follows the log from where it is now; its terminal and the outcome come in the same step."""
        seen = await tails.look(self._fanout.place(request_id), request_id, BEGINNING)
        last = str(seen.last.id)
        async with aclosing(self.tail(request_id, after=last)) as items:
            async for _ in items:
                pass

    async def _outcome(self, request_id: str) -> Outcome | None:
        record = await self._record(request_id, "outcome")
        return codec.decode_outcome(record["outcome"]) if "outcome" in record else None

    async def _record(self, request_id: str, *fields: str) -> dict[str, bytes]:
        _check_known_form(request_id)
        record = await self._fanout.record(request_id, *fields)
        if record is None:
            raise UnknownRequest.of(request_id)
        return record


async def _opened(opening: Callable[[], Awaitable[AsyncGenerator[_Item, None]]]) -> AsyncGenerator[_Item, None]:
    async with aclosing(await opening()) as items:
        async for item in items:
            yield item


def _request(request: GenerationRequest | Mapping[str, Any] | None, parameters: Mapping[str, Any]) -> GenerationRequest:
    if request is None:
        return parse_request(dict(parameters))
    if parameters:
        raise RequestRejected(f"{', '.join(parameters)}: give either a request or its parameters by name, not both")
    return request if isinstance(request, GenerationRequest) else parse_request(dict(request))


def _traced(request: GenerationRequest) -> GenerationRequest:
    """The request with the trace that this submit is part of, where it names none itself."""
    if request.traceparent is not None or (current := current_traceparent()) is None:
        return request
    return request.model_copy(update={"traceparent": current})


def _cursor(request_id: str, after: str | None) -> EntryId:
    """Where a tail is to begin, as a caller says it."""
    _check_known_form(request_id)
    return BEGINNING if after is None else EntryId.parse(after)


def _check_known_form(request_id: str) -> None:
    """An id of another form can never have been accepted, and must not become part of a key."""
    if REQUEST_ID_PATTERN.match(request_id) is None:
        raise UnknownRequest.of(request_id)


def _results(url: str, timeout_s: float) -> "Results":
    try:
        from tailrace.producers.results import Results
    except ImportError as error:
        raise SettingsError(SQL_MISSING) from error
    return Results(url, timeout_s=timeout_s)


def _ms(seconds: float) -> int:
    return max(1, round(seconds * 1000))
