"""Log lines of the worker that are about one request: event name, request id, fields. Never a key or a text.

Owns the form of these lines; telemetry/logging.py owns how they are written.
"""

import logging

from tailrace.telemetry.logging import fields

_logger = logging.getLogger("tailrace.worker")


def log_event(event: str, request_id: str, /, *, level: int = logging.INFO, **more: object) -> None:
    """Logs an event of a request.

    Args:
        event: its name in snake_case, a literal; docs/logging.md lists all.
        request_id: the request.
        level: of `logging`.
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
