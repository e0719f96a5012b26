"""Log lines of the worker: one a verb, with the request's id, for people. Never a key, never a text of a request."""

import logging
import sys
from typing import TextIO

_logger = logging.getLogger("tailrace.worker")
_LOUD = ("arq", "openai", "httpx2", "httpcore2", "redis")
"""Libraries that tell at INFO what we tell better, or print a job's arguments."""


def log_to(stream: TextIO = sys.stderr, level: int = logging.INFO) -> None:
    """Sends the process's log lines to a stream, one line each."""
    handler = logging.StreamHandler(stream)
    handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)-7s %(message)s"))
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(logging.WARNING)
    logging.getLogger("tailrace").setLevel(level)
    for name in _LOUD:
        logging.getLogger(name).setLevel(logging.WARNING)


def event(verb: str, request_id: str, /, *, level: int = logging.INFO, **fields: object) -> None:
    """One line: the verb, the request, then `name=value`."""
    if _logger.isEnabledFor(level):
        told = [f"{name}={value}" for name, value in fields.items() if value is not None]
        _logger.log(level, "%-9s %s", verb, " ".join((request_id, *told)))


def fault(request_id: str, error: BaseException) -> None:
    """A fault of ours: its kind and the place in the code, without its message, which may quote texts."""
    places: list[str] = []
    trace = error.__traceback__
    while trace is not None:
        places.append(f"{trace.tb_frame.f_code.co_filename}:{trace.tb_lineno}")
        trace = trace.tb_next
    _logger.error("%-9s %s %s at %s", "fault", request_id, type(error).__name__, " > ".join(places[-6:]))
