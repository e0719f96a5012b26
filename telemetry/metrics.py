"""Every metric: its name, what it counts, its labels, its buckets. Nothing else makes up a name.

Names and units by Prometheus' rules ("Metric and label naming"): `tailrace_`, base units, `_total` for what only grows.
A label has few values, known beforehand: words of ours, HTTP statuses, numbers of processes. Never a request's id, a
tenant or a model: callers choose those, each value is a time series for ever, and a caller could fill the memory of
whoever keeps them. Who wants to know by tenant looks at `tailrace stats`, or at the outcomes.
"""

import re
from typing import Literal, NamedTuple

Kind = Literal["counter", "gauge", "histogram"]
Of = Literal["process", "worker", "gateway"]


class Metric(NamedTuple):
    """One metric.

    Attributes:
        name: in full.
        kind: of Prometheus' types.
        of: whom it is about: `process`, each process of a worker, told apart by a label `process`; `worker`, what is
            said once for all of them; `gateway`.
        help: a sentence for people.
        labels: names of its own labels.
        buckets: of a histogram, upper bounds, without the last, infinite one.
    """

    name: str
    kind: Kind
    of: Of
    help: str
    labels: tuple[str, ...] = ()
    buckets: tuple[float, ...] = ()

    @property
    def all_labels(self) -> tuple[str, ...]:
        """The labels as they are shown, `process` included."""
        return ("process", *self.labels) if self.of == "process" else self.labels


_WAITS_S = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 300.0)
_RUNS_S = (0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 120.0, 300.0, 900.0)
_ROUND_TRIPS_S = (0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 5.0)
_ENTRIES = (1.0, 2.0, 5.0, 10.0, 25.0, 50.0, 100.0, 250.0, 1_000.0, 4_096.0)
_BYTES = (256.0, 1024.0, 4096.0, 16_384.0, 65_536.0, 262_144.0, 1_048_576.0)

# Of each process of a worker

