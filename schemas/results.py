"""Outcomes in a database: the columns of a row, and the URL of the database. Pure: imports no database library.

Each field that people query by has a column of its own; `rest` has the others, so that a row is the whole outcome.
"""

from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any
from urllib.parse import urlsplit

import msgspec

from tailrace.schemas.deltas import ErrorInfo
from tailrace.schemas.outcome import Outcome
from tailrace.schemas.priority import Priority
from tailrace.schemas.times import iso_of

SCHEMA_VERSION = 1
"""The version that the migrations in `worker/results/sql` lead to. Writing requires exactly this version."""

DRIVERS = ("postgresql+asyncpg", "sqlite+aiosqlite")
SQL_MISSING = "the extra `sql` is not installed: pip install 'tailrace[sql]'"

NUL_NOTE = "NUL characters and lone surrogates are replaced by U+FFFD, because databases cannot store them"

_TIMES = ("submitted_at", "started_at", "first_delta_at", "finished_at")
_AS_THEY_ARE = (
    *("request_id", "attempt", "failures", "crashes", "drains", "status", "model", "api", "finish_reason"),
    *("content", "refusal", "reasoning", "retry_of"),
)
_AS_JSON = ("usage", "tool_calls", "error", "metadata")
_REST = ("v", "reasoning_source", "upstream_id", "upstream_sequence", "items", "notes", "message_extra", "output")


class Stored(msgspec.Struct, frozen=True, kw_only=True):
    """A request that has ended, as it is stored in a database.

    Attributes:
        outcome: its outcome.
        tenant: its tenant.
        priority: its priority.
        deadline_ms: its deadline, in milliseconds since 1970.
    """

    outcome: Outcome
    tenant: str | None
    priority: Priority
    deadline_ms: int

    @property
    def error(self) -> ErrorInfo | None:
        """The error of a failed request; None for others."""
        return self.outcome.error if self.outcome.status == "failed" else None


def row_of(stored: Stored) -> dict[str, Any]:
    """The columns of its row. Characters that databases cannot store are replaced, with a note in the outcome."""
    fields: dict[str, Any] = msgspec.to_builtins(stored.outcome)
    clean, replaced = _clean(fields)
    if replaced:
        clean["notes"] = [*clean["notes"], NUL_NOTE]
    return {
        **{name: clean[name] for name in (*_AS_THEY_ARE, *_AS_JSON)},
        **{name: _moment(clean[name]) for name in _TIMES},
        "rest": {name: clean[name] for name in _REST},
        "tenant": stored.tenant,
        "priority": stored.priority,
        "deadline_at": datetime.fromtimestamp(stored.deadline_ms / 1000, UTC),
    }


def stored_of(row: Mapping[str, Any]) -> Stored:
    """The reverse of `row_of`."""
    fields = {
        **{name: row[name] for name in (*_AS_THEY_ARE, *_AS_JSON)},
        **{name: _iso(row[name]) for name in _TIMES},
        **row["rest"],
        "kind": "outcome",
    }
    return Stored(
        outcome=msgspec.convert(fields, Outcome),
        tenant=row["tenant"],
        priority=row["priority"],
        deadline_ms=round(_aware(row["deadline_at"]).timestamp() * 1000),
    )


def check_results_url(url: str) -> str:
    """Returns the URL if it can be that of a database of outcomes. An empty URL means no database.

    Raises:
        ValueError: it cannot. The message repeats no part of the URL, because any part may be the password.
    """
    if not url:
        return url
    try:
        parts = urlsplit(url)
        has_port = parts.port != 0
    except ValueError:
        raise ValueError("cannot be parsed (in a password, write / as %2F and @ as %40)") from None
    if parts.scheme not in DRIVERS or not has_port:
        raise ValueError("give postgresql+asyncpg://user:password@host/database or sqlite+aiosqlite:////path/to/file")
    if len(parts.path) < 2:
        raise ValueError("needs the name of a database or the path of a file")
    return url


def results_place(url: str) -> str:
    """The place of the database for messages: without user, password and options."""
    parts = urlsplit(url)
    return f"{parts.scheme.partition('+')[0]}://{parts.netloc.rpartition('@')[2]}{parts.path}"


def _moment(text: str | None) -> datetime | None:
    return datetime.fromisoformat(text) if text else None


def _iso(moment: datetime | None) -> str | None:
    return None if moment is None else iso_of(_aware(moment))


def _aware(moment: datetime) -> datetime:
    """The time with a zone. SQLite stores none; all times in the table are UTC."""
    return moment if moment.tzinfo else moment.replace(tzinfo=UTC)


def _clean(value: Any) -> tuple[Any, bool]:
    """The value with NUL and lone surrogates replaced, and whether there were any."""
    match value:
        case str():
            clean = value.replace("\0", "\ufffd").encode("utf-16", "surrogatepass").decode("utf-16", "replace")
            return clean, clean != value
        case dict():
            pairs = [(_clean(name), _clean(member)) for name, member in value.items()]  # pyright: ignore[reportUnknownVariableType] - any JSON
            return {name[0]: member[0] for name, member in pairs}, any(n[1] or m[1] for n, m in pairs)
        case list() | tuple():
            members = [_clean(member) for member in value]  # pyright: ignore[reportUnknownVariableType] - any JSON
            return [member[0] for member in members], any(member[1] for member in members)
        case _:
            return value, False
