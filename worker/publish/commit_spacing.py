"""How far apart commits are sent: at once at low rates, a little apart under load. Pure: the caller passes the times.

Each commit has a fixed cost for worker and server. Under load, more entries share it when a commit waits a little.
"""

SPACINGS = ((20_000, 0.002), (5_000, 0.001))
"""Pairs of a rate in entries per second, and the seconds between the starts of two commits from that rate on.

At lower rates a commit does not wait: too few entries would join it.
"""

WINDOW_S = 0.05
"""The time over which the rate is measured."""


class CommitSpacing:
    """The spacing of one publisher's commits."""

    def __init__(self) -> None:
        self._since = 0.0
        self._entries = 0
        self._spacing_s = 0.0

    def pause_s(self, began: float, now: float, entries: int) -> float:
        """How long the next commit should wait.

        Args:
            began: when the last commit was sent, in monotonic seconds.
            now: when it was answered.
            entries: how many entries it had.
        """
        self._entries += entries
        window_s = now - self._since
        if window_s >= WINDOW_S:
            per_s = self._entries / window_s
            self._spacing_s = next((spacing_s for from_per_s, spacing_s in SPACINGS if per_s >= from_per_s), 0.0)
            self._since, self._entries = now, 0
        return max(0.0, self._spacing_s - (now - began)) if self._spacing_s else 0.0
