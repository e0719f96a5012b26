"""The state of the queue and the workers, for operators. Nothing else depends on it.

Knows nothing of Redis commands or of how the overview is displayed.
"""

from collections.abc import Sequence
from typing import Literal, NamedTuple, Protocol

import msgspec

from tailrace.broker import scripts
from tailrace.broker.keys import WORKER_LIFETIME_S
from tailrace.producers.store import RecordedState
from tailrace.schemas.codec import decode_entry
from tailrace.schemas.deltas import RetryScheduled
from tailrace.schemas.errors import TailError
from tailrace.schemas.priority import DEFAULT_PRIORITY
from tailrace.schemas.worker_report import WorkerReport, decode_report

LANES_MAX = 1_000
WORKERS_MAX = 1_000
SILENT_S = 15.0
"""A worker without a report for this long is dead, hangs, or cannot reach Redis."""

RECORD_FIELDS = ("status", "model", "tenant", "priority", "submitted_ms", "started_ms", "failures")

RunState = Literal["running", "retrying", "handed_back", "unheld"]


class WaitingLane(msgspec.Struct, frozen=True):
    """The waiting requests of one tenant in one class; `oldest_s`: how long the oldest of them has waited."""

    priority: str
    tenant: str | None
    waiting: int
    oldest_s: float


class SeenWorker(msgspec.Struct, frozen=True):
    """A worker process; `silent_s`: how long ago it last reported."""

    name: str
    silent_s: float
    is_silent: bool
    report: WorkerReport


class Run(msgspec.Struct, frozen=True, kw_only=True):
    """A request that has started.

    Attributes:
        id: the request.
        state: `running`; `retrying`: it pauses before its next attempt; `handed_back`: it waits for another worker;
            `unheld`: its lease has expired and no worker has taken it over yet.
        attempt: the last attempt begun.
        model: the model it is for.
        tenant: the request's tenant, if it has one.
        priority: its priority class.
        age_s: seconds since it was submitted.
        running_s: seconds since the last attempt began.
        entries: entries of the last attempt.
        entries_per_s: average rate of the last attempt.
        failures: attempts that failed.
        crashes: workers that died or hung while they ran it.
        why: the reason for the pause.
        until: when the next attempt starts, ISO 8601.
    """

    id: str
    state: RunState
    attempt: int
    model: str
    tenant: str | None
    priority: str
    age_s: float
    running_s: float
    entries: int
    entries_per_s: float
    failures: int
    crashes: int
    why: str | None = None
    until: str | None = None


class Overview(msgspec.Struct, frozen=True, kw_only=True):
    """The state of the queue and the workers.

    Attributes:
        at_ms: the time of this overview, by the server's clock.
        waiting: requests that wait for a worker.
        oldest_s: how long the oldest of them has waited.
        deferred: jobs that are due later and have not started.
        begun: all requests that run or pause.
        dead: how many dead letters there are.
        outbox: outcomes that wait for the database, or are being written.
        outbox_oldest_s: how long the oldest of them has waited.
        outbox_refused: outcomes that the database rejected.
        lanes: the waiting requests, by class and tenant.
        workers: the worker processes.
        runs: requests that run or pause, up to `runs_max`; those whose lease or pause ends first.
    """

    at_ms: int
    waiting: int
    oldest_s: float
    deferred: int
    begun: int
    dead: int
    outbox: int = 0
    outbox_oldest_s: float = 0.0
    outbox_refused: int = 0
    lanes: list[WaitingLane]
    workers: list[SeenWorker]
    runs: list[Run]


class Held(NamedTuple):
    """What the queue knows of a request that has started."""

    id: str
    is_held: bool
    is_handed_back: bool
    attempt: int
    crashes: int


class QueueLook(Protocol):
    """What an overview needs of the queue."""

    async def overview(self, *, lanes_max: int, begun_max: int, workers_max: int) -> scripts.QueueOverview:
        """The queue's part."""
        ...


class RecordLook(Protocol):
    """What it needs of records and logs."""

    async def request_states(self, request_ids: Sequence[str], fields: Sequence[str]) -> list[RecordedState]:
        """The state of each in records and logs."""
        ...


