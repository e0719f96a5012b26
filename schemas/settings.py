"""One frozen Settings per process, read once from the environment in a composition root. Values are passed downward."""

import re
from collections.abc import Mapping
from typing import Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, SecretStr, ValidationError, field_validator, model_validator

from tailrace.schemas.defaults import DEFAULT_REDIS_URL, DEFAULT_RETENTION_S, DEFAULT_RUN_LIMIT_S
from tailrace.schemas.errors import SettingsError
from tailrace.schemas.log_options import LogFormat, LogLevel
from tailrace.schemas.redis_url import QUEUE_OF_A_CLUSTER, parse_redis_url
from tailrace.schemas.request import check_tenant
from tailrace.schemas.results import check_results_url

PREFIX = "TAILRACE_"


class Settings(BaseModel):
    """All of ours; each is `TAILRACE_<NAME>` in the environment. Durations in seconds.

    Attributes:
        redis_url: the Redis or Valkey with queue, logs and records.
        queue_url: that of the queue, where it is another one.
        log_url: that of logs and records, where it is another one.
        max_jobs: requests one worker process runs at once.
        lease_s: how long a claim lasts without renewal; takeover after a crash takes about as long.
        poll_s: how often an idle worker looks at the queue when no wake-up token came.
        tenant_limit: requests of one tenant that may run at once, on all workers together; 0 for no limit.
        tenant_limits: the same for single tenants, such as `acme=10,initech=50`.
        drain_s: grace period for running requests after SIGTERM.
        run_limit_s: the longest a request may take from submit to its end, where it says nothing itself.
        connect_timeout_s: for the connection to the model's server.
        first_byte_timeout_s: from the request sent to the first byte of the answer.
        idle_timeout_s: the longest pause between two pieces of the answer.
        upstream_transport: what carries requests to the model's server: `tailrace`, our own, or `httpx`, the SDK's.
        max_attempts: how often a request is tried in all, where the model's server fails.
        max_crashes: workers that may die or hang with a request before it counts as one that kills them; the last of
            them while it began alone.
        dead_letters: which requests go into the dead-letter list: `poison` (no worker could give them a fair run) or
            `failed` (all that end as failed).
        retention_s: how long log and record stay after the end.
        max_log_entries: a log that reaches it ends its request as failed, with the partial outcome.
        max_log_bytes: the same, for the bytes of all entries of an attempt.
        publish_buffer_bytes: unsent entries of a process at which reading the models' streams pauses.
        trace_content: whether traces carry the texts of requests and answers.
        log_format: of log lines: `human`, or `json`, an object a line.
        log_level: what is told at least: `debug`, `info`, `warning` or `error`.
        metrics_port: where a worker or a gateway serves `/metrics`; nowhere by default, 0 takes a free port.
        metrics_host: the address it listens on for that.
        results_url: the database in which outcomes outlast Redis; empty for none.
        results_timeout_s: how long writing a batch of outcomes may take, and reading one.
        token_secrets: sign the tokens that browsers read one request with; separated by commas, the first one signs.
        token_lifetime_s: how long a token is valid that the gateway mints with a submit.
        gateway_keys_file: the API keys of web tiers, as `tailrace key` writes them; read again when it changes.
        gateway_page: whether the gateway has the page to watch at `/`.
        gateway_origins: pages that may call the gateway from a browser, separated by commas; none by default.
        gateway_submits_per_minute: submits of one tenant that one gateway process accepts; 0 for no limit.
        gateway_max_streams: event streams that one gateway process holds open.
        gateway_heartbeat_s: the longest silence on an event stream.
        gateway_write_timeout_s: how long a reader may take nothing of what waits for it.
        gateway_buffer_bytes: what waits for one reader, at most, before following its requests pauses.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    redis_url: str = DEFAULT_REDIS_URL
    queue_url: str = ""
    log_url: str = ""
    max_jobs: int = Field(default=200, ge=1, le=100_000)
    lease_s: float = Field(default=5.0, ge=0.5, le=3600)
    poll_s: float = Field(default=1.0, gt=0, le=60)
    tenant_limit: int = Field(default=0, ge=0)
    tenant_limits: Mapping[str, int] = Field(default_factory=dict[str, int])
    drain_s: float = Field(default=20.0, ge=0, le=86_400)
    run_limit_s: float = Field(default=DEFAULT_RUN_LIMIT_S, gt=0, le=86_400)
    connect_timeout_s: float = Field(default=10.0, gt=0, le=600)
    first_byte_timeout_s: float = Field(default=120.0, gt=0, le=86_400)
    idle_timeout_s: float = Field(default=60.0, gt=0, le=86_400)
    upstream_transport: Literal["tailrace", "httpx"] = "tailrace"
    max_attempts: int = Field(default=5, ge=1, le=100)
    max_crashes: int = Field(default=3, ge=1, le=100)
    dead_letters: Literal["poison", "failed"] = "poison"
    retention_s: float = Field(default=DEFAULT_RETENTION_S, ge=1, le=31_536_000)
    max_log_entries: int = Field(default=200_000, ge=10)
    max_log_bytes: int = Field(default=64 * 1024 * 1024, ge=1024)
    publish_buffer_bytes: int = Field(default=32 * 1024 * 1024, ge=1024)
    trace_content: bool = False
    log_format: LogFormat = "human"
    log_level: LogLevel = "info"
    metrics_port: int | None = Field(default=None, ge=0, le=65_535)
    metrics_host: str = "127.0.0.1"
    results_url: SecretStr = SecretStr("")
    results_timeout_s: float = Field(default=10.0, ge=0.5, le=600)
    token_secrets: SecretStr = SecretStr("")
    token_lifetime_s: float = Field(default=3600.0, ge=1, le=31_536_000)
    gateway_keys_file: str = ""
    gateway_page: bool = False
    gateway_origins: str = ""
    gateway_submits_per_minute: int = Field(default=600, ge=0)
    gateway_max_streams: int = Field(default=10_000, ge=1)
    gateway_heartbeat_s: float = Field(default=15.0, gt=0, le=3600)
    gateway_write_timeout_s: float = Field(default=30.0, gt=0, le=3600)
    gateway_buffer_bytes: int = Field(default=64 * 1024, ge=1024)

    @field_validator("tenant_limits", mode="before")
    @classmethod
    def _limits_are_named(cls, value: Any) -> Any:
        return parse_limits(value) if isinstance(value, str) else value

    @model_validator(mode="before")
    @classmethod
    def _one_redis_for_all(cls, given: Any) -> Any:
        url = given.get("redis_url", DEFAULT_REDIS_URL)
        return {**given, **{name: given.get(name) or url for name in ("queue_url", "log_url")}}

    @field_validator("redis_url", "queue_url", "log_url")
    @classmethod
    def _url_is_a_redis(cls, value: str) -> str:
        parse_redis_url(value)
        return value

    @field_validator("queue_url")
    @classmethod
    def _queue_is_on_one_server(cls, value: str) -> str:
        if parse_redis_url(value).nodes:
            raise ValueError(QUEUE_OF_A_CLUSTER)
        return value

    @field_validator("results_url")
    @classmethod
    def _url_is_a_database(cls, value: SecretStr) -> SecretStr:
        check_results_url(value.get_secret_value())
        return value

    def servers(self) -> dict[str, str]:
        """Every Redis, by its URL, the queue's first, with the setting that names it."""
        urls = {self.queue_url: "TAILRACE_QUEUE_URL", self.log_url: "TAILRACE_LOG_URL"}
        return {url: "TAILRACE_REDIS_URL" if url == self.redis_url else name for url, name in urls.items()}

    @classmethod
    def from_environment(cls, environment: Mapping[str, str]) -> Self:
        """Reads every `TAILRACE_*` variable.

        Raises:
            SettingsError: a name is unknown, or a value out of range; the message names the variable.
        """
        given = {
            name.removeprefix(PREFIX).lower(): value for name, value in environment.items() if name.startswith(PREFIX)
        }
        try:
            return cls.model_validate(given)
        except ValidationError as error:
            finding = error.errors(include_url=False, include_input=False)[0]
            name = PREFIX + str(finding["loc"][0]).upper() if finding["loc"] else PREFIX + "*"
            if finding["type"] == "extra_forbidden":
                known = ", ".join(PREFIX + field.upper() for field in cls.model_fields)
                raise SettingsError(f"{name} is not a setting; there are {known}") from error
            raise SettingsError(f"{name}: {finding['msg'].removeprefix('Value error, ')}") from error


def parse_limits(text: str) -> dict[str, int]:
    """Reads `<tenant>=<limit>`, separated by commas.

    Raises:
        ValueError: it has another form, or names a tenant twice.
    """
    limits: dict[str, int] = {}
    for part in filter(None, map(str.strip, text.split(","))):
        tenant, _, limit = part.partition("=")
        if re.fullmatch(r"[0-9]{1,9}", limit) is None:
            raise ValueError(f"{part!r} is not <tenant>=<limit>; give for example acme=10,initech=50 (0: no limit)")
        if tenant in limits:
            raise ValueError(f"names {tenant!r} twice")
        limits[check_tenant(tenant)] = int(limit)
    return limits
