"""The table of Prometheus metrics: name, meaning, labels and buckets of each. Only this module defines their names.

Names and units follow Prometheus' rules ("Metric and label naming"): the prefix `tailrace_`, base units, `_total` for
counters. A label has few values, known in advance: names from Tailrace, HTTP statuses, numbers of processes. A request
id, a tenant or a model is never a label: callers choose them, each value is a time series of its own, and a caller
could fill the memory of the Prometheus server. `tailrace stats` and the outcomes show them.
"""

import re
from typing import Literal, NamedTuple

Kind = Literal["counter", "gauge", "histogram"]
Of = Literal["process", "worker", "gateway"]


class Metric(NamedTuple):
    """One metric.

    Attributes:
        name: the full name.
        kind: its Prometheus type.
        of: what reports it. `process`: each process of a worker, with a label `process`. `worker`: a worker, once for
            all its processes. `gateway`: a gateway.
        help: a sentence for people.
        labels: the names of its labels, without `process`.
        buckets: for a histogram, the upper bounds without the infinite one.
    """

    name: str
    kind: Kind
    of: Of
    help: str
    labels: tuple[str, ...] = ()
    buckets: tuple[float, ...] = ()

    @property
    def all_labels(self) -> tuple[str, ...]:
        """The names of all its labels, with `process` first if it has that."""
        return ("process", *self.labels) if self.of == "process" else self.labels


_WAITS_S = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 300.0)
_RUNS_S = (0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 120.0, 300.0, 900.0)
_ROUND_TRIPS_S = (0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 5.0)
_ENTRIES = (1.0, 2.0, 5.0, 10.0, 25.0, 50.0, 100.0, 250.0, 1_000.0, 4_096.0)
_BYTES = (256.0, 1024.0, 4096.0, 16_384.0, 65_536.0, 262_144.0, 1_048_576.0)

# Reported by each process of a worker

STARTS = Metric("tailrace_starts_total", "counter", "process", "Jobs that this process has claimed and started.")
ATTEMPTS = Metric("tailrace_attempts_total", "counter", "process", "Attempts that have begun, by cause.", ("cause",))
RETRIES = Metric(
    "tailrace_retries_total",
    "counter",
    "process",
    "Failed attempts that are followed by another attempt, by error.",
    ("error",),
)
OUTCOMES = Metric(
    "tailrace_outcomes_total",
    "counter",
    "process",
    "Requests that have ended, by status and by error (`none` without one).",
    ("status", "error"),
)
DRAINED = Metric(
    "tailrace_drained_attempts_total",
    "counter",
    "process",
    "Unfinished attempts that were handed back because the process stops.",
)
LEASES_LOST = Metric(
    "tailrace_leases_lost_total",
    "counter",
    "process",
    "Leases that were not renewed in time and ended before their attempt.",
)
DELTAS = Metric("tailrace_deltas_total", "counter", "process", "Deltas that were read from models and published.")
UPSTREAM_RESPONSES = Metric(
    "tailrace_upstream_responses_total",
    "counter",
    "process",
    "Calls of the model's server, by HTTP status; `none` if there was no response.",
    ("status",),
)
BACKPRESSURE = Metric(
    "tailrace_backpressure_pauses_total",
    "counter",
    "process",
    "Times that reading a response paused because too much data waited to be written to Redis.",
)
COMMIT_FAILURES = Metric(
    "tailrace_commit_failures_total", "counter", "process", "Commits that Redis did not answer; they are sent again."
)
CPU = Metric("tailrace_process_cpu_seconds_total", "counter", "process", "Processor time of this process.")
QUEUE_WAIT = Metric(
    "tailrace_queue_wait_seconds",
    "histogram",
    "process",
    "Time from submit to the start of the first attempt.",
    (),
    _WAITS_S,
)
FIRST_DELTA = Metric(
    "tailrace_time_to_first_delta_seconds",
    "histogram",
    "process",
    "Time from submit to the first delta of the first attempt that had one, including the time in the queue.",
    (),
    _WAITS_S,
)
UPSTREAM_FIRST_DELTA = Metric(
    "tailrace_upstream_time_to_first_delta_seconds",
    "histogram",
    "process",
    "Time from the start of an attempt to its first delta: the latency of the model's server.",
    (),
    _WAITS_S,
)
DURATION = Metric(
    "tailrace_request_duration_seconds",
    "histogram",
    "process",
    "Time from submit to the end, by status.",
    ("status",),
    _RUNS_S,
)
COMMIT_DURATION = Metric(
    "tailrace_commit_duration_seconds", "histogram", "process", "Round trip of one commit to Redis.", (), _ROUND_TRIPS_S
)
COMMIT_ENTRIES = Metric(
    "tailrace_commit_entries", "histogram", "process", "Entries written with one commit.", (), _ENTRIES
)
COMMIT_BYTES = Metric("tailrace_commit_size_bytes", "histogram", "process", "Bytes of one commit.", (), _BYTES)
RUNNING = Metric("tailrace_running_requests", "gauge", "process", "Requests that run under a lease of this process.")
SLOTS = Metric("tailrace_request_slots", "gauge", "process", "Requests that this process may run at once.")
DRAINING = Metric("tailrace_draining", "gauge", "process", "1 while this process is draining, otherwise 0.")
RENEWAL_AGE = Metric(
    "tailrace_lease_renewal_age_seconds", "gauge", "process", "Time since Redis last answered a renewal of leases."
)
BACKLOG_BYTES = Metric(
    "tailrace_publisher_backlog_bytes", "gauge", "process", "Bytes of entries that are not in Redis yet."
)
BACKLOG_ENTRIES = Metric("tailrace_publisher_backlog_entries", "gauge", "process", "Entries that are not in Redis yet.")
MEMORY = Metric("tailrace_process_resident_memory_bytes", "gauge", "process", "Resident memory of this process.")

