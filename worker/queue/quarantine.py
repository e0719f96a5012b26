"""Quarantine: jobs whose workers have died repeatedly begin in small groups, while no other jobs begin.

A worker that dies takes every job of its process with it, so a crash counts against all of them. Only a job that was
alone in quarantine is ended for it (docs/decisions/retries-and-failures.md). Knows neither Redis nor what jobs do.
"""

import asyncio
import logging
import random
import sys
from math import inf
from time import monotonic
from typing import NamedTuple, Protocol

from tailrace.broker.backoff import Retries, retry_until_answered
from tailrace.broker.scripts import ClaimedJob
from tailrace.telemetry.logging import fields
from tailrace.worker.queue.leases import Lease
from tailrace.worker.queue.waiting import Change

GROUP_SIZES = (16, 4, 1)
"""The largest group at a job's first, second and every further quarantine."""

QUARANTINE_S = 2.0
LONGEST_S = 60.0
"""A quarantine lasts twice as long with each further crash, up to this, to find jobs that kill their worker late."""

_logger = logging.getLogger("tailrace.queue")


def kills_its_worker(job: ClaimedJob, max_crashes: int) -> bool:
    """Whether to end a job without another run: it reached the limit, and one crash can have no other cause.

    Args:
        job: the claimed job.
        max_crashes: how many leases may expire without a hand-back; with 1 the first crash is enough.
    """
    return job.crashes >= max_crashes and (job.blamed or max_crashes == 1)


class QuarantineStore(Protocol):
    """The script that the quarantine needs."""

    async def note_quarantine(self, lease: Lease, *, alone: bool) -> bool:
        """Notes whether the job is blamed if its worker dies. False if another worker owns it. Raises StoreError."""
        ...


class Postponed(NamedTuple):
    """The quarantine has no room for this job: it is handed back with a delay."""

    delay_s: float


class QuarantineGroup:
    """Jobs that begin together, while nothing else begins in their process. `Quarantine.admit_job` makes it."""

    def __init__(self) -> None:
        self._members: list[Lease] = []
        self._begun: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    @property
    def members(self) -> tuple[Lease, ...]:
        """The members that have not left this worker."""
        return tuple(self._members)

    @property
    def crashes(self) -> int:
        """The highest crash count of a member."""
        return max((lease.crashes for lease in self._members), default=0)

    def add_member(self, lease: Lease) -> None:
        """Adds a job before the group begins."""
        self._members.append(lease)

    def remove_member(self, lease: Lease) -> None:
        """Removes a job that has left this worker."""
        self._members.remove(lease)

    def begin(self) -> None:
        """Lets all members run."""
        if not self._begun.done():
            self._begun.set_result(None)

    async def wait_to_begin(self, lease: Lease) -> None:
        """Returns when the group begins or the lease is stopped."""
        await asyncio.wait({self._begun, lease.stopped}, return_when=asyncio.FIRST_COMPLETED)


class Quarantine:
    """The quarantine of one worker, with one group at a time.

    Args:
        store: where a job that is alone is noted.
        change: notified when a quarantine is over and other jobs may begin again.
        max_crashes: as in `kills_its_worker`. A job is quarantined from one crash less; with 1 there is no quarantine.
        quarantine_s: how long the first quarantine of a job lasts.
    """

    def __init__(
        self, store: QuarantineStore, change: Change, *, max_crashes: int, quarantine_s: float = QUARANTINE_S
    ) -> None:
        self._store = store
        self._change = change
        self._max_crashes = max_crashes
        self._first_at = max_crashes - 1 or sys.maxsize  # the crash count at which a job is first quarantined
        self._quarantine_s = quarantine_s
        self._began: dict[Lease, float] = {}
        self._left = Change()  # a job has left this worker
        self._gathering: QuarantineGroup | None = None
        self._task: asyncio.Task[None] | None = None

    @property
    def is_active(self) -> bool:
        """Whether a group waits or runs alone, so that nothing else may begin here."""
        return self._task is not None

    def admit_job(self, job: ClaimedJob, lease: Lease) -> QuarantineGroup | Postponed | None:
        """Decides how a claimed job begins. `job_left` has to follow when it leaves this worker.

        Returns:
            The group with which the job begins, or `Postponed`; None for a job that is not quarantined.
        """
        if job.crashes < self._first_at or kills_its_worker(job, self._max_crashes):
            self._began[lease] = monotonic()
            return None
        group = self._gathering
        if group is None and self._task is None:
            group = self._gathering = QuarantineGroup()
            self._task = asyncio.create_task(self._run_group(group), name="quarantine")
        elif group is None or len(group.members) >= self._largest(max(lease.crashes, group.crashes)):
            return Postponed(self._lasts_s(lease.crashes) * (1 + random.random()))  # noqa: S311 - spreads, hides nothing
        group.add_member(lease)
        return group

    def job_left(self, lease: Lease, admitted: QuarantineGroup | Postponed | None) -> None:
        """Notes that a job has left this worker; `admitted` is what `admit_job` returned for it."""
        self._began.pop(lease, None)
        if isinstance(admitted, QuarantineGroup):
            admitted.remove_member(lease)
        self._left.tell()

    async def close(self) -> None:
        """Ends a quarantine that is active."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.wait({self._task})

    async def _run_group(self, group: QuarantineGroup) -> None:
        try:
            await asyncio.sleep(0)  # the jobs of the same claim are admitted meanwhile
            self._gathering = None
            await self._until_others_are_cleared(group)
            lone = group.members[0] if len(group.members) == 1 else None
            noted = lone is not None and await self._note(lone, alone=True)
            for lease in group.members:
                _logger.warning(
                    "job %s, attempt %d: quarantined with %d others, its workers have died or hung %d times",
                    lease.request_id,
                    lease.attempt,
                    len(group.members) - 1,
                    lease.crashes,
                    extra=fields("job_quarantined", lease.request_id, attempt=lease.attempt, crashes=lease.crashes),
                )
            self._began |= dict.fromkeys(group.members, monotonic())
            group.begin()
            await self._left.until(lambda: not group.members, self._lasts_s(group.crashes))
            if noted and lone is not None and lone in group.members:
                await self._note(lone, alone=False)
        finally:
            group.begin()
            self._gathering = self._task = None
            self._change.tell()

    async def _until_others_are_cleared(self, group: QuarantineGroup) -> None:
        """Waits until every job that began before has run for a whole quarantine, since it might crash as late."""
        while group.members and (rest_s := self._rest_s(group)) > 0:
            await self._left.until(lambda: not group.members or self._rest_s(group) <= 0, rest_s)

    def _rest_s(self, group: QuarantineGroup) -> float:
        youngest = max(self._began.values(), default=-inf)
        return youngest + self._lasts_s(group.crashes) - monotonic()

    async def _note(self, lease: Lease, *, alone: bool) -> bool:
        return await retry_until_answered(
            lambda: self._store.note_quarantine(lease, alone=alone), Retries("note a quarantine")
        )

    def _largest(self, crashes: int) -> int:
        return GROUP_SIZES[min(crashes - self._first_at, len(GROUP_SIZES) - 1)]

    def _lasts_s(self, crashes: int) -> float:
        return min(self._quarantine_s * 2.0 ** min(max(crashes - self._first_at, 0), 32), LONGEST_S)
