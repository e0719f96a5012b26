"""Log lines of the worker: one a verb, with the request's id. Never a key, never a text of a request."""

import logging

from tailrace.telemetry.logging import fields as told

_logger = logging.getLogger("tailrace.worker")


def event(verb: str, request_id: str, /, *, level: int = logging.INFO, **fields: object) -> None:
    """One line: the verb, the request, then `name=value`."""
    if _logger.isEnabledFor(level):
        shown = [f"{name}={value}" for name, value in fields.items() if value is not None]
        _logger.log(level, "%-9s %s", verb, " ".join((request_id, *shown)), extra=told(verb, request_id, **fields))


def fault(request_id: str, error: BaseException) -> None:
    """A fault of ours: its kind and the place in the code, without its message, which may quote texts."""
    places: list[str] = []
    trace = error.__traceback__
    while trace is not None:
        places.append(f"{trace.tb_frame.f_code.co_filename}:{trace.tb_lineno}")
        trace = trace.tb_next
    where = " > ".join(places[-6:])
    kind = type(error).__name__
    _logger.error(
        "%-9s %s %s at %s", "fault", request_id, kind, where, extra=told("fault", request_id, kind=kind, where=where)
    )
