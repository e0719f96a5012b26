"""Whether a failed attempt is followed by another one, and after which pause. Pure: randomness is passed in."""

import random
from collections.abc import Callable, Mapping
from typing import Literal, NamedTuple

from tailrace.broker.backoff import Backoff
from tailrace.schemas.errors import (
    DeadlineExceeded,
    LogFull,
    RequestRejected,
    TailraceError,
    UpstreamError,
    UpstreamProtocol,
    UpstreamRefused,
    UpstreamUnavailable,
)


class Decision(NamedTuple):
    """Whether a failed attempt is followed by another one.

    Attributes:
        again: whether another attempt follows.
        pause_s: seconds to wait before the next attempt.
        why: the reason, for the log line.
    """

    again: bool
    pause_s: float
    why: str


_RATE_LIMITED = Backoff(base_s=1.0, cap_s=60.0)
_ORDINARY = Backoff(base_s=0.25, cap_s=20.0)

BACKOFFS: Mapping[type[TailraceError], Backoff | None] = {
    UpstreamUnavailable: _ORDINARY,
    UpstreamProtocol: _ORDINARY,
    UpstreamRefused: None,
    LogFull: None,
    DeadlineExceeded: None,
    RequestRejected: None,
}
"""The backoff for each class of error; None, as for all other classes, if another attempt would fail too."""


def decide(
    error: TailraceError,
    *,
    failures: int,
    max_attempts: int,
    has_published: bool,
    on_failure: Literal["restart", "fail"],
    left_s: float,
    dice: Callable[[], float] = random.random,
) -> Decision:
    """Decides after an attempt has failed. The queue repeats crashed and drained attempts.

    Args:
        error: what the attempt failed with.
        failures: failed attempts of the request on all workers, including this one.
        max_attempts: failed attempts after which the request fails.
        has_published: whether a delta of this attempt was published.
        on_failure: the request's choice if a delta was published.
        left_s: seconds to the request's deadline.
        dice: returns a random number in [0, 1).
    """
    backoff = BACKOFFS.get(type(error))
    if backoff is None:
        return Decision(False, 0.0, "another attempt would not help")
    if has_published and on_failure == "fail":
        return Decision(False, 0.0, "the request asks to fail after the first delta")
    if failures >= max_attempts:
        return Decision(False, 0.0, f"{failures} attempts have failed")
    asked_s: float | None = None
    if isinstance(error, UpstreamError):
        asked_s = error.retry_after_s
        backoff = _RATE_LIMITED if error.status == 429 else backoff
    # The server's retry_after is the minimum. Jitter is added, so that its clients do not all return at once.
    pause_s = (asked_s or 0.0) + backoff.pause_s(failures, dice)
    if pause_s >= left_s:
        return Decision(False, 0.0, "the deadline is before the next attempt")
    return Decision(True, pause_s, "the server's retry_after" if asked_s else "backoff")
