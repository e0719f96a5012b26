"""How far commits keep apart: not at all while little comes, a little under load. Pure: times come in.

Each commit costs worker and server the same, whatever is in it, and under load more comes while one waits.
"""

SPACINGS = ((20_000, 0.002), (5_000, 0.001))
"""From so many entries a second, seconds from the beginning of one commit to the beginning of the next.

Below the last a commit is not worth the time it would wait for company.
"""

LOOK_S = 0.05
"""Over how long the rate is taken."""


class Pace:
    """Of one publisher."""

    def __init__(self) -> None:
        self._since = 0.0
        self._entries = 0
        self._spacing_s = 0.0

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
            per_s = self._entries / looked_s
            self._spacing_s = next((spacing_s for from_per_s, spacing_s in SPACINGS if per_s >= from_per_s), 0.0)
            self._since, self._entries = now, 0
        return max(0.0, self._spacing_s - (now - began)) if self._spacing_s else 0.0
