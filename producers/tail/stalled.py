"""Whether anybody works on a request to whose reader nothing comes: asks now and then, and says so once in a while.

Never while a worker holds the request, however quiet the model is. Knows nothing of Redis.
"""

import time
from collections.abc import Awaitable, Callable

from tailrace.broker.script import Verdict
from tailrace.broker.scripts import SignsStatus
from tailrace.schemas.deltas import Stalled, StalledWhy
from tailrace.schemas.errors import StoreError
from tailrace.schemas.ids import EntryId

LOOKS_PER_BOUND = 0.6
"""A look every so many bounds: above the store's own wait for the next entry, which so is never cut off."""

_PAUSE_MAX_S = 300.0


class StallWatch:
    """Watches for one reader.

    Args:
        signs: asks whether any worker deals with the request; None when it has ended.
        mend: enqueues a request that is nowhere.
        after_s: nobody has worked on it for so long before it is said; then again at twice the time, and so on.
        clock: monotonic seconds.
    """

    def __init__(
        self,
        signs: Callable[[], Awaitable[Verdict[SignsStatus] | None]],
        mend: Callable[[], Awaitable[None]],
        *,
        after_s: float,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._signs = signs
        self._mend = mend
        self._after_s = after_s
        self._clock = clock
        self._since: float | None = None
        self._next_s = after_s
        self._position: EntryId | None = None
        self.look_s = after_s * LOOKS_PER_BOUND

    async def judge(self, position: EntryId) -> Stalled | None:
        """What the reader is to be told, if anything, when nothing has come for `look_s`.

        A Redis that is away is not the request's fault: then nothing is said.

        Args:
            position: how far it has come; where it has moved since the last time, somebody works on it.
        """
        if position != self._position:
            self._position = position
            self._begin_anew()
        try:
            signs = await self._signs()
        except StoreError:
            return None
        if signs is None or signs.status is SignsStatus.HELD:
            self._begin_anew()
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
            await self._try_to_mend()
        return Stalled(for_ms=round(idle_s * 1000), why=_why(signs))

    def _begin_anew(self) -> None:
        self._since, self._next_s = None, self._after_s

    async def _try_to_mend(self) -> None:
        try:
            await self._mend()
        except StoreError:  # a reader need not have the right; the next look says whether it helped
            return


def _why(signs: Verdict[SignsStatus]) -> StalledWhy:
    if signs.status is SignsStatus.LOST:
        return "lost"
    return "busy" if signs.number("alive") else "no_worker"
