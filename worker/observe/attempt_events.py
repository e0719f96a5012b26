"""The events of an attempt, and the interface of their subscribers.

Owns the list of events. Knows nothing of its subscribers: metrics, traces and log lines.
"""

from typing import NamedTuple

from tailrace.schemas.ids import EntryId
from tailrace.schemas.outcome import Outcome
from tailrace.schemas.request import GenerationRequest


class AttemptStart(NamedTuple):
    """An attempt that has started.

    Attributes:
        request_id: the request.
        attempt: the attempt's number.
        why: what caused it: `first`, `retry`, `lease_expired`, `drained`.
        request: the request, None if it cannot be decoded.
        submitted_ms: when the request was submitted, in milliseconds since 1970 by the clock of Redis.
        started_ms: when the attempt started, in the same form.
    """

    request_id: str
    attempt: int
    why: str
    request: GenerationRequest | None
    submitted_ms: int
    started_ms: int

    @property
    def waited_s(self) -> float:
        """Seconds from submit to the start of this attempt."""
        return (self.started_ms - self.submitted_ms) / 1000


class AttemptSubscriber:
    """Receives the events of one attempt; made when the attempt starts. The methods of this base class do nothing.

    There is no event for a delta: subscribers must cost nothing on its path.
    """

    def upstream_asked(self) -> None:
        """The request is being sent to the model's server."""

    def first_delta(self, after_s: float) -> None:
        """The first delta has arrived, `after_s` seconds after the start of the attempt."""

    def reading_ended(self, end: str, code: str | None) -> None:
        """Reading the answer has ended.

        Args:
            end: how it ended, a value of `AttemptEnd`.
            code: the error's code if it failed.
        """

    def failed(self, code: str, why: str, retry_in_s: float | None) -> None:
        """The attempt has failed, and it is decided whether another one follows.

        Args:
            code: the error's code.
            why: the reason for the decision.
            retry_in_s: seconds until the next attempt; None if there is none.
        """

    def internal_error(self, error: BaseException) -> None:
        """A bug in the worker has ended the attempt."""

    def finished(self, outcome: Outcome, terminal_id: EntryId, ms: int) -> None:
        """The outcome has been persisted: the request has ended, `ms` milliseconds after the start of the attempt."""

    def finish_refused(self, status: str) -> None:
        """Redis has refused the outcome; `status` is the script's, and gives the reason."""

    def released(self, status: str) -> None:
        """The request has been handed back unfinished; `status` is the script's."""

    def closed(self) -> None:
        """The attempt is over."""
