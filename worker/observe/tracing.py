"""What an attempt says of itself to whoever traces. `otel.py` says it to OpenTelemetry; without it nobody listens."""

from typing import Protocol

from tailrace.schemas.outcome import Outcome
from tailrace.schemas.request import GenerationRequest


class AttemptTrace:
    """The trace of one attempt; this one keeps nothing."""

    def asks(self) -> None:
        """The model's server is being asked."""

    def has_first_delta(self) -> None:
        """The first delta has come."""

    def has_read(self, end: str, code: str | None = None) -> None:
        """Reading the answer has come to its end.

        Args:
            end: how, a word.
            code: the wire code of what it failed with.
        """

    def finishes(self, outcome: Outcome) -> None:
        """The request has ended with this attempt."""

    def close(self) -> None:
        """The attempt is over."""


class Traces(Protocol):
    """Where traces go."""

    def attempt(
        self, request_id: str, number: int, why: str, request: GenerationRequest | None, submitted_ms: int
    ) -> AttemptTrace:
        """An attempt begins now.

        Args:
            request_id: of which request.
            number: of the attempt.
            why: it begins.
            request: what is asked; None where it cannot be read.
            submitted_ms: when the request was submitted, by the clock of Redis.
        """
        ...

    async def close(self) -> None:
        """Sends what has gathered."""
        ...


class NoTraces:
    """Nobody traces."""

    def attempt(
        self, request_id: str, number: int, why: str, request: GenerationRequest | None, submitted_ms: int
    ) -> AttemptTrace:
        """As `Traces.attempt`."""
        return AttemptTrace()

    async def close(self) -> None:
        """Nothing to send."""
