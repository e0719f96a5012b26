"""The settings of a process: frozen, and read once from the environment where the process is composed."""

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
    """All settings. Each is `TAILRACE_<NAME>` in the environment; durations are in seconds.

    Attributes:
        redis_url: the Redis or Valkey with the queue, the logs and the records.
        queue_url: the Redis with the queue, if it is another one.
        log_url: the Redis with the logs and records, if it is another one.
        max_jobs: how many requests a worker process runs at once.
        lease_s: how long a claim lasts without renewal. A takeover after a crash takes about as long.
        poll_s: how often an idle worker reads the queue if no wake-up token arrives.
        tenant_limit: how many requests of a tenant may run at once, on all workers together; 0 for no limit.
        tenant_limits: the same for single tenants, such as `acme=10,initech=50`.
        drain_s: the grace period for running requests after SIGTERM.
        run_limit_s: the time limit of a request from submit to its end, if it sets none itself.
        connect_timeout_s: the time limit to connect to the model's server.
        first_byte_timeout_s: the time limit from the request to the first byte of the response.
        idle_timeout_s: the longest pause between two chunks of the response.
        upstream_transport: how requests are sent to the model's server: `tailrace`, Tailrace's own transport, or
            `httpx`, that of the SDK.
        max_attempts: how often a request is attempted if the model's server fails.
        max_crashes: how many workers may die or hang while they run a request before it ends as failed. The last of
            them runs it in quarantine.
        dead_letters: which requests are added to the dead-letter list: `poison` (those that no worker could run
            properly) or `failed` (all that end as failed).
        retention_s: how long a log and a record are kept after the end.
        max_log_entries: a log that reaches this size ends its request as failed, with the partial outcome.
        max_log_bytes: the same for the bytes of all entries of an attempt.
        publish_buffer_bytes: the size of unsent entries at which a process pauses reading from the model's server.
        trace_content: whether traces contain the texts of requests and responses.
        log_format: the format of log lines: `human`, or `json` with one object per line.
        log_level: the lowest level that is logged: `debug`, `info`, `warning` or `error`.
        metrics_port: the port on which a worker or a gateway serves `/metrics`; none by default, 0 for a free one.
        metrics_host: the address on which it listens.
        results_url: the database for outcomes; empty for none.
        results_timeout_s: the time limit to write a batch of outcomes, and to read an outcome.
        token_secrets: the secrets that sign the tokens for readers of one request, separated by commas. The first one
            signs, all are accepted.
        token_lifetime_s: how long a token is valid that the gateway returns with a submit.
        gateway_keys_file: the file with the API keys, as `tailrace key` writes it. It is read again when it changes.
        gateway_page: whether the gateway serves its web page at `/`.
        gateway_origins: the origins whose pages may call the gateway, separated by commas; none by default.
        gateway_submits_per_minute: how many submits of a tenant a gateway process accepts per minute; 0 for no limit.
        gateway_max_streams: how many event streams a gateway process keeps open.
        gateway_heartbeat_s: the longest time without an event or a heartbeat on an event stream.
        gateway_write_timeout_s: how long a reader may leave everything unread before its connection is closed.
        gateway_buffer_bytes: how many bytes may wait for a reader before reading its requests pauses.
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
        """The URL of every Redis, that of the queue first, with the name of its setting."""
        urls = {self.queue_url: "TAILRACE_QUEUE_URL", self.log_url: "TAILRACE_LOG_URL"}
        return {url: "TAILRACE_REDIS_URL" if url == self.redis_url else name for url, name in urls.items()}

    @classmethod
    def from_environment(cls, environment: Mapping[str, str]) -> Self:
        """Reads all `TAILRACE_*` variables.

        Raises:
            SettingsError: a name is unknown or a value is out of range. The message names the variable.
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
    """Parses `<tenant>=<limit>` pairs that are separated by commas.

    Raises:
        ValueError: the text has another form, or names a tenant twice.
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
