"""Every Redis key Tailrace uses, what writes it, and how long it lives.

`<id>` is the request id. Its braces are a cluster hash tag, so both keys of a request are in one slot.

    tr:{<id>}:log         stream: the entries, one field `e` each, ids `<attempt>-<seq>`
                          lives until deadline + retention; after the end, for the retention
    tr:{<id>}:rec         hash: the record, fields below; lives as long as the log, or, while its
                          outcome waits in the outbox, OUTBOX_LIFETIME_S after the end
    arq:queue             sorted set of job ids; score: due time in ms, for a running job the end of its lease
    arq:job:<id>          arq's envelope, msgpack; its argument is the request id; arq's lifetime
    arq:in-progress:<id>  the lease: its owner's token; lives as long as the lease
    arq:retry:<id>        arq's count of starts, written by stock workers only; arq's lifetime, 88,400 s
    arq:abort             sorted set of arq's own aborts, which Tailrace does not read; an id leaves it with its job
    arq:queue:health-check  arq's health check, written by any worker; lives a little longer than the pause between two
    tr:queue:state:<id>   hash: the state of a job for claim, fields below; QUEUE_STATE_LIFETIME_S
    tr:queue:wake         list of wake-up tokens for idle workers; WAKE_LIFETIME_S
    tr:queue:lane:<lane>  sorted set: the ids that wait in a lane, `<priority>:<tenant>`, scored by time of submit;
                          gone when empty
    tr:queue:lanes        sorted set: the lanes to be served, by class and turn; gone when empty
    tr:queue:parked       sorted set: lanes with waiting requests whose tenant is at its limit; gone when empty
    tr:queue:watched      sorted set: the ids that run or pause, with their scores in arq:queue, where they sort after
                          all waiting jobs; gone when empty
    tr:queue:running:<tenant>  set: the ids of a tenant that run; gone when empty, QUEUE_STATE_LIFETIME_S
    tr:dead               sorted set: the dead-letter list, ids scored by when they died; at most DEAD_MAX,
                          DEAD_LIFETIME_S
    tr:dead:<id>          hash: one of them: error (JSON), died_ms, attempt, failures, crashes, drains, tenant (if
                          given), request (msgpack, up to DEAD_BYTES_MAX), envelope (arq's, if there is no record or it
                          could not be read); DEAD_LIFETIME_S
    tr:outbox             stream: ids of requests that have ended and are not in the database of outcomes yet; exists
                          from a sink's first read until OUTBOX_LIFETIME_S after the last one; while it does not exist
                          nothing is added
    tr:outbox:refused     hash: ids of outcomes that the database cannot take, and why (JSON); OUTBOX_LIFETIME_S
    tr:workers            sorted set: names of worker processes, scored by when they expire; WORKER_LIFETIME_S
    tr:worker:<name>      the last report of one of them, JSON (schemas/worker_report.py); WORKER_LIFETIME_S
    tr:cancel             channel, not stored: request ids to cancel, received by every worker process
    tr:push:<n>           channels, not stored, n from 0 below PUSH_SHARDS: new entries, once their log has them, for
                          live readers (schemas/push.py)

Fields of `tr:queue:state:<id>`: `attempt` (the number issued last), `crashes`, `crashed` (the attempts that ended in a
crash), `held` (1 while leased), `quarantine` (`alone`: a crash now would be its fault; `blamed`: one was), `why` (the
cause of this attempt; after a hand-back, of the next one), `since` (its place among waiting jobs), `lane` (if any).

Fields of the record: `request` (msgpack), `digest`, `status` (queued, running, or the outcome's), `api`, `model`,
`tenant`, `priority` and `retry_of` (if given), `attempt` (the last begun), `token` (of its owner), `cancel` (1 once
requested), `failures` (attempts that failed), `crashes` (workers that died or hung with it), `drains` (workers that
handed it back when they stopped), `submitted_ms`, `deadline_ms`, `retention_ms`, `started_ms`, `finished_ms`, `outcome`
(JSON), `error` (JSON, of one that failed), `dead` (1: it belongs on the dead-letter list).
"""

