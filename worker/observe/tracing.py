"""The interface for traces of attempts. `otel.py` sends them to OpenTelemetry; without it there are none."""

from typing import Protocol

from tailrace.worker.observe.attempt_events import AttemptStart, AttemptSubscriber


class Traces(Protocol):
    """Receives traces."""

    def attempt(self, start: AttemptStart) -> AttemptSubscriber:
        """Begins the trace of an attempt."""
        ...

    async def close(self) -> None:
        """Sends what is buffered."""
        ...


class NoTraces:
    """Keeps no traces."""

    def attempt(self, start: AttemptStart) -> AttemptSubscriber:
        """As `Traces.attempt`."""
        return AttemptSubscriber()

    async def close(self) -> None:
        """As `Traces.close`."""
