"""Claims jobs for one worker, as many as it has room for, and waits for more. Knows nothing of how jobs run or end."""

import asyncio
import secrets
from collections.abc import Awaitable, Callable
from itertools import count
from time import monotonic
from typing import Protocol

from tailrace.broker.scripts import Claim, ClaimedJob
from tailrace.schemas.errors import StoreError
from tailrace.worker.queue.waiting import Change, bear, insist

CLAIMED_AT_ONCE = 16
"""A burst is spread over the fleet: who claims this many wakes the next idle worker before it claims more."""


class ClaimStore(Protocol):
    """What claims need of Redis."""

    async def claim(self, limit: int, token: str, *, again: bool) -> Claim:
        """Takes up to `limit` due jobs. Raises StoreError."""
        ...

    async def wait_for_work(self, timeout_s: float) -> None:
        """Returns with a wake-up token, or when `timeout_s` is over. Raises StoreError."""
        ...


class Claims:
    """The claims of one worker.

    Args:
        store: where the jobs are.
        change: told when there may be room again; tells it when it has been woken.
        room: how many jobs more may start.
        start: starts one; called with the job, the token it was claimed with, and when its lease ends (monotonic).
        sign_of_life: called after every look at the queue.
        lease_s: how long a claim lasts without renewal.
        poll_s: how often to look at the queue when no wake-up token came.
    """

    def __init__(
        self,
        store: ClaimStore,
        change: Change,
        *,
        room: Callable[[], int],
        start: Callable[[ClaimedJob, str, float], None],
        sign_of_life: Callable[[], Awaitable[None]],
        lease_s: float,
        poll_s: float,
    ) -> None:
        self._store = store
        self._change = change
        self._room = room
        self._start = start
        self._sign_of_life = sign_of_life
        self._lease_s, self._poll_s = lease_s, poll_s
        self._stopped = False
        self._waiting: asyncio.Future[None] | None = None
        self._name, self._numbers = secrets.token_hex(8), count(1)

    @property
    def waiting(self) -> asyncio.Future[None] | None:
        """The read for a wake-up token, where there is one under way: whoever ends all this waits for its end."""
        return self._waiting

    def stop(self) -> None:
        """No more claims; one that is under way still starts what it takes."""
        self._stopped = True
        self._stop_waiting()
        self._change.tell()

    async def make(self) -> None:
        """Claims until it is stopped."""
        while not self._stopped:
            room = self._room()
            if room <= 0:
                self._stop_waiting()
                await self._change.until(lambda: self._room() > 0 or self._stopped, self._poll_s)
            else:
                claim = await self._claim(min(room, CLAIMED_AT_ONCE))
                if not claim.left and not self._stopped:
                    await self._wait_for_work(claim.next_s)
            await self._sign_of_life()

    async def _claim(self, limit: int) -> Claim:
        """Claims and starts. Goes on until Redis answers: what was taken unheard would wait for its lease's end."""
        token, sent_at = f"{self._name}-{next(self._numbers)}", 0.0

        async def claim(failures: int) -> Claim:
            nonlocal sent_at
            sent_at = monotonic()
            return await self._store.claim(limit, token, again=failures > 0)

        claimed = await insist("claim", claim)
        for job in claimed.jobs:
            self._start(job, token, sent_at + self._lease_s)
        return claimed

    async def _wait_for_work(self, next_s: float | None) -> None:
        """Waits for a wake-up token, but no longer than until the next job is due, or the slow poll is.

        The due time is our own timer's: the server looks at its timeouts ten times a second. The read goes on.
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
            await bear(error, "wait for work", 1)

    def _stop_waiting(self) -> None:
        """A token belongs to a worker that has a slot free."""
        if self._waiting:
            self._waiting.cancel()
