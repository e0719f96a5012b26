"""Everything a history has on one request, decoded. Pure."""

from collections.abc import Iterable, Iterator
from datetime import datetime
from functools import cached_property

from tailrace.schemas.codec import decode_entry, decode_outcome
from tailrace.schemas.deltas import AttemptStarted, LogEntry
from tailrace.schemas.ids import EntryId
from tailrace.schemas.outcome import Outcome
from tests.fault.campaign.history import Answered, CancelCall, Disturbance, History, Reading, UpstreamCall
from tests.fault.campaign.plan import FaultKind, PlannedRequest

DEADLY: frozenset[FaultKind] = frozenset({"kill_worker", "kill_fleet"})
SILENT: frozenset[FaultKind] = frozenset({"hang_worker", "blackhole", "kill_server", "stop_server", "hang_server"})

COUNTED_S = 0.5
"""A request that has ended counts as one of its tenant's until its acknowledgement has freed its place; and what a
reader is told was so when the server looked, not when the answer came: one that hangs puts both together."""


class Case:
    """One request.

    Attributes:
        planned: what was asked, and what it must come to.
        record: its fields; None where there is none.
        raw: the entries of its log, as JSON.
        lease_s: of the workers.
    """

    def __init__(self, history: History, planned: PlannedRequest) -> None:
        self.planned = planned
        self.id = planned.id
        self.lease_s = history.plan.form.lease_s
        self.record = history.final.records.get(planned.id)
        self._entries = history.final.logs.get(planned.id, [])
        self.raw = [raw for _, raw in self._entries]
        self.submits: list[Answered] = []
        self.cancels: list[CancelCall] = []
        self.readings: list[Reading] = []
        self.calls: list[UpstreamCall] = []
        self._disturbances = history.disturbances
        self._ended = history.ended

    @property
    def accepted(self) -> bool:
        """Whether somebody was told that it stands."""
        return any(answered.first for answered in self.submits)

    @cached_property
    def log(self) -> list[tuple[EntryId, LogEntry]]:
        """Its log."""
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
        """Whether it had begun by then, and had not ended, or not long before: it counts until it is acknowledged."""
        return self._ran is not None and self._ran[0] <= moment <= self._ran[1] + COUNTED_S

    @property
    def tail_of_log(self) -> str:
        """The last entries, for messages."""
        return " ".join(f"{entry_id} {raw.decode()[:80]}" for entry_id, raw in self._entries[-3:])

    def ids(self, cursors: Iterable[str]) -> list[EntryId]:
        """Cursors as entry ids."""
        return [EntryId.parse(cursor) for cursor in cursors]

    @property
    def disturbed(self) -> list[Disturbance]:
        """What was done to workers, server and network while it lived."""
        began = min((answered.asked for answered in self.submits), default=0.0)
        finished = int((self.record or {}).get("finished_ms", "0")) / 1000 or self._ended
        return [what for what in self._disturbances if what.until >= began and what.began <= finished]

    @property
    def hangs(self) -> list[Disturbance]:
        """Those in which a worker did nothing at all."""
        return [what for what in self.disturbed if what.kind == "hang_worker"]

    @property
    def leases_lost(self) -> list[Disturbance]:
        """Those of them that can have cost a lease: a worker's death, or silence for half a lease."""
        return [
            what
            for what in self.disturbed
            if what.kind in DEADLY or (what.kind in SILENT and what.until - what.began >= self.lease_s / 2)
        ]


def cases(history: History) -> Iterator[Case]:
    """Every request of a history."""
    found = {planned.id: Case(history, planned) for planned in history.plan.requests}
    for answered in history.submits:
        found[answered.id].submits.append(answered)
    for cancel in history.cancels:
        found[cancel.id].cancels.append(cancel)
    for reading in history.readings:
        found[reading.id].readings.append(reading)
    for call in history.final.calls:
        if call.key in found:
            found[call.key].calls.append(call)
    yield from found.values()
