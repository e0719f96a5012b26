"""The table of outcomes, and how its database is opened. Definitions only: connects to nothing.

Whoever writes (`worker/results/`) and whoever reads (`producers/results.py`) stand on this. Imported only where a
database of results is set, since it imports SQLAlchemy. `worker/results/sql` makes the table itself; a test compares.
"""

from typing import Any

import msgspec
from sqlalchemy import JSON, Column, DateTime, Index, Integer, MetaData, Table, Text
from sqlalchemy.dialects.postgresql import JSONB

metadata = MetaData()

_TIME = DateTime(timezone=True)
_JSON = JSON(none_as_null=True).with_variant(JSONB(none_as_null=True), "postgresql")

results = Table(
    "tailrace_results",
    metadata,
    Column("request_id", Text, primary_key=True),
    Column("attempt", Integer, nullable=False),
    Column("failures", Integer, nullable=False),
    Column("crashes", Integer, nullable=False),
    Column("drains", Integer, nullable=False),
    Column("tenant", Text),
    Column("priority", Text, nullable=False),
    Column("model", Text),
    Column("api", Text, nullable=False),
    Column("status", Text, nullable=False),
    Column("finish_reason", Text),
    Column("submitted_at", _TIME, nullable=False),
    Column("started_at", _TIME),
    Column("first_delta_at", _TIME),
    Column("finished_at", _TIME, nullable=False),
    Column("deadline_at", _TIME, nullable=False),
    Column("usage", _JSON),
    Column("tool_calls", _JSON, nullable=False),
    Column("reasoning", Text),
    Column("content", Text),
    Column("refusal", Text),
    Column("error", _JSON),
    Column("metadata", _JSON),
    Column("retry_of", Text),
    Column("rest", JSON(none_as_null=True), nullable=False),
    Index("tailrace_results_finished", "finished_at"),
    Index("tailrace_results_tenant_finished", "tenant", "finished_at"),
    Index("tailrace_results_status_finished", "status", "finished_at"),
)

version = Table("tailrace_schema", metadata, Column("version", Integer, nullable=False))


def engine_options(url: str, *, timeout_s: float, connections: int) -> dict[str, Any]:
    """What `create_async_engine` is to be told beside the URL.

    Parameters of statements are the texts of requests: they are hidden from every error and log line.

    Args:
        url: of the database.
        timeout_s: for connecting, and for a lock that somebody else has.
        connections: at most, at once.
    """
    if url.startswith("sqlite"):
        own: dict[str, Any] = {"timeout": timeout_s, "isolation_level": None}  # we say BEGIN ourselves
    else:
        own = {"timeout": timeout_s, "server_settings": {"application_name": "tailrace"}}
    return {
        "hide_parameters": True,
        "pool_pre_ping": True,
        "pool_size": connections,
        "max_overflow": 0,
        "pool_timeout": timeout_s,
        "json_serializer": _json_text,
        "json_deserializer": msgspec.json.decode,
        "connect_args": own,
    }


def _json_text(value: object) -> str:
    return msgspec.json.encode(value).decode()
