"""The time of one attempt: measured by the local clock, converted to the clock of Redis, which all processes share."""

from collections.abc import Callable

from tailrace.worker.attempt.request_store import Begun


class AttemptClock:
    """Runs from now, the start of an attempt.

    Args:
        clock: monotonic seconds.
        begun: the reply of Redis, with its times in milliseconds since 1970.

    Attributes:
        started_s: the start by `clock`.
    """

    def __init__(self, clock: Callable[[], float], begun: Begun) -> None:
        self._clock = clock
        self._started_ms = begun.started_ms
        self._deadline_s = (begun.deadline_ms - begun.started_ms) / 1000
        self.started_s = clock()

    @property
    def elapsed_s(self) -> float:
        """Seconds since the start."""
        return self._clock() - self.started_s

    @property
    def elapsed_ms(self) -> int:
        """Milliseconds since the start, as entries contain them."""
        return round(self.elapsed_s * 1000)

    @property
    def left_s(self) -> float:
        """Seconds to the request's deadline; negative if it has passed."""
        return self._deadline_s - self.elapsed_s

    @property
    def redis_ms(self) -> int:
        """The current time by the clock of Redis, in milliseconds since 1970."""
        return self._started_ms + self.elapsed_ms
