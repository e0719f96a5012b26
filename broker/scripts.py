"""The table of Lua scripts: their keys, their arguments, and the statuses they answer with.

A client may repeat a script whose reply was lost: all are idempotent, but for `next_attempt`, which may skip a number.
Knows how a script is called and read, not how it is sent (`script_runner.py`).
"""

from enum import StrEnum
from math import isfinite
from typing import Any, NamedTuple

from tailrace.broker.script import Script, VerdictReader
from tailrace.schemas.priority import DEFAULT_PRIORITY


class SubmitStatus(StrEnum):
    """Whether a request was accepted."""

    ACCEPTED = "accepted"
    EXISTS = "exists"
    """The same request was submitted before; `status`, `submitted_ms`."""
    CONFLICT = "conflict"
    """Another request has this id."""


class BeginStatus(StrEnum):
    """Whether an attempt has taken over the log."""

    BEGUN = "begun"
    RESUMED = "resumed"
    """It had already done so, but the reply was lost."""
    STALE = "stale"
    """A later attempt has begun: `attempt`."""
    ENDED = "ended"
    """The request has ended: `status`."""
    UNKNOWN = "unknown"
    """Record or log are gone."""


class FailStatus(StrEnum):
    """Whether a failed attempt was counted."""

    COUNTED = "counted"
    STALE = "stale"


class FinishStatus(StrEnum):
    """Whether the end of a request was written."""

    FINISHED = "finished"
    ALREADY_DONE = "already_done"
    """This attempt had already written it, but the reply was lost."""
    STALE = "stale"
    """A later attempt has begun: `attempt`."""
    ENDED = "ended"
    """The request has ended in another way: `status`."""
    UNKNOWN = "unknown"
    """Record or log are gone."""
    GAP = "gap"
    """The log ends before the terminal entry's predecessor, at `last_id`: a failover has lost entries."""


class ReadFailureStatus(StrEnum):
    """What the record of a request has for the dead-letter list."""

    DEAD = "dead"
    NOT_DEAD = "not_dead"
    NO_RECORD = "no_record"


class AddDeadLetterStatus(StrEnum):
    """A dead letter is always added."""

    ADDED = "added"


class CancelStatus(StrEnum):
    """What a cancel has done."""

    ENDED = "ended"
    SIGNALLED = "signalled"
    """A worker runs the request, and ends it."""
    FINISHED = "finished"
    """It had ended before: `status`."""
    UNKNOWN = "unknown"


class StoredStatus(StrEnum):
    """Whether a record was released from waiting for the database."""

    RELEASED = "released"
    KEPT = "kept"
    UNKNOWN = "unknown"


class ReleaseStatus(StrEnum):
    """Whether a draining owner has given a request back."""

    RELEASED = "released"
    STALE = "stale"


class SignsStatus(StrEnum):
    """Whether any worker deals with a request."""

    HELD = "held"
    WAITING = "waiting"
    LOST = "lost"


class EnqueueStatus(StrEnum):
    """Whether a request was put into the queue."""

    ENQUEUED = "enqueued"
    EXISTS = "exists"


class UnqueueStatus(StrEnum):
    """Whether an ended request has left the queue."""

    REMOVED = "removed"
    HELD = "held"
    UNFINISHED = "unfinished"
    """Its record has no end: a failover has lost it."""


class AcknowledgeStatus(StrEnum):
    """Whether a job has left the queue."""

    ACKNOWLEDGED = "acknowledged"
    ALREADY_DONE = "already_done"
    STALE = "stale"
    """The job is another owner's."""
    UNFINISHED = "unfinished"
    """The record of its request has no end: a failover has lost it."""


class HandBackStatus(StrEnum):
    """Whether a job was handed back."""

    HANDED_BACK = "handed_back"
    ALREADY_DONE = "already_done"
    STALE = "stale"
    """The job is another owner's."""


class NoteQuarantineStatus(StrEnum):
    """Whether the note was written."""

    NOTED = "noted"
    STALE = "stale"


class AnnounceStatus(StrEnum):
    """Whether a worker is listed now."""

    NOTED = "noted"
    GONE = "gone"


class NextAttemptStatus(StrEnum):
    """Whether a number was issued."""

    MINTED = "minted"
    STALE = "stale"


class ClaimedJob(NamedTuple):
    """A job that claim returned.

    Attributes:
        blamed: whether a worker died while this job was alone in quarantine.
        score: when it was due, in ms.
        envelope: arq's, empty when it has expired.
    """

    id: str
    attempt: int
    why: str
    crashes: int
    blamed: bool
    score: int
    envelope: bytes


class Claim(NamedTuple):
    """The answer of claim. `next_s`: until the next job is due, None without one; `left`: whether some are due now."""

    jobs: list[ClaimedJob]
    next_s: float | None
    left: bool


class QueueOverview(NamedTuple):
    """The answer of overview. `lanes`: lane, how many wait, since when in ms. `runs`: id, under a lease, handed back,
    attempt, crashes. `workers`: name, ms until its report expires, the report. `outbox`: how many outcomes wait for
    their database, since when in ms, how many it has refused."""

    now_ms: int
    begun: int
    dead: int
    deferred: int
    lanes: list[tuple[bytes, int, bytes]]
    runs: list[tuple[bytes, int, int, int, int]]
    workers: list[tuple[bytes, int, bytes]]
    outbox: tuple[int, int, int]

    @property
    def outbox_age_s(self) -> float:
        """How long the outcome that waits longest for the database has waited."""
        since_ms = self.outbox[1]
        return max(self.now_ms - since_ms, 0) / 1000 if since_ms >= 0 else 0.0


