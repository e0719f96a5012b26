"""Dead letters for those who look after the system: what died, why, and another try.

Knows the order of steps of a retry. Knows nothing of Redis commands, and nothing of how requests come to die.
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
    """A request, or a job that never was one, that could not be brought to a good end.

    Attributes:
        id: of the job, and so of the request; any text, where somebody enqueued something else.
        died_at: when its end was written, ISO 8601, UTC, by the server's clock.
        error: why.
        attempt: the last attempt begun.
        failures: attempts that failed.
        crashes: workers that died or hung with it.
        drains: workers that went and handed it back.
        tenant: on whose behalf.
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
    """What there is of a dead letter beside its reason.

    Attributes:
        request: as submitted, JSON-able; None where there is none, or none that can be read.
        envelope: arq's, where the job had no record or its envelope could not be read. Cut at 256 KiB.
    """

    request: dict[str, Any] | None
    envelope: bytes | None


class LetterStore(Protocol):
    """What this needs of the store."""

    async def letters(self, limit: int) -> Sequence[tuple[str, Mapping[str, bytes]]]:
        """The newest letters first, without their contents."""
        ...

    async def letter(self, job_id: str) -> Mapping[str, bytes] | None:
        """One letter, whole."""
        ...

    async def drop_letter(self, job_id: str) -> bool:
        """Takes a letter out of the list; False when it was not there."""
        ...


class RecordStore(Protocol):
    """What this needs of records."""

    async def record(self, request_id: str, *fields: str) -> Mapping[str, bytes] | None:
        """Fields of the record; None when there is no record."""
        ...


class DeadLetters:
    """The dead-letter list: `client.dead`.

    Args:
        store: where it stands.
        records: where requests do, for one too large for a letter.
        submit: how a request is submitted.
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
        """One letter and its contents.

        Raises:
            UnknownRequest: it is not in the list, or not any more.
            StoreError: Redis could not be asked.
        """
        fields = await self._fields(job_id)
        request = await self._request(job_id, fields)
        content = request.model_dump(exclude_none=True, exclude_defaults=True) if request else None
        return _letter(job_id, fields), DeadLetterContent(request=content, envelope=fields.get("envelope"))

    async def retry(self, job_id: str) -> Submission:
        """Submits the same content as a new request that names the old one, and takes the letter out of the list.

        However often it is called, and by whomever, a letter is retried once: the new id follows from it.

        Raises:
            UnknownRequest: it is not in the list, or not any more.
            RequestRejected: there is no request in it that could be run.
            StoreError: Redis is away, full or refuses; call it again.
        """
        fields = await self._fields(job_id)
        request = await self._request(job_id, fields)
        if request is None:
            raise RequestRejected(
                f"dead letter {job_id[:80]!r} holds no request that can be run, or it was too large to be kept: "
                "submit it anew, and drop this one"
            )
        again = request.model_copy(update={"id": _retry_id(job_id, fields["died_ms"]), "retry_of": job_id[:256]})
        submitted = await self._submit(again)
        await self._store.drop_letter(job_id)
        return submitted

    async def drop(self, job_id: str) -> None:
        """Takes a letter out of the list.

        Raises:
            UnknownRequest: it is not in the list.
            StoreError: Redis is away or refuses.
        """
        if not await self._store.drop_letter(job_id):
            raise _no_letter(job_id)

    async def _fields(self, job_id: str) -> Mapping[str, bytes]:
        fields = await self._store.letter(job_id)
        if fields is None:
            raise _no_letter(job_id)
        return fields

    async def _request(self, job_id: str, fields: Mapping[str, bytes]) -> GenerationRequest | None:
        """Out of the letter; out of the record, for one too large for letters; out of the job that carried it."""
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
    """The request that a job carries whole, as second argument. The envelope is anybody's: it may be anything."""
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
    return UnknownRequest(f"there is no dead letter {job_id[:80]!r}; `tailrace dead list` shows those there are")


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