from hashlib import sha1

from tailrace.schemas.priority import DEFAULT_PRIORITY

QUEUE = "arq:queue"
_QUEUE_PREFIX = f"tr:{QUEUE.removeprefix('arq:')}"
"""The prefix of all our keys of this queue, derived from its name."""

HEALTH = f"{QUEUE}:health-check"
WAKE = f"{_QUEUE_PREFIX}:wake"
LANES = f"{_QUEUE_PREFIX}:lanes"
PARKED = f"{_QUEUE_PREFIX}:parked"
WATCHED = f"{_QUEUE_PREFIX}:watched"
DEAD = "tr:dead"
OUTBOX = "tr:outbox"
OUTBOX_GROUP = "sinks"
OUTBOX_REFUSED = "tr:outbox:refused"
WORKERS = "tr:workers"
CANCEL_CHANNEL = "tr:cancel"
PUSH = "tr:push:"
ABORT = "arq:abort"
ENTRY_FIELD = "e"

JOB_FUNCTION = "generate"
"""The name of the arq job function that runs a request."""

PUSH_SHARDS = 8
"""A worker sends a commit's entries in one message per shard. A client of few requests receives only their shards."""

WAKE_LIFETIME_S = 60
WAKE_TOKENS_MAX = 64
QUEUE_STATE_LIFETIME_S = 2 * 86_400

OUTBOX_LIFETIME_S = 7 * 86_400
"""How long an outcome waits for a database. The outbox expires after the same time without a sink."""

WORKER_LIFETIME_S = 60
"""How long a worker that has stopped reporting is shown as silent."""

DEAD_MAX = 1_000
DEAD_LIFETIME_S = 7 * 86_400
DEAD_BYTES_MAX = 256 * 1024
"""A larger request is not kept in its dead letter: it can be retried while its record lives."""


def log_key(request_id: str) -> str:
    """The stream of entries of a request."""
    return f"tr:{{{request_id}}}:log"


def rec_key(request_id: str) -> str:
    """The record of a request."""
    return f"tr:{{{request_id}}}:rec"


def job_key(request_id: str) -> str:
    """arq's envelope."""
    return f"arq:job:{request_id}"


def lease_key(request_id: str) -> str:
    """The lease: arq's in-progress key, holding its owner's token."""
    return f"arq:in-progress:{request_id}"


def retry_key(request_id: str) -> str:
    """arq's count of starts."""
    return f"arq:retry:{request_id}"


def queue_state_key(request_id: str) -> str:
    """The state of a job for claim."""
    return f"{_QUEUE_PREFIX}:state:{request_id}"


def lane_of(tenant: str | None, priority: str) -> str | None:
    """The lane of a request, `<priority>:<tenant>`; None for one that waits in the plain queue."""
    return None if tenant is None and priority == DEFAULT_PRIORITY else f"{priority}:{tenant or ''}"


def lane_key(lane: str) -> str:
    """The ids that wait in a lane."""
    return f"{_QUEUE_PREFIX}:lane:{lane}"


def running_key(tenant: str) -> str:
    """The ids of a tenant that run."""
    return f"{_QUEUE_PREFIX}:running:{tenant}"


def worker_key(name: str) -> str:
    """The last report of a worker process."""
    return f"tr:worker:{name}"


def dead_letter_key(job_id: str) -> str:
    """A dead letter."""
    return f"{DEAD}:{job_id}"


def push_shard(request_id: str) -> int:
    """The channel on which a request is pushed: the first digit of the SHA-1 of its id, modulo their number.

    SHA-1 because Redis' Lua has it too (`append` in `lua/_prelude.lua`). Nothing secret depends on it.
    """
    return int(sha1(request_id.encode(), usedforsecurity=False).hexdigest()[0], 16) % PUSH_SHARDS


def push_channel(number: int) -> str:
    """The name of a shard's channel."""
    return f"{PUSH}{number}"


def push_channel_pattern() -> str:
    """The pattern of all channels, for an ACL rule or PSUBSCRIBE."""
    return f"{PUSH}*"
