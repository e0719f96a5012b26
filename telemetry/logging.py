"""The journal: log lines, for people or for programs, one a verb, with the request's id. Never a key, never a text.

A line says the same in both forms. Who logs gives a sentence for people, and with `fields` what is in it for programs.
"""

import json
import logging
from datetime import UTC, datetime
from typing import TextIO

from tailrace.schemas.log_options import LogFormat, LogLevel

_FIELDS = "tailrace_fields"
_TROUBLED = ("opentelemetry",)
"""Libraries that warn of each try of theirs; that they gave up is an error."""
_LOUD = ("arq", "openai", "httpx2", "httpcore2", "redis", "uvicorn")
"""Libraries that tell at INFO what we tell better, or print a job's arguments."""


class JsonLines(logging.Formatter):
    """One JSON object a line: `at`, `level`, `logger`; of our own lines `verb`, `request_id` where it is about one, and
    what else they say; of others `message`. `trace` where an error is told."""

    def format(self, record: logging.LogRecord) -> str:
        """The line."""
        at = datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
        told = {"at": at, "level": record.levelname.lower(), "logger": record.name}
        told |= getattr(record, _FIELDS, None) or {"message": record.getMessage()}
        if record.exc_info:
            told["trace"] = self.formatException(record.exc_info)
        return json.dumps(told, default=str)  # in ASCII: nothing in it ends a line, turns it round or cannot be written


def log_to(stream: TextIO, form: LogFormat = "human", level: LogLevel = "info") -> None:
    """Sends the process's log lines to a stream. `level` is of our own; of libraries warnings or errors alone."""
    human = logging.Formatter("%(asctime)s %(levelname)-7s %(message)s")
    handler = logging.StreamHandler(stream)
    handler.setFormatter(JsonLines() if form == "json" else human)
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(logging.WARNING)
    logging.getLogger("tailrace").setLevel(level.upper())
    for name in _LOUD:
        logging.getLogger(name).setLevel(logging.WARNING)
    for name in _TROUBLED:
        logging.getLogger(name).setLevel(logging.ERROR)


def fields(verb: str, request_id: str | None = None, /, **more: object) -> dict[str, object]:
    """What a line says, for programs: the `extra` of a call of a logger.

    Args:
        verb: what happens.
        request_id: of which request.
        more: what else; what is None is left out.
    """
    named = {"verb": verb, "request_id": request_id, **more}
    return {_FIELDS: {name: _plain(value) for name, value in named.items() if value is not None}}


def _plain(value: object) -> object:
    """As JSON shows it: of all that is no number and no truth value, what people are shown."""
    return value if isinstance(value, bool | int | float) else str(value)
