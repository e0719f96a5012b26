"""The part of a history that is about one request, decoded. Pure."""

from collections.abc import Iterable, Iterator
from datetime import datetime
from functools import cached_property

from tailrace.schemas.codec import decode_entry, decode_outcome
from tailrace.schemas.deltas import AttemptStarted, LogEntry
from tailrace.schemas.ids import EntryId
from tailrace.schemas.outcome import Outcome
from tests.fault.campaign.history import CancelCall, Disturbance, History, Reading, SubmitAnswer, UpstreamCall
from tests.fault.campaign.plan import FaultKind, PlannedRequest

KILLS: frozenset[FaultKind] = frozenset({"kill_worker", "kill_fleet"})
HANGS: frozenset[FaultKind] = frozenset({"hang_worker", "blackhole", "kill_server", "stop_server", "hang_server"})

COUNTED_S = 0.5
"""A request that has ended still counts against its tenant's limit for so long. Its slot is free only after the
acknowledgement, and a reader learns what the server saw before its reply, which a hung server may delay."""


class Case:
    """One request.

    Attributes:
        planned: its plan, with the end it must have.
        record: the fields of its record; None where there is none.
        raw: the entries of its log, as JSON.
        lease_s: the lease of the workers.
    """

    def __init__(self, history: History, planned: PlannedRequest) -> None:
        self.planned = planned
        self.id = planned.id
        self.lease_s = history.plan.form.lease_s
        self.record = history.final.records.get(planned.id)
        self._entries = history.final.logs.get(planned.id, [])
        self.raw = [raw for _, raw in self._entries]
        self.submits: list[SubmitAnswer] = []
        self.cancels: list[CancelCall] = []
        self.readings: list[Reading] = []
        self.calls: list[UpstreamCall] = []
        self._disturbances = history.disturbances
        self._ended = history.ended

    @property
    def accepted(self) -> bool:
        """Whether a client got an answer to its first submit."""
        return any(answer.first for answer in self.submits)

    @cached_property
    def log(self) -> list[tuple[EntryId, LogEntry]]:
        """The decoded entries of its log."""
        return [(EntryId.parse(entry_id), decode_entry(raw)) for entry_id, raw in self._entries]

    @cached_property
    def outcome(self) -> Outcome | None:
        """Its outcome."""
        raw = (self.record or {}).get("outcome")
        return None if raw is None else decode_outcome(raw.encode())

    @cached_property
    def _ran(self) -> tuple[float, float] | None:
        began = next((entry.at for _, entry in self.log if isinstance(entry, AttemptStarted)), None)
        if began is None:
            return None
        finished = int((self.record or {}).get("finished_ms", "0")) / 1000 or self._ended
        return datetime.fromisoformat(began).timestamp(), finished

    def was_running(self, moment: float) -> bool:
        """Whether it ran at that time, or had ended at most `COUNTED_S` seconds before."""
        return self._ran is not None and self._ran[0] <= moment <= self._ran[1] + COUNTED_S

    @property
    def tail_of_log(self) -> str:
        """The last entries, for violations."""
        return " ".join(f"{entry_id} {raw.decode()[:80]}" for entry_id, raw in self._entries[-3:])

    def ids(self, cursors: Iterable[str]) -> list[EntryId]:
        """Cursors as entry ids."""
        return [EntryId.parse(cursor) for cursor in cursors]

    @property
    def disturbed(self) -> list[Disturbance]:
        """The faults between its submit and its end."""
        began = min((answer.asked for answer in self.submits), default=0.0)
        finished = int((self.record or {}).get("finished_ms", "0")) / 1000 or self._ended
        return [what for what in self._disturbances if what.until >= began and what.began <= finished]

    @property
    def hangs(self) -> list[Disturbance]:
        """Those that stopped a worker."""
        return [what for what in self.disturbed if what.kind == "hang_worker"]

    @property
    def leases_lost(self) -> list[Disturbance]:
        """Those that can have cost a lease: the death of a worker, or half a lease without Redis or worker."""
        return [
            what
            for what in self.disturbed
            if what.kind in KILLS or (what.kind in HANGS and what.until - what.began >= self.lease_s / 2)
        ]


def cases(history: History) -> Iterator[Case]:
    """Yields every request of a history."""
    found = {planned.id: Case(history, planned) for planned in history.plan.requests}
    for answer in history.submits:
        found[answer.id].submits.append(answer)
    for cancel in history.cancels:
        found[cancel.id].cancels.append(cancel)
    for reading in history.readings:
        found[reading.id].readings.append(reading)
    for call in history.final.calls:
        if call.key in found:
            found[call.key].calls.append(call)
    yield from found.values()
