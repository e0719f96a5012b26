"""Reports a stalled request: its reader receives nothing, and no worker works on it.

A request that a worker holds is never reported, however long the model is silent. Knows nothing of Redis.
"""

import time
from collections.abc import Awaitable, Callable

from tailrace.broker.script import Verdict
from tailrace.broker.scripts import SignsStatus
from tailrace.schemas.deltas import Stalled, StalledWhy
from tailrace.schemas.errors import StoreError
from tailrace.schemas.ids import EntryId

LOOKS_PER_BOUND = 0.6
"""The time between two checks, as a share of `after_s`."""

_PAUSE_MAX_S = 300.0


class StallWatch:
    """Watches one request for one reader.

    Args:
        signs: returns the state of the request in the queue; None if it has ended.
        requeue: enqueues the request again if its job is lost.
        after_s: how long the request may have no worker before it is reported; the time doubles with each report.
        clock: monotonic seconds.
    """

    def __init__(
        self,
        signs: Callable[[], Awaitable[Verdict[SignsStatus] | None]],
        requeue: Callable[[], Awaitable[None]],
        *,
        after_s: float,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._signs = signs
        self._requeue = requeue
        self._after_s = after_s
        self._clock = clock
        self._since: float | None = None
        self._next_s = after_s
        self._position: EntryId | None = None
        self.look_s = after_s * LOOKS_PER_BOUND

    async def judge(self, position: EntryId) -> Stalled | None:
        """Checks the request of a reader that has received nothing for `look_s`; returns the event to report, if any.

        While Redis is unreachable, nothing is reported.

        Args:
            position: the reader's position. If it has moved since the last call, a worker works on the request.
        """
        if position != self._position:
            self._position = position
            self._restart()
        try:
            signs = await self._signs()
        except StoreError:
            return None
        if signs is None or signs.status is SignsStatus.HELD:
            self._restart()
            return None
        now = self._clock()
        if self._since is None:
            waited_s = signs.number("waited_ms") / 1000 if signs.status is SignsStatus.WAITING else 0.0
            self._since = now - waited_s
        idle_s = now - self._since
        if idle_s < self._next_s:
            return None
        self._next_s = idle_s + min(idle_s, _PAUSE_MAX_S)
        if signs.status is SignsStatus.LOST:
            await self._try_to_requeue()
        return Stalled(for_ms=round(idle_s * 1000), why=_why(signs))

    def _restart(self) -> None:
        self._since, self._next_s = None, self._after_s

    async def _try_to_requeue(self) -> None:
        try:
            await self._requeue()
        except StoreError:  # a reader may lack the right to enqueue; the next check shows whether the job is back
            return


def _why(signs: Verdict[SignsStatus]) -> StalledWhy:
    if signs.status is SignsStatus.LOST:
        return "lost"
    return "busy" if signs.number("alive") else "no_worker"
