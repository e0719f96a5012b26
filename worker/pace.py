"""How far commits keep apart: not at all while little comes, a little under load. Pure: times come in.

Each commit costs worker and server the same, whatever is in it, and under load more comes while one waits.
"""

BUSY_PER_S = 10_000
"""Entries a second from which on a commit waits for company: below, it is not worth the time it takes."""

SPACING_S = 0.002
"""From the beginning of one commit to the beginning of the next, under load."""

LOOK_S = 0.05
"""Over how long the rate is taken."""


class Pace:
    """Of one publisher."""

    def __init__(self) -> None:
        self._since = 0.0
        self._entries = 0
        self._busy = False

    def pause_s(self, began: float, now: float, entries: int) -> float:
        """How long the next commit should wait.

        Args:
            began: when the last one was sent, in monotonic seconds.
            now: when it was answered.
            entries: how many were in it.
        """
        self._entries += entries
        looked_s = now - self._since
        if looked_s >= LOOK_S:
            self._busy = self._entries >= BUSY_PER_S * looked_s
            self._since, self._entries = now, 0
        return max(0.0, SPACING_S - (now - began)) if self._busy else 0.0
