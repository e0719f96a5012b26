"""Every Redis key Tailrace uses, who writes it, and how long it lives.

Glossary (`<id>` is the request id; the braces are a cluster hash tag, so both keys of a request share a slot):

    tr:{<id>}:log         stream: the entries, one field `e` each, ids `<attempt>-<seq>`
                          lives until deadline + retention, from the end on for the retention
    tr:{<id>}:rec         hash: the record, fields below; lives as long as the log, and where its
                          outcome waits in the outbox, OUTBOX_LIFETIME_S from the end on
    arq:queue             sorted set of job ids; score: due time in ms, for a running job the end of its lease
    arq:job:<id>          arq's envelope, msgpack; its argument is the request id; arq's lifetime
    arq:in-progress:<id>  the lease: its owner's token; lives as long as the lease
    arq:retry:<id>        arq's count of starts, of a stock worker only: ours count attempts; arq's lifetime, 88,400 s
    arq:abort             sorted set of arq's own aborts, which we do not look at; an id leaves it with its job
    arq:queue:health-check  arq's sign of life, by any worker; a little longer than the pause between two
    tr:queue:state:<id>   hash: what claim knows of a job: attempt (number minted last), crashes, crashed (the attempts
                          they ended), held (1 while leased), trial (alone: it would be to blame for a
                          crash; blamed), why (the next attempt begins, when it was handed back), since (its place among
                          those that wait), and of one that came from a lane: lane; QUEUE_STATE_LIFETIME_S
    tr:queue:wake         list of wake-up tokens for idle workers; WAKE_LIFETIME_S
    tr:queue:lane:<lane>  sorted set: the ids that wait in a lane, `<priority>:<tenant>`, by when they were submitted;
                          gone when empty
    tr:queue:lanes        sorted set: the lanes that are to be served, by class and turn; gone when empty
    tr:queue:parked       sorted set: lanes in which somebody waits whose tenant runs as many as it may; gone when empty
    tr:queue:watched      sorted set: the ids that run or pause, with their scores in arq:queue, where they stand behind
                          all that waits; gone when empty
    tr:queue:running:<tenant>  set: the ids of a tenant that run; gone when empty, QUEUE_STATE_LIFETIME_S
    tr:dead               sorted set: the dead-letter list, ids by when they died; at most DEAD_MAX, DEAD_LIFETIME_S
    tr:dead:<id>          hash: one of them: error (JSON), died_ms, attempt, failures, crashes, drains, tenant (where
                          given), request (msgpack, up to DEAD_BYTES_MAX), envelope (arq's, where there is no record or
                          it could not be read); DEAD_LIFETIME_S
    tr:outbox             stream: ids of requests that have ended and are not in the database of outcomes yet; stands
                          from a sink's first look on, OUTBOX_LIFETIME_S after a sink's last; nothing is put where it
                          does not stand
    tr:outbox:refused     hash: ids of outcomes that the database cannot take, and why (JSON); OUTBOX_LIFETIME_S
    tr:workers            sorted set: names of worker processes, by when they are forgotten; WORKER_LIFETIME_S
    tr:worker:<name>      what one of them said last, JSON (report.py); WORKER_LIFETIME_S
    tr:cancel             channel, not stored: request ids to cancel, heard by every worker process
    tr:push:<n>           channels, not stored, n from 0 below PUSH_SHARDS: new entries, once their log has them, for
                          those who follow live (push.py)

Fields of the record: `request` (msgpack), `digest`, `status` (queued, running, or the outcome's), `api`, `model`,
`tenant`, `priority` and `retry_of` (where given), `attempt` (the last begun), `token` (its owner), `cancel` (1 once
asked for), `failures` (attempts that failed), `crashes` (workers that died or hung with it), `drains` (workers that
went and handed it back), `submitted_ms`, `deadline_ms`, `retention_ms`, `started_ms`, `finished_ms`, `outcome` (JSON),
`error` (JSON, of one that failed), `dead` (1: it belongs into the dead-letter list).
"""

from hashlib import sha1

from tailrace.schemas.priority import DEFAULT_PRIORITY

QUEUE = "arq:queue"
HEALTH = "arq:queue:health-check"
WAKE = "tr:queue:wake"
LANES = "tr:queue:lanes"
PARKED = "tr:queue:parked"
WATCHED = "tr:queue:watched"
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
"""A worker sends a commit's entries in one message a shard; who follows few requests hears only their shards."""

WAKE_LIFETIME_S = 60
WAKE_TOKENS_MAX = 64
QUEUE_STATE_LIFETIME_S = 2 * 86_400

OUTBOX_LIFETIME_S = 7 * 86_400
"""An outcome waits so long for a database; without any sink for so long there is no outbox any more."""

WORKER_LIFETIME_S = 60
"""One that says nothing any more is shown as silent for so long."""

DEAD_MAX = 1_000
DEAD_LIFETIME_S = 7 * 86_400
DEAD_BYTES_MAX = 256 * 1024
"""A larger request stands in no dead letter: it can be retried as long as its record stands."""


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
    """What claim knows of a job."""
    return f"tr:queue:state:{request_id}"


def lane_of(tenant: str | None, priority: str) -> str | None:
    """The lane of a request, `<priority>:<tenant>`; None where it waits in the plain queue."""
    return None if tenant is None and priority == DEFAULT_PRIORITY else f"{priority}:{tenant or ''}"


def lane_key(lane: str) -> str:
    """The ids that wait in a lane."""
    return f"tr:queue:lane:{lane}"


def running_key(tenant: str) -> str:
    """What of a tenant runs."""
    return f"tr:queue:running:{tenant}"


def worker_key(name: str) -> str:
    """What a worker process has said of itself."""
    return f"tr:worker:{name}"


def letter_key(job_id: str) -> str:
    """A dead letter."""
    return f"{DEAD}:{job_id}"


def push_shard(request_id: str) -> int:
    """Which of the channels a request is pushed on: the first digit of the SHA-1 of its id, modulo their number.

    SHA-1 because Redis' Lua has it too (`append` in `lua/_prelude.lua`): nothing secret hangs on it.
    """
    return int(sha1(request_id.encode(), usedforsecurity=False).hexdigest()[0], 16) % PUSH_SHARDS


def push_channel(number: int) -> str:
    """The name of a shard's channel."""
    return f"{PUSH}{number}"


def push_channel_pattern() -> str:
    """All of the channels, as an ACL rule or PSUBSCRIBE names them."""
    return f"{PUSH}*"