STARTS = Metric("tailrace_starts_total", "counter", "process", "Jobs that this process has claimed and started.")
ATTEMPTS = Metric(
    "tailrace_attempts_total", "counter", "process", "Attempts that have begun, by why they did.", ("cause",)
)
RETRIES = Metric(
    "tailrace_retries_total",
    "counter",
    "process",
    "Failed attempts that another one follows, by what they failed with.",
    ("error",),
)
OUTCOMES = Metric(
    "tailrace_outcomes_total",
    "counter",
    "process",
    "Requests that have ended, by status, and by what they failed with (`none` where they did not).",
    ("status", "error"),
)
DRAINED = Metric(
    "tailrace_drained_attempts_total", "counter", "process", "Attempts given back unfinished because the process goes."
)
LEASES_LOST = Metric(
    "tailrace_leases_lost_total",
    "counter",
    "process",
    "Leases that ended before their attempt did: not renewed in time.",
)
DELTAS = Metric("tailrace_deltas_total", "counter", "process", "Deltas that were read from models and published.")
UPSTREAM_RESPONSES = Metric(
    "tailrace_upstream_responses_total",
    "counter",
    "process",
    "Calls of the model's server by HTTP status; `none` where no answer began.",
    ("status",),
)
BACKPRESSURE = Metric(
    "tailrace_backpressure_pauses_total",
    "counter",
    "process",
    "Times that reading a model's answer paused because too much waited to be written to Redis.",
)
COMMIT_FAILURES = Metric(
    "tailrace_commit_failures_total", "counter", "process", "Commits that Redis did not answer; they are sent again."
)
CPU = Metric("tailrace_process_cpu_seconds_total", "counter", "process", "Processor time that this process has used.")
QUEUE_WAIT = Metric(
    "tailrace_queue_wait_seconds",
    "histogram",
    "process",
    "From submit to the begin of the first attempt.",
    (),
    _WAITS_S,
)
FIRST_DELTA = Metric(
    "tailrace_time_to_first_delta_seconds",
    "histogram",
    "process",
    "From submit to the first delta of the first attempt that had one, waiting included.",
    (),
    _WAITS_S,
)
UPSTREAM_FIRST_DELTA = Metric(
    "tailrace_upstream_time_to_first_delta_seconds",
    "histogram",
    "process",
    "From the begin of an attempt to its first delta: what the model's server takes.",
    (),
    _WAITS_S,
)
DURATION = Metric(
    "tailrace_request_duration_seconds",
    "histogram",
    "process",
    "From submit to the end, by status.",
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
DRAINING = Metric("tailrace_draining", "gauge", "process", "1 while this process takes no more requests.")
RENEWAL_AGE = Metric(
    "tailrace_lease_renewal_age_seconds", "gauge", "process", "Since the last renewal of leases that Redis answered."
)
BACKLOG_BYTES = Metric(
    "tailrace_publisher_backlog_bytes", "gauge", "process", "Bytes of entries that Redis does not have yet."
)
BACKLOG_ENTRIES = Metric(
    "tailrace_publisher_backlog_entries", "gauge", "process", "Entries that Redis does not have yet."
)
MEMORY = Metric("tailrace_process_resident_memory_bytes", "gauge", "process", "Memory that this process holds.")

# Once a worker: of its parent, and what every worker sees alike in Redis (so max, not sum, over workers)

PROCESSES = Metric("tailrace_worker_processes", "gauge", "worker", "Processes of this worker that say how they fare.")
PROCESS_DEATHS = Metric(
    "tailrace_worker_process_deaths_total", "counter", "worker", "Processes of this worker that ended unexpectedly."
)
QUEUE_UP = Metric(
    "tailrace_queue_up", "gauge", "worker", "1 when Redis told the figures of the queue, 0 when it did not."
)
QUEUED = Metric(
    "tailrace_queue_requests", "gauge", "worker", "Requests that wait for a worker, by class.", ("priority",)
)
QUEUE_AGE = Metric(
    "tailrace_queue_oldest_age_seconds",
    "gauge",
    "worker",
    "How long the one that waits longest has, by class.",
    ("priority",),
)
DEFERRED = Metric("tailrace_queue_deferred_requests", "gauge", "worker", "Jobs that are due later and have not begun.")
BEGUN = Metric("tailrace_queue_begun_requests", "gauge", "worker", "Requests that run or pause, in the whole fleet.")
DEAD_LETTERS = Metric("tailrace_dead_letters", "gauge", "worker", "Requests in the dead-letter list.")
WORKERS = Metric("tailrace_workers", "gauge", "worker", "Worker processes of the fleet that have reported lately.")
OUTBOX = Metric(
    "tailrace_outbox_requests",
    "gauge",
    "worker",
    "Requests that have ended and are not in the database yet.",
)
OUTBOX_AGE = Metric(
    "tailrace_outbox_oldest_age_seconds", "gauge", "worker", "How long the one of them that waits longest has."
)
OUTBOX_REFUSED = Metric(
    "tailrace_outbox_refused_requests", "gauge", "worker", "Outcomes that the database could not take."
)
REDIS_MEMORY = Metric("tailrace_redis_memory_used_bytes", "gauge", "worker", "Memory that Redis uses.")
REDIS_MEMORY_MAX = Metric(
    "tailrace_redis_memory_max_bytes", "gauge", "worker", "Memory that Redis may use (`maxmemory`); 0 without a limit."
)

# Of a gateway

STREAMS = Metric("tailrace_gateway_streams", "gauge", "gateway", "Event streams (SSE connections) that are open.")
STREAMS_ENDED = Metric(
    "tailrace_gateway_streams_ended_total",
    "counter",
    "gateway",
    "Event streams that are over, by how they ended; `slow`: their reader took nothing for too long.",
    ("end",),
)
RESPONSES = Metric(
    "tailrace_gateway_responses_total", "counter", "gateway", "Answers that have begun, by HTTP status.", ("status",)
)
TAILS = Metric("tailrace_tails", "gauge", "gateway", "Tails that follow a request.")
TAILED = Metric("tailrace_tailed_requests", "gauge", "gateway", "Requests that are followed by a tail or more.")
FELL_BEHIND = Metric(
    "tailrace_tails_fell_behind_total",
    "counter",
    "gateway",
    "Times that a tail was too slow for the live part, and went on from the log.",
)

METRICS: tuple[Metric, ...] = tuple(value for value in dict(globals()).values() if isinstance(value, Metric))
"""All of them, in the order in which they stand above."""

ENDS = ("ended", "left", "slow", "stopped", "broken")
"""How event streams end."""

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
    """An error's wire code as a label: `none` without one, `other` for a code that is none of ours."""
    if code is None:
        return "none"
    return code if code in _KNOWN_CODES or _CODES.match(code) else "other"


def cause_label(why: str) -> str:
    """Why an attempt begins, as a label."""
    return why if why in _CAUSES else error_label(why)
