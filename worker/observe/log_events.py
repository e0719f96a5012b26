"""Log lines of the worker that are about one request: event name, request id, fields. Never a key or a text.

Owns the form of these lines; telemetry/logging.py owns how they are written.
"""

import logging

from tailrace.schemas.ids import EntryId
from tailrace.schemas.outcome import Outcome
from tailrace.telemetry.logging import fields
from tailrace.worker.observe.attempt_events import AttemptStart, AttemptSubscriber

_logger = logging.getLogger("tailrace.worker")


def log_event(event: str, request_id: str, /, *, level: int = logging.INFO, **more: object) -> None:
    """Logs an event of a request.

    Args:
        event: its name in snake_case, a literal; docs/logging.md lists all names.
        request_id: the request.
        level: a level of `logging`.
        more: further fields; those that are None are left out.
    """
    if _logger.isEnabledFor(level):
        pairs = [f"{name}={value}" for name, value in more.items() if value is not None]
        _logger.log(level, "%s", " ".join((request_id, *pairs)), extra=fields(event, request_id, **more))


def log_internal_error(request_id: str, error: BaseException) -> None:
    """Logs a bug: its type and its place in the code, without its message, which may quote texts."""
    places: list[str] = []
    trace = error.__traceback__
    while trace is not None:
        places.append(f"{trace.tb_frame.f_code.co_filename}:{trace.tb_lineno}")
        trace = trace.tb_next
    log_event(
        "internal_error",
        request_id,
        level=logging.ERROR,
        error=type(error).__name__,
        place=" > ".join(places[-6:]),
    )


class AttemptLog(AttemptSubscriber):
    """Logs the events of one attempt; its start at once."""

    def __init__(self, start: AttemptStart) -> None:
        self._request_id, self._attempt = start.request_id, start.attempt
        log_event("attempt_started", self._request_id, attempt=self._attempt, why=start.why)

    def failed(self, code: str, why: str, retry_in_s: float | None) -> None:
        """Logs the failure, and the decision on another attempt."""
        pause_s = None if retry_in_s is None else round(retry_in_s, 2)
        log_event("attempt_failed", self._request_id, attempt=self._attempt, code=code, retry_in_s=pause_s, why=why)

    def internal_error(self, error: BaseException) -> None:
        """Logs the bug."""
        log_internal_error(self._request_id, error)

    def finished(self, outcome: Outcome, terminal_id: EntryId, ms: int) -> None:
        """Logs the end of the request."""
        code = outcome.error.code if outcome.error else None
        log_event("attempt_finished", self._request_id, status=outcome.status, code=code, entry=terminal_id, ms=ms)

    def finish_refused(self, status: str) -> None:
        """Logs why the outcome was refused."""
        log_event("attempt_finish_refused", self._request_id, attempt=self._attempt, status=status)

    def released(self, status: str) -> None:
        """Logs that the request was handed back."""
        log_event("attempt_released", self._request_id, attempt=self._attempt, status=status)
