"""Dead letters for operators: listing them, retrying them, dropping them.

Knows the order of steps of a retry. Knows nothing of Redis commands or of why requests become dead letters.
"""

import hashlib
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any, Protocol

import msgspec

from tailrace.producers.answers import Submission
from tailrace.producers.options import LISTED_MAX
from tailrace.schemas.codec import decode_job
from tailrace.schemas.deltas import ErrorInfo
from tailrace.schemas.errors import RequestRejected, TailraceError, UnknownRequest
from tailrace.schemas.request import GenerationRequest, decode_request, parse_request
from tailrace.schemas.times import iso_of_ms


class DeadLetter(msgspec.Struct, frozen=True, kw_only=True):
    """A request that failed permanently, or a job that is not a request.

    Attributes:
        id: the id of the job, which is that of the request; any text if another program enqueued the job.
        died_at: when it became a dead letter, by the server's clock, ISO 8601, UTC.
        error: the reason.
        attempt: the last attempt begun.
        failures: attempts that failed.
        crashes: workers that died or hung while they ran it.
        drains: workers that stopped and handed it back.
        tenant: the request's tenant, if it has one.
    """

    id: str
    died_at: str
    error: ErrorInfo
    attempt: int
    failures: int
    crashes: int
    drains: int
    tenant: str | None


class DeadLetterContent(msgspec.Struct, frozen=True, kw_only=True):
    """The content of a dead letter.

    Attributes:
        request: the request as submitted; None if there is none or it cannot be read.
        envelope: arq's envelope, if the job had no record or its envelope could not be read; cut at 256 KiB.
    """

    request: dict[str, Any] | None
    envelope: bytes | None


class LetterStore(Protocol):
    """The part of the store that dead letters need."""

    async def letters(self, limit: int) -> Sequence[tuple[str, Mapping[str, bytes]]]:
        """The dead letters without their contents, newest first."""
        ...

    async def letter(self, job_id: str) -> Mapping[str, bytes] | None:
        """One dead letter with its content; None if there is none."""
        ...

    async def drop_letter(self, job_id: str) -> bool:
        """Removes a dead letter; False if there was none."""
        ...


class RecordStore(Protocol):
    """The part of the records that dead letters need."""

    async def record(self, request_id: str, *fields: str) -> Mapping[str, bytes] | None:
        """Fields of the record; None if there is no record."""
        ...


class DeadLetters:
    """The dead-letter list: `client.dead`.

    Args:
        store: holds the list.
        records: holds the requests, for one that is too large for a dead letter.
        submit: submits a request.
    """

    def __init__(
        self,
        store: LetterStore,
        records: RecordStore,
        submit: Callable[[GenerationRequest], Awaitable[Submission]],
    ) -> None:
        self._store = store
        self._records = records
        self._submit = submit

    async def list(self, limit: int = LISTED_MAX) -> list[DeadLetter]:
        """The list, newest first. Raises StoreError."""
        return [_letter(job_id, fields) for job_id, fields in await self._store.letters(limit)]

    async def show(self, job_id: str) -> tuple[DeadLetter, DeadLetterContent]:
        """One dead letter and its content.

        Raises:
            UnknownRequest: the list does not contain it.
            StoreError: Redis is unreachable, or it refuses.
        """
        fields = await self._fields(job_id)
        request = await self._request(job_id, fields)
        content = request.model_dump(exclude_none=True, exclude_defaults=True) if request else None
        return _letter(job_id, fields), DeadLetterContent(request=content, envelope=fields.get("envelope"))

    async def retry(self, job_id: str) -> Submission:
        """Submits the same content as a new request that names the old one, and removes the dead letter.

        A dead letter is retried once, however many callers do this at once: the new id is derived from it.

        Raises:
            UnknownRequest: the list does not contain it.
            RequestRejected: it has no request that can run.
            StoreError: Redis is unreachable or full, or it refuses; the call may be repeated.
        """
        fields = await self._fields(job_id)
        request = await self._request(job_id, fields)
        if request is None:
            raise RequestRejected(
                f"dead letter {job_id[:80]!r} has no request that can run, or the request was too large to be kept: "
                "submit it again, and drop this one"
            )
        again = request.model_copy(update={"id": _retry_id(job_id, fields["died_ms"]), "retry_of": job_id[:256]})
        submitted = await self._submit(again)
        await self._store.drop_letter(job_id)
        return submitted

    async def drop(self, job_id: str) -> None:
        """Removes a dead letter.

        Raises:
            UnknownRequest: the list does not contain it.
            StoreError: Redis is unreachable, or it refuses.
        """
        if not await self._store.drop_letter(job_id):
            raise _no_letter(job_id)

    async def _fields(self, job_id: str) -> Mapping[str, bytes]:
        fields = await self._store.letter(job_id)
        if fields is None:
            raise _no_letter(job_id)
        return fields

    async def _request(self, job_id: str, fields: Mapping[str, bytes]) -> GenerationRequest | None:
        """The request: from the dead letter, from the record if it is too large for that, or from the job."""
        packed = fields.get("request")
        if packed is None and (record := await self._records.record(job_id, "request")):
            packed = record.get("request")
        try:
            if packed is not None:
                return decode_request(packed)
            return parse_request(_carried(fields.get("envelope", b"")))
        except RequestRejected:
            return None


def _carried(envelope: bytes) -> dict[str, Any]:
    """The request that a job has as its second argument. The envelope is untrusted."""
    try:
        carried: Any = decode_job(envelope)["a"][1]
    except (msgspec.MsgspecError, LookupError, TypeError) as error:
        raise RequestRejected("the job carries no request") from error
    if not isinstance(carried, dict):
        raise RequestRejected("the job carries no request")
    return {**carried, "id": None}


def _retry_id(job_id: str, died_ms: bytes) -> str:
    return "retry-" + hashlib.sha256(b"%b %b" % (job_id.encode(), died_ms)).hexdigest()[:32]


def _no_letter(job_id: str) -> TailraceError:
    return UnknownRequest(f"there is no dead letter {job_id[:80]!r}; `tailrace dead list` shows all of them")


def _letter(job_id: str, fields: Mapping[str, bytes]) -> DeadLetter:
    return DeadLetter(
        id=job_id,
        died_at=iso_of_ms(int(fields["died_ms"])),
        error=msgspec.json.decode(fields["error"], type=ErrorInfo),
        attempt=int(fields["attempt"]),
        failures=int(fields["failures"]),
        crashes=int(fields["crashes"]),
        drains=int(fields["drains"]),
        tenant=fields["tenant"].decode() if "tenant" in fields else None,
    )
