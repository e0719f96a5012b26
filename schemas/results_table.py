"""The table of outcomes, and the options with which its database is opened. Connects to nothing.

`worker/results/` writes the table, `producers/results.py` reads it. Imported only if a database is configured, because
it imports SQLAlchemy. The files in `worker/results/sql` create the table; a test compares them with this module.
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
    """The options for `create_async_engine`.

    They hide the parameters of statements, which contain texts of requests, from errors and log lines.

    Args:
        url: the URL of the database.
        timeout_s: the time limit for connecting and for waiting for a lock.
        connections: the largest number of connections.
    """
    if url.startswith("sqlite"):
        own: dict[str, Any] = {
            "timeout": timeout_s,
            "isolation_level": None,
        }  # worker/results/database.py sends BEGIN itself
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
