"""Leases: the timed right to run an attempt. Renews those of the process, ends what is lost, hears cancels.

A lease is judged by our own monotonic clock, from before the round trip that won it was sent: so it ends here before it
ends on the server, whoever hangs or is cut off in between. Knows neither Redis nor what runs under a lease.
"""

import asyncio
import logging
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Sequence
from contextlib import suppress
from enum import Enum
from math import inf
from time import monotonic
from typing import Any, Protocol

from tailrace.broker.backoff import Backoff
from tailrace.schemas.errors import StoreError
from tailrace.telemetry.logging import fields

RENEWALS_PER_LEASE = 3
RENEWED_AT_ONCE = 1_000
"""Leases in one renewal: the server does nothing else meanwhile (some 5 µs a lease)."""

_RETRY = Backoff(base_s=0.05, cap_s=1.0)
_logger = logging.getLogger("tailrace.lease")


class Stop(Enum):
    """Why an attempt has to end before its end."""

    CANCELLED = "cancelled"
    """Somebody asked: end the request, keep what there is."""
    LEASE_LOST = "lease_lost"
    """The right to run is gone: nothing more may be written, another worker takes over."""
    DRAINED = "drained"
    """The worker is going: hand the request back."""


class Lease:
    """The right to run one attempt of a job; made by the queue, one for each job that starts.

    Attributes:
        request_id: the request, and the job.
        attempt: the number of the attempt, minted by claim; grows with `next_attempt`.
        token: the owner's token, as `begin` and `finish` take it.
        why: why this attempt begins: `first`, `lease_expired`, `drained`, `retry`.
        crashes: leases of this job that ran out unanswered, so far.
        stopped: done as soon as the attempt has to end; the first reason stands.
        cut_off: it ran out because Redis did not answer in time, and not because this process hung.
        is_parting: the job is being acknowledged or handed back: that the server knows no such lease then is no loss.

    Args:
        ends_at: own monotonic time, in seconds, at which the right ends unless renewed.
        mint: asks Redis for the next number, above the one given; `next_attempt` is its only caller.
    """

    def __init__(
        self,
        request_id: str,
        *,
        attempt: int,
        token: str,
        why: str,
        crashes: int,
        ends_at: float,
        mint: "Callable[[Lease, int], Awaitable[int]]",
    ) -> None:
        self.request_id = request_id
        self.attempt = attempt
        self.token = token
        self.why = why
        self.crashes = crashes
        self.stopped: asyncio.Future[Stop] = asyncio.get_running_loop().create_future()
        self.cut_off = False
        self.is_parting = False
        self._ends_at = ends_at
        self._mint = mint

    def holds(self) -> bool:
        """Whether the right to run still stands, by our own clock: ask before every write."""
        return monotonic() < self._ends_at

    @property
    def ends_at(self) -> float:
        """Own monotonic time, in seconds, at which the right ends unless renewed."""
        return self._ends_at

    def renewed(self, ends_at: float) -> None:
        """The server has extended the lease. One that has ended here stays ended."""
        if self.holds():
            self._ends_at = ends_at

    def stop(self, why: Stop) -> None:
        """Asks the attempt to end. The first reason counts, but a lost lease ends the right to write at any time."""
        if why is Stop.LEASE_LOST:
            self._ends_at = -inf
        if not self.stopped.done():
            self.stopped.set_result(why)

    async def next_attempt(self, *, above: int = 0) -> int:
        """Mints the next attempt number under the same lease, for an owner that tries again by itself.

        Args:
            above: a number that the log has seen, where the queue may not know it.

        Raises:
            AttemptLost: the lease is another's, or has run out.
            StoreError: Redis did not answer; it may be asked again (numbers may skip).
        """
        self.attempt = await self._mint(self, above)
        return self.attempt


class LeaseStore(Protocol):
    """What leases need of Redis."""

    async def renew(self, leases: Sequence[Lease]) -> frozenset[str]:
        """Extends the leases, token-checked: the ids of those that are gone. Raises StoreError."""
        ...


class CancelStore(Protocol):
    """What hears of cancels."""

    async def asked_to_cancel(self, leases: Sequence[Lease]) -> frozenset[str]:
        """Which of these requests somebody wants cancelled. Raises StoreError."""
        ...

    def cancels(self) -> AsyncIterator[str | None]:
        """Request ids to cancel as they are published; None after each subscription. Raises StoreError."""
        ...