# Reported once per worker; what is in Redis is the same in every worker, so take max, not sum, over workers

PROCESSES = Metric("tailrace_worker_processes", "gauge", "worker", "Processes of this worker that report metrics.")
PROCESS_DEATHS = Metric(
    "tailrace_worker_process_deaths_total", "counter", "worker", "Processes of this worker that ended unexpectedly."
)
QUEUE_UP = Metric(
    "tailrace_queue_up", "gauge", "worker", "1 if Redis answered the query for the metrics of the queue, otherwise 0."
)
QUEUED = Metric(
    "tailrace_queue_requests", "gauge", "worker", "Requests that wait for a worker, by priority.", ("priority",)
)
QUEUE_AGE = Metric(
    "tailrace_queue_oldest_age_seconds",
    "gauge",
    "worker",
    "Time that the oldest waiting request has waited, by priority.",
    ("priority",),
)
DEFERRED = Metric("tailrace_queue_deferred_requests", "gauge", "worker", "Jobs that are due later and have not begun.")
BEGUN = Metric(
    "tailrace_queue_begun_requests",
    "gauge",
    "worker",
    "Requests that run, or pause before a retry, in the whole fleet.",
)
DEAD_LETTERS = Metric("tailrace_dead_letters", "gauge", "worker", "Requests in the dead-letter list.")
WORKERS = Metric(
    "tailrace_workers", "gauge", "worker", "Worker processes of the whole fleet that have reported in the last 15 s."
)
OUTBOX = Metric(
    "tailrace_outbox_requests",
    "gauge",
    "worker",
    "Requests that have ended and are not in the database yet.",
)
OUTBOX_AGE = Metric("tailrace_outbox_oldest_age_seconds", "gauge", "worker", "Time that the oldest of them has waited.")
OUTBOX_REFUSED = Metric(
    "tailrace_outbox_refused_requests", "gauge", "worker", "Outcomes that the database could not accept."
)
REDIS_MEMORY = Metric("tailrace_redis_memory_used_bytes", "gauge", "worker", "Memory that Redis uses.")
REDIS_MEMORY_MAX = Metric(
    "tailrace_redis_memory_max_bytes", "gauge", "worker", "Memory limit of Redis (`maxmemory`); 0 without a limit."
)

# Reported by a gateway

STREAMS = Metric("tailrace_gateway_streams", "gauge", "gateway", "Open event streams (SSE connections).")
STREAMS_ENDED = Metric(
    "tailrace_gateway_streams_ended_total",
    "counter",
    "gateway",
    "Event streams that have ended, by how they ended; `slow`: the reader read nothing for too long.",
    ("end",),
)
RESPONSES = Metric(
    "tailrace_gateway_responses_total", "counter", "gateway", "Responses that have begun, by HTTP status.", ("status",)
)
TAILS = Metric("tailrace_tails", "gauge", "gateway", "Tails that follow a request.")
TAILED = Metric("tailrace_tailed_requests", "gauge", "gateway", "Requests that are followed by at least one tail.")
FELL_BEHIND = Metric(
    "tailrace_tails_fell_behind_total",
    "counter",
    "gateway",
    "Times that a tail was too slow for the live entries and continued from the log.",
)

METRICS: tuple[Metric, ...] = tuple(value for value in dict(globals()).values() if isinstance(value, Metric))
"""All metrics, in the order above."""

ENDS = ("ended", "left", "slow", "stopped", "broken")
"""Values of the label `end`: how event streams end."""

_CODES = re.compile(r"upstream_[1-5][0-9][0-9]\Z")
_KNOWN_CODES = frozenset(
    {
        *("internal", "request_invalid", "request_too_large", "store_error", "store_unavailable", "store_full"),
        *("store_refused", "attempt_lost", "log_full", "deadline_exceeded", "unknown_request"),
        *("upstream_error", "upstream_connect", "upstream_connection_lost", "upstream_first_byte_timeout"),
        *("upstream_timeout", "upstream_truncated", "upstream_malformed", "upstream_cancelled"),
        *("job_expired", "job_unreadable", "job_unknown", "worker_crashed"),
    }
)
_CAUSES = frozenset({"first", "retry", "lease_expired", "drained"})


def error_label(code: str | None) -> str:
    """An error's code as a label value: `none` without a code, `other` for an unknown one."""
    if code is None:
        return "none"
    return code if code in _KNOWN_CODES or _CODES.match(code) else "other"


def cause_label(why: str) -> str:
    """The cause of an attempt as a label value."""
    return why if why in _CAUSES else error_label(why)
