"""The options of a client. Imports nothing heavy, since `from tailrace import Client` imports it."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Self

from tailrace.schemas.defaults import DEFAULT_RETENTION_S, DEFAULT_RUN_LIMIT_S

if TYPE_CHECKING:
    from tailrace.producers.tokens import TokenSigner
    from tailrace.schemas.settings import Settings

RUNS_MAX = 200
"""How many running requests an overview describes by default."""

LISTED_MAX = 1_000
"""How many dead letters a list contains by default."""


@dataclass(frozen=True, kw_only=True)
class ClientOptions:
    """Options of `Client` and `SyncClient`. Durations are in seconds.

    Attributes:
        queue_url: the Redis that holds the queue, if it is not the one that holds records and logs.
        timeout_s: limit for connecting to Redis and for each of its answers.
        run_limit_s: how long a request may take from submit to its end, if it does not set `timeout_s` itself.
        retention_s: how long log and record are kept after the end.
        away_limit_s: how long Redis may be unreachable at a stretch before a running tail fails.
        stalled_after_s: how long a request may have no worker before its tails report it as stalled.
        quiet_log_s: how long a log may be quiet before its tails check that it still exists.
        tokens: signs the tokens that `tail_token` makes.
        results_url: the database of outcomes, read for requests that Redis no longer has; empty for none.
        results_timeout_s: limit for each answer of that database.
    """

    queue_url: str | None = field(default=None, repr=False)  # like `results_url`, it may contain a password
    timeout_s: float = 5.0
    run_limit_s: float = DEFAULT_RUN_LIMIT_S
    retention_s: float = DEFAULT_RETENTION_S
    away_limit_s: float = 30.0
    stalled_after_s: float = 10.0
    quiet_log_s: float = 5.0
    tokens: TokenSigner | None = field(default=None, repr=False)
    results_url: str = field(default="", repr=False)
    results_timeout_s: float = 5.0

    @classmethod
    def from_settings(cls, settings: Settings) -> Self:
        """The options that the `TAILRACE_*` settings of a process give."""
        from tailrace.producers.tokens import TokenSigner

        return cls(
            queue_url=settings.queue_url,
            run_limit_s=settings.run_limit_s,
            retention_s=settings.retention_s,
            tokens=TokenSigner.from_setting(settings.token_secrets.get_secret_value()),
            results_url=settings.results_url.get_secret_value(),
            results_timeout_s=settings.results_timeout_s,
        )