async def look(queue: QueueLook, records: RecordLook, *, runs_max: int) -> Overview:
    """Reads the current state.

    Args:
        queue: the queue.
        records: records and logs of the requests in it.
        runs_max: for how many started requests to read record and log.

    Raises:
        StoreError: Redis is unreachable, or its user may not read the queue.
    """
    seen = await queue.overview(lanes_max=LANES_MAX, begun_max=runs_max, workers_max=WORKERS_MAX)
    return overview(seen, await records.request_states([one.id for one in held(seen)], RECORD_FIELDS))


def held(seen: scripts.QueueOverview) -> list[Held]:
    """The requests that have started."""
    return [
        Held(request_id.decode(errors="replace"), is_held == 1, is_handed_back == 1, attempt, crashes)
        for request_id, is_held, is_handed_back, attempt, crashes in seen.runs
    ]


def overview(seen: scripts.QueueOverview, states: Sequence[RecordedState]) -> Overview:
    """Combines what the queue, the records and the logs contain.

    Args:
        seen: the queue's part.
        states: those of `held(seen)`, in that order.
    """
    lanes = sorted((_lane(*lane, seen.now_ms) for lane in seen.lanes), key=lambda lane: -lane.oldest_s)
    workers = [found for worker in seen.workers if (found := _worker(*worker)) is not None]
    return Overview(
        at_ms=seen.now_ms,
        waiting=sum(lane.waiting for lane in lanes),
        oldest_s=max((lane.oldest_s for lane in lanes), default=0.0),
        deferred=seen.deferred,
        begun=seen.begun,
        dead=seen.dead,
        outbox=seen.outbox[0],
        outbox_oldest_s=seen.outbox_age_s,
        outbox_refused=seen.outbox[2],
        lanes=lanes,
        workers=sorted(workers, key=lambda worker: worker.name),
        runs=[_run(one, state, seen.now_ms) for one, state in zip(held(seen), states, strict=True)],
    )


def _lane(name: bytes, waiting: int, since_ms: bytes, now_ms: int) -> WaitingLane:
    priority, _, tenant = name.decode(errors="replace").partition(":")
    return WaitingLane(priority, tenant or None, waiting, max(now_ms - float(since_ms), 0.0) / 1000)


def _worker(name: bytes, left_ms: int, said: bytes) -> SeenWorker | None:
    try:
        report = decode_report(said)
    except ValueError:  # of another version
        return None
    silent_s = max(WORKER_LIFETIME_S - left_ms / 1000, 0.0)
    return SeenWorker(name.decode(errors="replace"), silent_s, silent_s > SILENT_S, report)


def _run(one: Held, state: RecordedState, now_ms: int) -> Run:
    record = {name: value.decode(errors="replace") for name, value in state.record.items()}
    pause = _pause(state.last.raw) if state.last else None
    submitted_ms, started_ms = int(record.get("submitted_ms", now_ms)), int(record.get("started_ms", now_ms))
    running_s = max(now_ms - started_ms, 0) / 1000
    attempt, entries = (state.last.id.attempt, state.last.id.seq) if state.last else (one.attempt, 0)
    return Run(
        id=one.id,
        state=_state(one, is_pausing=pause is not None),
        attempt=attempt,
        model=record.get("model", ""),
        tenant=record.get("tenant"),
        priority=record.get("priority", DEFAULT_PRIORITY),
        age_s=max(now_ms - submitted_ms, 0) / 1000,
        running_s=running_s,
        entries=entries,
        entries_per_s=round(entries / running_s, 2) if running_s > 0 else 0.0,
        failures=int(record.get("failures", 0)),
        crashes=one.crashes,
        why=pause.reason if pause else None,
        until=pause.until if pause else None,
    )


def _state(one: Held, *, is_pausing: bool) -> RunState:
    if one.is_held:
        return "retrying" if is_pausing else "running"
    return "handed_back" if one.is_handed_back else "unheld"


def _pause(last: bytes) -> RetryScheduled | None:
    try:
        entry = decode_entry(last)
    except TailError:  # of another version
        return None
    return entry if isinstance(entry, RetryScheduled) else None
