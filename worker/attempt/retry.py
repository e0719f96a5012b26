"""How long to wait before another try, and whether there is one. Pure but for the dice, which come in."""

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
    """Whether a failed attempt is followed by another.

    Attributes:
        again: whether there is another.
        pause_s: seconds to wait before it.
        why: for the log lines: what tipped the scales.
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
"""What each class of failure is worth: a backoff, or None where another try would end as this one did."""


def decide(
    error: TailraceError,
    *,
    failures: int,
    max_attempts: int,
    shown: bool,
    on_failure: Literal["restart", "fail"],
    left_s: float,
    dice: Callable[[], float] = random.random,
) -> Decision:
    """Decides after a failure of the model's server. The only rule of its kind; crashes and drains are the queue's.

    Args:
        error: what the attempt failed with.
        failures: attempts that failed so far, whoever made them, this one included.
        max_attempts: how many may fail before the request does.
        shown: whether readers have seen a delta of this attempt.
        on_failure: the request's policy for a failure after the first delta.
        left_s: seconds to the request's deadline.
        dice: a number from 0 up to 1.
    """
    backoff = BACKOFFS.get(type(error))
    if backoff is None:
        return Decision(False, 0.0, "another try would not help")
    if shown and on_failure == "fail":
        return Decision(False, 0.0, "the request asks to fail after the first delta")
    if failures >= max_attempts:
        return Decision(False, 0.0, f"{failures} attempts have failed")
    asked_s: float | None = None
    if isinstance(error, UpstreamError):
        asked_s = error.retry_after_s
        backoff = _RATE_LIMITED if error.status == 429 else backoff
    # What the server asks for is the least; the jitter on top keeps all who were told the same from coming together.
    pause_s = (asked_s or 0.0) + backoff.pause_s(failures, dice)
    if pause_s >= left_s:
        return Decision(False, 0.0, "the deadline comes before the next try")
    return Decision(True, pause_s, "as the server asks" if asked_s else "backoff")
