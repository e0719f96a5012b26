"""Claims jobs for one worker, up to its free slots, and waits for more. Knows nothing of how jobs run or end."""

import asyncio
import secrets
from collections.abc import Awaitable, Callable
from itertools import count
from time import monotonic
from typing import Protocol

from tailrace.broker.backoff import Retries, retry_until_answered
from tailrace.broker.scripts import Claim, ClaimedJob
from tailrace.schemas.errors import StoreError
from tailrace.worker.queue.waiting import Change

CLAIMED_AT_ONCE = 16
"""Spreads a burst over the fleet: a claim that leaves due jobs wakes the next idle worker."""


class ClaimStore(Protocol):
    """The scripts and the wake-up list that claims need."""

    async def claim(self, limit: int, token: str, *, is_repeat: bool) -> Claim:
        """Claims up to `limit` due jobs. `is_repeat`: a call whose reply was lost is repeated. Raises StoreError."""
        ...

    async def wait_for_work(self, timeout_s: float) -> None:
        """Returns when it took a wake-up token, or after `timeout_s` seconds. Raises StoreError."""
        ...


class Claims:
    """The claim loop of one worker.

    Args:
        store: the queue.
        change: notifies the loop that a slot may be free; the loop notifies it of a wake-up token.
        free_slots: how many more jobs may start.
        start_job: starts one; called with the job, the token it was claimed with, and when its lease ends (monotonic).
        after_claim: called after every round of the loop.
        lease_s: how long a claim lasts without renewal.
        poll_s: how often the queue is read if no wake-up token arrives.
    """

    def __init__(
        self,
        store: ClaimStore,
        change: Change,
        *,
        free_slots: Callable[[], int],
        start_job: Callable[[ClaimedJob, str, float], None],
        after_claim: Callable[[], Awaitable[None]],
        lease_s: float,
        poll_s: float,
    ) -> None:
        self._store = store
        self._change = change
        self._free_slots = free_slots
        self._start_job = start_job
        self._after_claim = after_claim
        self._lease_s, self._poll_s = lease_s, poll_s
        self._stopped = False
        self._waiting: asyncio.Future[None] | None = None
        self._no_token = Retries("wait for work")
        self._name, self._numbers = secrets.token_hex(8), count(1)

    @property
    def waiting(self) -> asyncio.Future[None] | None:
        """The pending read for a wake-up token, if any. It must have ended before the connections are closed."""
        return self._waiting

    def stop(self) -> None:
        """Ends the loop. A claim that is under way still starts what it claims."""
        self._stopped = True
        self._stop_waiting()
        self._change.tell()

    async def claim_until_stopped(self) -> None:
        """Claims jobs whenever slots are free, until `stop`."""
        while not self._stopped:
            free = self._free_slots()
            if free <= 0:
                self._stop_waiting()
                await self._change.until(lambda: self._free_slots() > 0 or self._stopped, self._poll_s)
            else:
                claim = await self._claim(min(free, CLAIMED_AT_ONCE))
                if not claim.left and not self._stopped:
                    await self._wait_for_work(claim.next_s)
            await self._after_claim()

    async def _claim(self, limit: int) -> Claim:
        """Claims and starts jobs. Retries until Redis answers, since jobs of a lost reply are already under a lease."""
        token, sent_at = f"{self._name}-{next(self._numbers)}", 0.0
        retries = Retries("claim")

        async def claim() -> Claim:
            nonlocal sent_at
            sent_at = monotonic()
            return await self._store.claim(limit, token, is_repeat=retries.failures > 0)

        claimed = await retry_until_answered(claim, retries)
        for job in claimed.jobs:
            self._start_job(job, token, sent_at + self._lease_s)
        return claimed

    async def _wait_for_work(self, next_s: float | None) -> None:
        """Waits for a wake-up token, until the next job is due, or for `poll_s` seconds.

        Our own timer watches the due time, because the server checks its timeouts only ten times a second. The read
        stays pending when that timer ends the wait.
        """
        if self._waiting is None:
            self._waiting = asyncio.ensure_future(self._store.wait_for_work(self._poll_s))
            self._waiting.add_done_callback(lambda _: self._change.tell())
        waiting, due_first = self._waiting, next_s is not None and next_s < self._poll_s
        await self._change.until(lambda: waiting.done() or self._stopped, next_s if due_first else None)
        if not waiting.done():
            return
        self._waiting = None
        try:
            if not waiting.cancelled():
                waiting.result()
        except StoreError as error:
            await self._no_token.log_and_back_off(error)
        else:
            self._no_token.succeeded()

    def _stop_waiting(self) -> None:
        """Leaves the tokens to workers with a free slot."""
        if self._waiting:
            self._waiting.cancel()
