"""Trials: jobs that may kill their worker begin in small company, and the last word on one falls when it is alone.

Who dies takes all that runs beside it along, so a crash blames every job of its process. Nobody is convicted on that
(docs/decisions/retries-and-failures.md). Knows neither Redis nor what jobs do.
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

COMPANY = (16, 4, 1)
"""How many suspects begin together: by how many crashes more than make a suspect. The last one is for all beyond."""

TRIAL_S = 2.0
LONGEST_S = 60.0
"""A trial lasts twice as long with each crash more, from `TRIAL_S` up to this: some kill late."""

_logger = logging.getLogger("tailrace.queue")


def is_deadly(job: ClaimedJob, max_crashes: int) -> bool:
    """Whether a job is not to be run again: it crashed too often, and once while nobody else can have been the cause.

    Args:
        job: what claim gave out.
        max_crashes: leases that may run out unanswered; with 1 a single crash is enough, whoever was the cause.
    """
    return job.crashes >= max_crashes and (job.blamed or max_crashes == 1)


class TrialStore(Protocol):
    """What trials need of Redis."""

    async def note_quarantine(self, lease: Lease, *, alone: bool) -> bool:
        """Notes whether this job is to blame if its worker dies; False when it is another's. Raises StoreError."""
        ...


class Elsewhere(NamedTuple):
    """There is no place for this suspect now: back to the queue with it, for so long."""

    delay_s: float


class Trial:
    """Suspects that begin together, with nothing else beginning in their process meanwhile; `Trials.admit` makes it."""

    def __init__(self) -> None:
        self._members: list[Lease] = []
        self._begun: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    @property
    def members(self) -> tuple[Lease, ...]:
        """Who is in it, and has not ended."""
        return tuple(self._members)

    @property
    def crashes(self) -> int:
        """Of the member that has most."""
        return max((lease.crashes for lease in self._members), default=0)

    def join(self, lease: Lease) -> None:
        """One more."""
        self._members.append(lease)

    def leave(self, lease: Lease) -> None:
        """It has ended, or runs here no more."""
        self._members.remove(lease)

    def begin(self) -> None:
        """All who are in it may run."""
        if not self._begun.done():
            self._begun.set_result(None)

    async def turn(self, lease: Lease) -> None:
        """Waits for the begin, or until the lease is stopped."""
        await asyncio.wait({self._begun, lease.stopped}, return_when=asyncio.FIRST_COMPLETED)


class Trials:
    """The trials of one worker, one after the other.

    Args:
        store: where it stands who is to blame.
        change: told when a trial is over: others may begin again.
        max_crashes: leases of a job that may run out unanswered. At one less it is a suspect; with 1 there are none.
        trial_s: how long the first trial of a job lasts.
    """

    def __init__(self, store: TrialStore, change: Change, *, max_crashes: int, trial_s: float = TRIAL_S) -> None:
        self._store = store
        self._change = change
        self._max_crashes = max_crashes
        self._suspicious = max_crashes - 1 or sys.maxsize
        self._trial_s = trial_s
        self._began: dict[Lease, float] = {}
        self._left = Change()  # a job has ended, or was handed back
        self._gathering: Trial | None = None
        self._task: asyncio.Task[None] | None = None

    @property
    def under_way(self) -> bool:
        """Whether there is one: then nothing else may begin here."""
        return self._task is not None

    def admit(self, job: ClaimedJob, lease: Lease) -> Trial | Elsewhere | None:
        """Called for each job that is about to begin; `left` ends that.

        Returns:
            The trial in which it begins, or why it cannot; None for one that is under no suspicion.
        """
        if job.crashes < self._suspicious or is_deadly(job, self._max_crashes):  # which does not run at all
            self._began[lease] = monotonic()
            return None
        trial = self._gathering
        if trial is None and self._task is None:
            trial = self._gathering = Trial()
            self._task = asyncio.create_task(self._hold(trial), name="trial")
        elif trial is None or len(trial.members) >= self._company(max(lease.crashes, trial.crashes)):
            return Elsewhere(self._lasts_s(lease.crashes) * (1 + random.random()))  # noqa: S311 - spreads, hides nothing
        trial.join(lease)
        return trial

    def left(self, lease: Lease, trial: Trial | Elsewhere | None) -> None:
        """The job does not run here any more."""
        self._began.pop(lease, None)
        if isinstance(trial, Trial):
            trial.leave(lease)
        self._left.tell()

    async def close(self) -> None:
        """Ends what is under way."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.wait({self._task})

    async def _hold(self, trial: Trial) -> None:
        try:
            await asyncio.sleep(0)  # whoever was claimed together with the first is admitted by now
            self._gathering = None
            await self._quiet(trial)
            lone = trial.members[0] if len(trial.members) == 1 else None
            noted = lone is not None and await self._note(lone, alone=True)
            for lease in trial.members:
                _logger.warning(
                    "job %s, attempt %d: quarantined with %d others, its workers have died or hung %d times",
                    lease.request_id,
                    lease.attempt,
                    len(trial.members) - 1,
                    lease.crashes,
                    extra=fields("job_quarantined", lease.request_id, attempt=lease.attempt, crashes=lease.crashes),
                )
            self._began |= dict.fromkeys(trial.members, monotonic())
            trial.begin()
            await self._left.until(lambda: not trial.members, self._lasts_s(trial.crashes))
            if noted and lone is not None and lone in trial.members:
                await self._note(lone, alone=False)
        finally:
            trial.begin()
            self._gathering = self._task = None
            self._change.tell()

    async def _quiet(self, trial: Trial) -> None:
        """Waits until what began here before has run for as long as a trial lasts: so long it may kill, too."""
        while trial.members and (rest_s := self._rest_s(trial)) > 0:
            await self._left.until(lambda: not trial.members or self._rest_s(trial) <= 0, rest_s)

    def _rest_s(self, trial: Trial) -> float:
        youngest = max(self._began.values(), default=-inf)
        return youngest + self._lasts_s(trial.crashes) - monotonic()

    async def _note(self, lease: Lease, *, alone: bool) -> bool:
        return await retry_until_answered(
            lambda: self._store.note_quarantine(lease, alone=alone), Retries("note a quarantine")
        )

    def _company(self, crashes: int) -> int:
        return COMPANY[min(crashes - self._suspicious, len(COMPANY) - 1)]

    def _lasts_s(self, crashes: int) -> float:
        return min(self._trial_s * 2.0 ** min(max(crashes - self._suspicious, 0), 32), LONGEST_S)
