"""Log lines, for people or for programs. Each has an event name, and the request's id if it is about one.

Owns both formats and the levels. A caller logs a message for people and passes `fields` for programs. No line contains
a key or a text of a request.
"""

import json
import logging
from typing import TextIO

from tailrace.schemas.log_options import LogFormat, LogLevel
from tailrace.schemas.times import iso_of_ms

_FIELDS = "tailrace_fields"
_ERRORS_ONLY = ("opentelemetry",)
"""Libraries that warn about each failed try; only the final failure needs a line."""
_WARNINGS_ONLY = ("arq", "openai", "httpx2", "httpcore2", "redis", "uvicorn")
"""Libraries whose INFO lines repeat ours or contain a job's arguments."""


class JsonLines(logging.Formatter):
    """One JSON object per line.

    All lines have `at`, `level` and `logger`. Our own have `event`, `request_id` if they are about one request, and
    further fields; lines of libraries have `message`. A line about an exception has `trace`.
    """

    def format(self, record: logging.LogRecord) -> str:
        """The line, in ASCII, so that no character in it can end it or change its direction."""
        line = {"at": iso_of_ms(int(record.created * 1000)), "level": record.levelname.lower(), "logger": record.name}
        line |= getattr(record, _FIELDS, None) or {"message": record.getMessage()}
        if record.exc_info:
            line["trace"] = self.formatException(record.exc_info)
        return json.dumps(line, default=str)


def human_lines() -> logging.Formatter:
    """Time, level, event name (`-` for lines of libraries) and message."""
    form = f"{{asctime}} {{levelname:<7}} {{{_FIELDS}[event]}} {{message}}"
    return logging.Formatter(form, style="{", defaults={_FIELDS: {"event": "-"}})


def log_to(stream: TextIO, form: LogFormat = "human", level: LogLevel = "info") -> None:
    """Sends the process's log lines to a stream. `level` applies to our lines; libraries log warnings or errors."""
    handler = logging.StreamHandler(stream)
    handler.setFormatter(JsonLines() if form == "json" else human_lines())
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(logging.WARNING)
    logging.getLogger("tailrace").setLevel(level.upper())
    for name in _WARNINGS_ONLY:
        logging.getLogger(name).setLevel(logging.WARNING)
    for name in _ERRORS_ONLY:
        logging.getLogger(name).setLevel(logging.ERROR)


def fields(event: str, request_id: str | None = None, /, **more: object) -> dict[str, object]:
    """The `extra` of a logger's call: the fields of the line for programs.

    Args:
        event: the event's name in snake_case, a literal; docs/logging.md lists all names.
        request_id: the request it is about.
        more: further fields; those that are None are left out.
    """
    named = {"event": event, "request_id": request_id, **more}
    return {_FIELDS: {name: _plain(value) for name, value in named.items() if value is not None}}


def _plain(value: object) -> object:
    """Numbers and booleans unchanged, everything else as text."""
    return value if isinstance(value, bool | int | float) else str(value)