def _read_claim(reply: list[bytes]) -> Claim:
    """Leaves out ids that are not text: arq cannot have enqueued them, and they must not break a worker."""
    next_ms, left, *fields = reply
    jobs = [
        ClaimedJob(job_id.decode(), int(attempt), why.decode(), int(crashes), blamed == b"1", _whole(score), envelope)
        for job_id, attempt, why, crashes, blamed, score, envelope in zip(*[iter(fields)] * 7, strict=True)
        if _is_text(job_id)
    ]
    return Claim(jobs, None if next_ms == b"-1" else int(next_ms) / 1000, left == b"1")


def _read_lost(reply: list[bytes]) -> frozenset[str]:
    return frozenset(job_id.decode() for job_id in reply)


def _read_overview(reply: list[Any]) -> QueueOverview:
    return QueueOverview(*reply)


def _is_text(job_id: bytes) -> bool:
    try:
        job_id.decode()
    except UnicodeDecodeError:
        return False
    return True


def _whole(score: bytes) -> int:
    """A score in ms; 0 for an infinite one, which only other programs write."""
    number = float(score)
    return int(number) if isfinite(number) else 0


# On one request's record and log.

SUBMIT = Script(
    "submit",
    keys="rec log",
    args="request digest api model timeout_ms retention_ms accepted tenant priority retry_of",
    read=VerdictReader(SubmitStatus),
    optional={"tenant": "", "priority": DEFAULT_PRIORITY, "retry_of": ""},
)
BEGIN = Script(
    "begin",
    keys="rec log",
    args="attempt token attempt_started crashes",
    read=VerdictReader(BeginStatus),
    optional={"crashes": 0},
)
FAIL = Script("fail", keys="rec", args="attempt token failures", read=VerdictReader(FailStatus))
FINISH = Script(
    "finish",
    keys="rec log",
    args="attempt token terminal_id terminal outcome status failures error dead keep_record_ms",
    read=VerdictReader(FinishStatus),
    optional={"failures": 0, "error": "", "dead": 0, "keep_record_ms": 0},
)
READ_FAILURE = Script("read_failure", keys="rec", args="bytes_max", read=VerdictReader(ReadFailureStatus))
CANCEL = Script(
    "cancel",
    keys="rec log",
    args="id terminal outcome keep_record_ms",
    read=VerdictReader(CancelStatus),
    optional={"keep_record_ms": 0},
)
STORED = Script("stored", keys="rec", args="attempt", read=VerdictReader(StoredStatus))
RELEASE = Script("release", keys="rec", args="attempt token", read=VerdictReader(ReleaseStatus))

# On the queue.

ENQUEUE = Script(
    "enqueue",
    keys="queue lease job",
    args="id lane envelope life_ms since_ms",
    read=VerdictReader(EnqueueStatus),
    lanes=True,
)
UNQUEUE = Script(
    "unqueue",
    keys="queue lease state job retry outbox",
    args="id lane",
    read=VerdictReader(UnqueueStatus),
    lanes=True,
)
CLAIM = Script(
    "claim",
    keys="queue",
    args="limit lease_ms token is_repeat tenant_limit tenant_limits",
    read=_read_claim,
    optional={"tenant_limit": 0, "tenant_limits": b"\x80"},  # no limit, an empty map in msgpack
    lanes=True,
)
RENEW = Script("renew", keys="queue", args="lease_ms leases", read=_read_lost, lanes=True)
ACKNOWLEDGE = Script(
    "acknowledge",
    keys="queue lease state job retry abort outbox",
    args="id token attempt",
    read=VerdictReader(AcknowledgeStatus),
    lanes=True,
)
HAND_BACK = Script(
    "hand_back",
    keys="queue lease state",
    args="id token attempt delay_ms why cut_off",
    read=VerdictReader(HandBackStatus),
    optional={"cut_off": 0},
    lanes=True,
)
NEXT_ATTEMPT = Script(
    "next_attempt",
    keys="lease state",
    args="token above",
    read=VerdictReader(NextAttemptStatus),
    optional={"above": 0},
)
NOTE_QUARANTINE = Script(
    "note_quarantine", keys="lease state", args="token alone", read=VerdictReader(NoteQuarantineStatus)
)
SIGNS = Script("signs", keys="lease queue health", args="id lane since_ms", read=VerdictReader(SignsStatus), lanes=True)
ADD_DEAD_LETTER = Script(
    "add_dead_letter",
    keys="dead dead_letter job",
    args="id error died_ms attempt failures crashes drains tenant request with_envelope life_ms entries_max bytes_max",
    read=VerdictReader(AddDeadLetterStatus),
    optional={"died_ms": 0, "attempt": 0, "failures": 0, "drains": 0, "tenant": "", "request": ""},
)
ANNOUNCE = Script("announce", keys="workers worker", args="name gone life_ms", read=VerdictReader(AnnounceStatus))
OVERVIEW = Script(
    "overview",
    keys="queue workers dead outbox refused",
    args="lanes_max begun_max workers_max",
    read=_read_overview,
    lanes=True,
)