class Leases:
    """The leases of this process.

    Args:
        store: where they stand.
        records: where cancels are heard of.
        lease_s: how long a lease lasts without renewal, in seconds.

    Attributes:
        lost: how many ended before their attempt did.
    """

    def __init__(self, store: LeaseStore, records: CancelStore, lease_s: float) -> None:
        self._store = store
        self._records = records
        self._lease_s = lease_s
        self._running: dict[str, Lease] = {}
        self.lost = 0
        self._at_once = asyncio.Event()
        self._renewed_at = monotonic()
        self._unanswered_since = inf  # by our own clock: the first renewal that failed since the last that did not

    def __len__(self) -> int:
        return len(self._running)

    @property
    def renewed_ago_s(self) -> float:
        """Seconds since the last renewal that was answered, whether or not there was a lease to renew."""
        return monotonic() - self._renewed_at

    def add(self, lease: Lease) -> None:
        """From now on the lease is renewed, and cancels of its request are heard."""
        if before := self._running.get(lease.request_id):  # we ourselves have taken over what we had lost
            self._lose(before, "it ran out, and the job was claimed again")
        self._running[lease.request_id] = lease

    def remove(self, lease: Lease) -> None:
        """The job is done with, or handed back."""
        if self._running.get(lease.request_id) is lease:
            del self._running[lease.request_id]

    def stop_all(self, why: Stop) -> None:
        """Asks every running attempt to end."""
        for lease in list(self._running.values()):
            lease.stop(why)

    def keep(self) -> tuple[Coroutine[Any, Any, None], ...]:
        """What has to run as long as there are leases, each a task: renews, ends what has run out, hears cancels.

        Redis may come and go meanwhile. They end when they are cancelled.
        """
        return self._renew_for_ever(), self._end_by_clock(), self._hear_cancels(), self._look_for_cancels()

    async def _renew_for_ever(self) -> None:
        failures, pause_s = 0, self._lease_s / RENEWALS_PER_LEASE
        while True:
            await asyncio.sleep(pause_s)
            try:
                await self.renew()
            except StoreError as error:
                failures += 1
                self._unanswered_since = min(self._unanswered_since, monotonic())
                _logger.warning(
                    "cannot renew leases (%s); trying again", error, extra=fields("leases_not_renewed", why=error)
                )
                pause_s = _RETRY.pause_s(failures)
            else:
                failures, pause_s = 0, self._lease_s / RENEWALS_PER_LEASE
                self._unanswered_since, self._renewed_at = inf, monotonic()

    async def renew(self) -> None:
        """Renews every lease that still holds.

        Raises:
            StoreError: Redis did not answer; what was not renewed ends by the clock.
        """
        for batch in self._held():
            sent_at = monotonic()
            lost = await self._store.renew(batch)
            for lease in batch:
                if lease.request_id not in lost:
                    lease.renewed(sent_at + self._lease_s)
                elif not lease.is_parting:
                    self._lose(lease, "the server says another has it, or nobody")

    def _held(self) -> list[list[Lease]]:
        held = [lease for lease in self._running.values() if lease.holds()]
        return [held[first : first + RENEWED_AT_ONCE] for first in range(0, len(held), RENEWED_AT_ONCE)]

    async def look_for_cancels(self) -> None:
        """Takes notice of cancels whose call was not heard. Raises StoreError."""
        for batch in self._held():
            cancelled = await self._records.asked_to_cancel(batch)
            for lease in batch:
                if lease.request_id in cancelled:
                    lease.stop(Stop.CANCELLED)

    async def _look_for_cancels(self) -> None:
        while True:
            with suppress(TimeoutError):
                async with asyncio.timeout(self._lease_s / RENEWALS_PER_LEASE):
                    await self._at_once.wait()
            self._at_once.clear()
            try:
                await self.look_for_cancels()
            except StoreError as error:
                _logger.warning(
                    "cannot look up cancels (%s); trying again", error, extra=fields("cancels_not_looked_up", why=error)
                )

    def _lose(self, lease: Lease, why: str) -> None:
        if self._running.get(lease.request_id) is lease and lease.ends_at > -inf:
            _logger.warning(
                "lease of %s, attempt %d, lost: %s",
                lease.request_id,
                lease.attempt,
                why,
                extra=fields("lease_lost", lease.request_id, attempt=lease.attempt, why=why),
            )
            self.lost += 1
            lease.cut_off = self._unanswered_since < lease.ends_at
            lease.stop(Stop.LEASE_LOST)

    async def _end_by_clock(self) -> None:
        """Redis away, or this process hung: whoever still runs without a right is told to end."""
        while True:
            latest = monotonic() + self._lease_s / RENEWALS_PER_LEASE
            ends_at = min((lease.ends_at for lease in self._running.values() if lease.holds()), default=latest)
            await asyncio.sleep(max(min(ends_at, latest) - monotonic(), 0.001))
            for lease in list(self._running.values()):
                if not lease.holds():
                    self._lose(lease, "it was not renewed in time")

    async def _hear_cancels(self) -> None:
        failures = 0
        while True:
            try:
                async for request_id in self._records.cancels():
                    failures = 0
                    if request_id is None:  # what was published before this is looked up, with the renewal
                        self._at_once.set()
                    elif lease := self._running.get(request_id):
                        lease.stop(Stop.CANCELLED)
            except StoreError as error:
                failures += 1
                _logger.warning(
                    "cannot subscribe to cancels (%s); they are looked up until that works again",
                    error,
                    extra=fields("cancels_not_subscribed", why=error),
                )
                await asyncio.sleep(_RETRY.pause_s(failures))
