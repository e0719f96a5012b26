"""`Client`, the interface for web tiers: submit, tail, result, cancel, status and more.

Documents and delegates; the work is in `producers/parts.py`, which is imported when a client first connects.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any, Self

from tailrace.producers.options import RUNS_MAX, ClientOptions
from tailrace.schemas.errors import SettingsError, UnknownRequest
from tailrace.schemas.ids import check_known_form

if TYPE_CHECKING:
    from collections.abc import Mapping
    from types import TracebackType

    from tailrace.producers.answers import CancelResult, Status, Submission
    from tailrace.producers.parts import ClientParts
    from tailrace.producers.queue.dead_letters import DeadLetters
    from tailrace.producers.queue.overview import Overview
    from tailrace.producers.tail.fanout.fanout import Following
    from tailrace.producers.tail.snapshot import Snapshot
    from tailrace.producers.tail.tail import Stream, Tail
    from tailrace.schemas.outcome import Outcome
    from tailrace.schemas.request import GenerationRequest
    from tailrace.schemas.results import Stored
    from tailrace.schemas.settings import Settings


class Client:
    """A connection to Tailrace's Redis, for use in one event loop.

    `async with Client(url) as client` connects at once. A client that is not entered connects when it is first used;
    end it with `aclose`.

    Args:
        url: the Redis with records and logs: `redis://`, `rediss://`, `unix://`, `redis+sentinel://` or
            `redis+cluster://`, with TLS as `rediss+...`.
        options: everything else.

    Raises, when entered or first used:
        SettingsError: a URL cannot be used.
        StoreUnavailable: Redis is unreachable.
        StoreRefused: Redis refuses, for example because of a wrong password.
    """

    def __init__(self, url: str, options: ClientOptions | None = None) -> None:
        self._url = url
        self._options = options or ClientOptions()
        self._made: ClientParts | None = None

    @classmethod
    def from_settings(cls, settings: Settings) -> Self:
        """A client for the servers that the `TAILRACE_*` settings of a process name."""
        return cls(settings.log_url, ClientOptions.from_settings(settings))

    async def __aenter__(self) -> Self:
        try:
            await self.ping()
        except BaseException:
            await self.aclose()
            raise
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await self.aclose()

    async def aclose(self) -> None:
        """Closes all connections; running tails fail. A later call connects again."""
        parts, self._made = self._made, None
        if parts is not None:
            await parts.aclose()

    async def submit(
        self, request: GenerationRequest | Mapping[str, Any] | None = None, /, **parameters: Any
    ) -> Submission:
        """Accepts a request and enqueues it. The same id and content are enqueued once, however often submitted.

        A call that failed with `StoreError` may be repeated. With an id of the caller's own it cannot run twice.

        Args:
            request: the request, or its parameters as a dict. Or pass the parameters by name.

        Raises:
            RequestRejected: something is wrong with the request; the message names the parameter.
            RequestTooLarge: the request is larger than the limit.
            RequestConflict: a request with this id exists and has other content.
            StoreError: Redis is unreachable or full, or it refuses. If the request may exist nevertheless, the message
                contains its id.
        """
        from tailrace.producers.queue.submit import request_given

        return await self._parts.submitter.submit_request(request_given(request, parameters))

    def stream(self, request: GenerationRequest | Mapping[str, Any] | None = None, /, **parameters: Any) -> Stream:
        """Submits a request and tails it: `async for tailed in client.stream(request)`.

        It is submitted when the stream is entered, or else before its first item. Leaving the stream early does not
        cancel the request; `stream.request_id` is there to tail or cancel it.

        Args:
            request: as in `submit`.

        Raises:
            RequestRejected: as in `submit`; the stream itself raises as `submit` and `tail` do.
        """
        from tailrace.producers.queue.submit import new_request_id, request_given
        from tailrace.producers.tail.tail import Stream

        given = request_given(request, parameters)
        request_id, parts = given.id or new_request_id(), self._parts
        return Stream(parts.tails, request_id, lambda: parts.submitter.submit_request(given, request_id))

    def tail(self, request_id: str, after: str | None = None) -> Tail:
        """Follows a request: the entries of its log after the cursor, then new ones, up to the terminal.

        Args:
            request_id: the request.
            after: the cursor of the last item seen; None for everything from the beginning.
        """
        return self._parts.tail(request_id, after)

    async def result(self, request_id: str, wait_s: float | None = 0.0) -> Outcome | None:
        """The outcome; None if the request has not ended within `wait_s`.

        Args:
            request_id: the request.
            wait_s: how many seconds to wait for the end, and for a request that does not exist yet: after a plain
                `enqueue_job`, it exists when a worker takes it. None waits without limit, but only for a request that
                exists.

        Raises:
            UnknownRequest: no request has this id within `wait_s`, or its lifetime is over.
            StoreUnavailable: Redis is unreachable, or so is the database of outcomes for a request that Redis no
                longer has.
        """
        return await self._parts.lookup.result(request_id, wait_s)

    async def stored(self, request_id: str) -> Stored:
        """The row of a request in the database of outcomes, whether or not Redis has the request.

        Raises:
            UnknownRequest: there is no such row, or no such database.
            ResultsUnavailable: the database is unreachable.
        """
        return await self._parts.lookup.stored(request_id)

    async def snapshot(self, request_id: str, *, merged: bool = False) -> Snapshot:
        """The state of a request, its deltas merged, and the cursor from which `tail` continues.

        Args:
            request_id: the request.
            merged: merge the deltas also if the request has ended; otherwise the snapshot of such a request is its
                outcome.

        Raises:
            UnknownRequest: no request has this id, or its lifetime is over.
            StoreUnavailable: Redis is unreachable.
        """
        return await self._parts.lookup.snapshot(request_id, merged=merged)

    async def cancel(self, request_id: str) -> CancelResult:
        """Cancels a request. One that waits has ended when this returns; one that runs is ended by its worker.

        Raises:
            UnknownRequest: no request has this id, or its lifetime is over.
            StoreError: Redis is unreachable or full, or it refuses.
        """
        from tailrace.producers.answers import CancelResult

        check_known_form(request_id)
        try:
            return await self._parts.canceller.cancel_request(request_id)
        except UnknownRequest:
            return CancelResult("finished", (await self.stored(request_id)).outcome.status)

    async def status(self, request_id: str) -> Status:
        """The state of a request.

        Raises:
            UnknownRequest: no request has this id, or its lifetime is over.
            StoreUnavailable: Redis is unreachable.
        """
        return await self._parts.lookup.status(request_id)

    async def tail_token(self, request_id: str, *, may_cancel: bool = False, lifetime_s: float = 3600.0) -> str:
        """A token with which a browser reads this request through the gateway, and nothing else.

        Args:
            request_id: the request; it must exist.
            may_cancel: whether the holder of the token may also cancel the request.
            lifetime_s: how many seconds the token is valid.

        Raises:
            SettingsError: the client has no secrets to sign with (`ClientOptions.tokens`, `TAILRACE_TOKEN_SECRETS`).
            UnknownRequest: no request has this id, or its lifetime is over.
            StoreUnavailable: Redis is unreachable.
        """
        from tailrace.producers.tokens import Grant

        if self._options.tokens is None:
            raise SettingsError("TAILRACE_TOKEN_SECRETS: is not set, and tokens are signed with it")
        tenant = (await self.status(request_id)).tenant
        expires_s = int(time.time() + lifetime_s)
        return self._options.tokens.mint(Grant(request_id, tenant, may_cancel, expires_s))

    @property
    def dead(self) -> DeadLetters:
        """The dead-letter list."""
        return self._parts.dead

    async def overview(self, *, runs_max: int = RUNS_MAX) -> Overview:
        """Waiting and running requests, workers and the number of dead letters, for operators.

        Args:
            runs_max: how many running requests to describe at most.

        Raises:
            StoreError: Redis is unreachable, or its user may not read the queue.
        """
        from tailrace.producers.queue.overview import look

        store = self._parts.store
        return await look(store.queue, store, runs_max=runs_max)

    @property
    def following(self) -> Following:
        """How many tails of how many requests run in this client."""
        from tailrace.producers.tail.fanout.fanout import Following

        return self._made.fanout.following if self._made is not None else Following(0, 0, 0)

    async def ping(self) -> None:
        """Raises StoreError if one of the Redis servers does not answer."""
        await self._parts.store.ping()

    @property
    def _parts(self) -> ClientParts:
        if self._made is None:
            from tailrace.producers.parts import ClientParts

            self._made = ClientParts(self._url, self._options)
        return self._made
