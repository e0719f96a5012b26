"""Submitting a request: record and first log entry, then the queue.

Knows the order of steps. Knows nothing of Redis commands or of arq.
"""

import secrets
from collections.abc import Mapping
from typing import Any

from tailrace.broker.keys import lane_of
from tailrace.broker.scripts import SubmitStatus
from tailrace.producers.answers import Submission
from tailrace.producers.queue.enqueue import Enqueuer
from tailrace.producers.store import ProducerStore
from tailrace.producers.tracing import current_traceparent
from tailrace.schemas import codec
from tailrace.schemas.deltas import FORMAT_VERSION, Accepted
from tailrace.schemas.errors import RequestConflict, RequestRejected
from tailrace.schemas.outcome import UNFILLED
from tailrace.schemas.request import GenerationRequest, parse_request

_ID_BYTES = 16


class Submitter:
    """Accepts requests.

    Args:
        store: the Redis, connected.
        enqueuer: enqueues accepted requests.
        run_limit_s: how long a request may take, if it does not set `timeout_s` itself.
        retention_s: how long log and record are kept after the end.
    """

    def __init__(self, store: ProducerStore, enqueuer: Enqueuer, *, run_limit_s: float, retention_s: float) -> None:
        self._store = store
        self._enqueuer = enqueuer
        self._run_limit_s = run_limit_s
        self._retention_s = retention_s

    async def submit_request(self, request: GenerationRequest, request_id: str | None = None) -> Submission:
        """Accepts a request and enqueues it; errors as in `Client.submit`.

        Args:
            request: the request.
            request_id: the id for a request that has none; by default a new one.
        """
        traced = _with_trace(request)
        packed = traced.encoded()
        chosen = traced.id or request_id or new_request_id()
        run_limit_s = traced.timeout_s or self._run_limit_s
        verdict = await self._store.submit(
            chosen,
            request=packed,
            digest=traced.digest(),
            api=traced.api,
            model=traced.model,
            timeout_ms=_ms(run_limit_s),
            retention_ms=_ms(self._retention_s),
            accepted=codec.encode_entry(Accepted(FORMAT_VERSION, UNFILLED, traced.api, traced.model)),
            tenant=traced.tenant,
            priority=traced.priority,
            retry_of=traced.retry_of,
        )
        if verdict.status is SubmitStatus.CONFLICT:
            raise RequestConflict(f"a request with id {chosen!r} exists and has other content: use a new id")
        status: Any = verdict.text("status")
        if status == "queued":
            await self._enqueuer.enqueue_request(
                chosen,
                lane_of(traced.tenant, traced.priority),
                since_ms=verdict.number("submitted_ms"),
                lifetime_s=run_limit_s + self._retention_s,
            )
        return Submission(chosen, verdict.status is SubmitStatus.EXISTS and traced.id is not None, status)


def request_given(
    request: GenerationRequest | Mapping[str, Any] | None, parameters: Mapping[str, Any]
) -> GenerationRequest:
    """The request of a call that gives it as an object, as a dict or by named parameters.

    Raises:
        RequestRejected: it is not valid, or it is given in two ways.
    """
    if request is None:
        return parse_request(dict(parameters))
    if parameters:
        raise RequestRejected(f"{', '.join(parameters)}: give either a request or its parameters by name, not both")
    return request if isinstance(request, GenerationRequest) else parse_request(dict(request))


def new_request_id() -> str:
    """An id that cannot be guessed."""
    return secrets.token_hex(_ID_BYTES)


def _with_trace(request: GenerationRequest) -> GenerationRequest:
    """The request with the current span of the application, if it does not name one itself."""
    if request.traceparent is not None or (current := current_traceparent()) is None:
        return request
    return request.model_copy(update={"traceparent": current})


def _ms(seconds: float) -> int:
    return max(1, round(seconds * 1000))
