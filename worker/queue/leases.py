"""Leases, the timed right to run an attempt: renews those of this process, ends lost ones, receives cancels.

A lease is measured by our own monotonic clock, from before the claim or renewal was sent. So it ends here before it
ends on the server, even when this process hangs or is cut off. Knows neither Redis nor what runs under a lease.
"""

import asyncio
import logging
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Sequence
from contextlib import suppress
from enum import Enum
from math import inf
from time import monotonic
from typing import Any, Protocol

from tailrace.broker.backoff import Retries, retry_until_answered
from tailrace.schemas.errors import StoreError
from tailrace.telemetry.logging import fields

RENEWALS_PER_LEASE = 3
RENEWED_AT_ONCE = 1_000
"""Leases in one renewal script, which blocks the server for some 5 µs a lease."""

_logger = logging.getLogger("tailrace.lease")


class Stop(Enum):
    """Why an attempt is asked to end early."""

    CANCELLED = "cancelled"
    """A client cancelled the request: end it and keep the partial answer."""
    LEASE_LOST = "lease_lost"
    """The lease is gone: write nothing more, another worker takes over."""
    DRAINED = "drained"
    """The worker drains: hand the request back."""


class Lease:
    """The right to run one attempt of a job. The queue makes one for each job that starts.

    Attributes:
        request_id: id of the request and of the job.
        attempt: the attempt's number, assigned by claim; `next_attempt` raises it.
        token: the owner's token, as `begin` and `finish` take it.
        why: why this attempt begins: `first`, `lease_expired`, `drained`, `retry`.
        crashes: leases of this job that have expired without a hand-back so far.
        stopped: done with the first reason for which the attempt has to end.
        cut_off: whether the lease expired because Redis did not answer in time, and not because this process hung.
        is_ending: whether the job is being acknowledged or handed back; a lease that is then missing on the server is
            not lost.

    Args:
        ends_at: monotonic time, in seconds, at which the lease ends unless renewed.
        mint: gets a new attempt number, above the one given, from Redis; only `next_attempt` calls it.
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
        self.is_ending = False
        self._ends_at = ends_at
        self._mint = mint

    def holds(self) -> bool:
        """Whether the lease is still valid by our own clock. Ask before every write."""
        return monotonic() < self._ends_at

    @property
    def ends_at(self) -> float:
        """Monotonic time, in seconds, at which the lease ends unless renewed."""
        return self._ends_at

    def renewed(self, ends_at: float) -> None:
        """Notes that the server has extended the lease. A lease that has ended here stays ended."""
        if self.holds():
            self._ends_at = ends_at

    def stop(self, why: Stop) -> None:
        """Asks the attempt to end. The first reason counts; `LEASE_LOST` also ends the lease at any time."""
        if why is Stop.LEASE_LOST:
            self._ends_at = -inf
        if not self.stopped.done():
            self.stopped.set_result(why)

    async def next_attempt(self, *, above: int = 0) -> int:
        """Gets the next attempt number under the same lease, for a retry on this worker.

        Args:
            above: the highest number in the log, which the queue may not know.

        Raises:
            AttemptLost: the lease has expired or belongs to another worker.
            StoreError: Redis did not answer. A repeated call is safe and may skip numbers.
        """
        self.attempt = await self._mint(self, above)
        return self.attempt


class LeaseStore(Protocol):
    """The script that leases need."""

    async def renew(self, leases: Sequence[Lease]) -> frozenset[str]:
        """Extends the leases whose token matches and returns the ids of the others. Raises StoreError."""
        ...


class CancelStore(Protocol):
    """Where cancels are read."""

    async def asked_to_cancel(self, leases: Sequence[Lease]) -> frozenset[str]:
        """Returns the ids of those requests that a client has cancelled. Raises StoreError."""
        ...

    def cancels(self) -> AsyncIterator[str | None]:
        """Yields the ids of cancelled requests as published, and None after each subscription. Raises StoreError."""
        ...


class Leases:
    """The leases of this process.

    Args:
        store: renews them.
        records: where cancels are read.
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
        self._look_up_now = asyncio.Event()
        self._renewed_at = monotonic()
        self._unanswered_since = inf  # monotonic time of the first failed renewal since the last answered one

    def __len__(self) -> int:
        return len(self._running)

    @property
    def renewed_ago_s(self) -> float:
        """Seconds since the last answered renewal. A round without leases counts as answered."""
        return monotonic() - self._renewed_at

    def add_lease(self, lease: Lease) -> None:
        """Renews the lease from now on and stops it when its request is cancelled."""
        if before := self._running.get(lease.request_id):  # this worker has reclaimed a job that it had lost
            self._lose(before, "it expired, and the job was claimed again")
        self._running[lease.request_id] = lease

    def remove_lease(self, lease: Lease) -> None:
        """Renews the lease no more: its job has left this worker."""
        if self._running.get(lease.request_id) is lease:
            del self._running[lease.request_id]

    def stop_all(self, why: Stop) -> None:
        """Asks every running attempt to end."""
        for lease in list(self._running.values()):
            lease.stop(why)

    def upkeep(self) -> tuple[Coroutine[Any, Any, None], ...]:
        """Returns the background work, to be run as tasks: renews, ends expired leases, receives cancels.

        Each runs until it is cancelled and survives outages of Redis.
        """
        return self._renew_for_ever(), self._end_expired(), self._receive_cancels(), self._look_up_cancels()

    async def _renew_for_ever(self) -> None:
        retries = Retries("renew leases")
        while True:
            await asyncio.sleep(self._lease_s / RENEWALS_PER_LEASE)
            await retry_until_answered(self._renew_noting_failures, retries)
            self._unanswered_since, self._renewed_at = inf, monotonic()

    async def _renew_noting_failures(self) -> None:
        try:
            await self.renew()
        except StoreError:
            self._unanswered_since = min(self._unanswered_since, monotonic())
            raise

    async def renew(self) -> None:
        """Renews every valid lease.

        Raises:
            StoreError: Redis did not answer; leases that were not renewed expire by the clock.
        """
        for batch in self._held():
            sent_at = monotonic()
            lost = await self._store.renew(batch)
            for lease in batch:
                if lease.request_id not in lost:
                    lease.renewed(sent_at + self._lease_s)
                elif not lease.is_ending:
                    self._lose(lease, "another worker holds it, or no worker does")

    def _held(self) -> list[list[Lease]]:
        held = [lease for lease in self._running.values() if lease.holds()]
        return [held[first : first + RENEWED_AT_ONCE] for first in range(0, len(held), RENEWED_AT_ONCE)]

    async def look_up_cancels(self) -> None:
        """Stops attempts whose cancel was not received as a message. Raises StoreError."""
        for batch in self._held():
            cancelled = await self._records.asked_to_cancel(batch)
            for lease in batch:
                if lease.request_id in cancelled:
                    lease.stop(Stop.CANCELLED)

    async def _look_up_cancels(self) -> None:
        retries = Retries("look up cancels")
        while True:
            with suppress(TimeoutError):
                async with asyncio.timeout(self._lease_s / RENEWALS_PER_LEASE):
                    await self._look_up_now.wait()
            self._look_up_now.clear()
            try:
                await self.look_up_cancels()
            except StoreError as error:
                await retries.log_and_back_off(error)
            else:
                retries.succeeded()

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

    async def _end_expired(self) -> None:
        """Stops attempts whose lease has expired, because Redis was unavailable or this process hung."""
        while True:
            latest = monotonic() + self._lease_s / RENEWALS_PER_LEASE
            ends_at = min((lease.ends_at for lease in self._running.values() if lease.holds()), default=latest)
            await asyncio.sleep(max(min(ends_at, latest) - monotonic(), 0.001))
            for lease in list(self._running.values()):
                if not lease.holds():
                    self._lose(lease, "it was not renewed in time")

    async def _receive_cancels(self) -> None:
        retries = Retries("subscribe to cancels")  # cancels are looked up meanwhile
        while True:
            try:
                async for request_id in self._records.cancels():
                    retries.succeeded()
                    if request_id is None:  # cancels published before the subscription are looked up
                        self._look_up_now.set()
                    elif lease := self._running.get(request_id):
                        lease.stop(Stop.CANCELLED)
            except StoreError as error:
                await retries.log_and_back_off(error)
