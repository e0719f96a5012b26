"""Checks a history and reports every broken promise, with the request and what was found. Pure.

Each function below is one promise and yields its violations; `check` calls them all. For every promise a unit test has
histories that break it (tests/unit/test_campaign_checker.py).
"""

from collections.abc import Callable, Iterator
from itertools import accumulate
from typing import NamedTuple

import msgspec

from tailrace.broker import keys
from tailrace.schemas.deltas import TERMINALS, AttemptStarted, Gap, Stalled
from tests.fault.campaign.case import Case, cases
from tests.fault.campaign.history import History, Seen
from tests.fault.campaign.outcome_promises import OUTCOME_PROMISES

CLOSING_S = 0.8
"""A call that is being closed may overlap the next one for so long on a busy machine."""

LISTED = frozenset({"worker_crashed"})
MAY_BE_LISTED = frozenset({"deadline_exceeded"})
"""Listed only if the deadline passed before the model's server was called, which the record notes."""


class Violation(NamedTuple):
    """A broken promise: its name, the request (empty for the whole campaign), and what was found."""

    promise: str
    request_id: str
    found: str

    def __str__(self) -> str:
        return f"{self.promise}: {self.request_id or 'campaign'}: {self.found}"


def check(history: History) -> list[Violation]:
    """Returns every violation in a history."""
    found = [
        Violation(promise.__name__, case.id, what)
        for case in cases(history)
        for promise in (*LOG_PROMISES, *OUTCOME_PROMISES)
        for what in promise(case)
    ]
    return found + [Violation(promise.__name__, "", what) for promise in CAMPAIGN_PROMISES for what in promise(history)]


# Promises about each request


def ends_once(case: Case) -> Iterator[str]:
    """An accepted request ends: one terminal, the last entry of its log, with an outcome of its kind."""
    if not case.accepted:
        yield "it was never accepted"
        return
    if case.record is None or not case.log:
        yield "it was accepted but has no record or no log"
        return
    terminals = [(entry_id, entry) for entry_id, entry in case.log if isinstance(entry, TERMINALS)]
    if len(terminals) != 1:
        yield f"it has {len(terminals)} terminals: {[str(entry_id) for entry_id, _ in terminals]}, {case.tail_of_log}"
        return
    entry_id, terminal = terminals[0]
    if entry_id != case.log[-1][0]:
        yield f"its terminal {entry_id} is followed by {case.log[-1][0]}"
    outcome = case.outcome
    statuses = (terminal.__struct_config__.tag, case.record.get("status"), outcome.status if outcome else None)
    if len(set(statuses)) != 1:
        yield f"terminal, status and outcome disagree: {statuses}"
    if outcome is not None and (outcome.request_id, str(outcome.attempt)) != (case.id, str(entry_id.attempt)):
        yield f"its outcome belongs to {outcome.request_id}, attempt {outcome.attempt}; the terminal is {entry_id}"
    if case.record.get("attempt") != str(entry_id.attempt):
        yield f"its record names attempt {case.record.get('attempt')}, the terminal is {entry_id}"


def entries_are_gapless(case: Case) -> Iterator[str]:
    """The first entry is 0-1; attempts grow; ids have no gap within an attempt, which begins with `attempt_started`.

    A client that ends a request which no worker runs takes an attempt number, and writes only the terminal.
    """
    before = None
    for entry_id, entry in case.log:
        begins = before is None or entry_id.attempt != before.attempt
        if before is None:
            if str(entry_id) != "0-1" or entry.__struct_config__.tag != "accepted":
                yield f"it begins with {entry_id}, {entry.__struct_config__.tag}"
        elif begins:
            if entry_id.attempt < before.attempt or entry_id.seq != 0:
                yield f"{entry_id} follows {before}"
            if not isinstance(entry, (AttemptStarted, *TERMINALS)):
                yield f"attempt {entry_id.attempt} begins with {entry.__struct_config__.tag}"
        elif entry_id != before.next():
            yield f"{entry_id} follows {before}"
        if isinstance(entry, AttemptStarted) and (not begins or entry.attempt != entry_id.attempt):
            yield f"{entry_id} starts attempt {entry.attempt}"
        before = entry_id


def readers_saw_the_log(case: Case) -> Iterator[str]:
    """Each reader saw the log: every entry once, in order, byte for byte, over all its connections."""
    whole = [(str(entry_id), raw) for (entry_id, _), raw in zip(case.log, case.raw, strict=True)]
    for reading in case.readings:
        who = f"reader {reading.id}/{reading.reader}"
        seen = [item for segment in reading.segments for item in segment.items]
        gaps = [item.raw for item in seen if item.cursor is None and isinstance(_reader_event(item), Gap)]
        if gaps:
            yield f"{who} got {gaps[0]!r}"
        pairs = [(item.cursor, item.raw) for item in seen if item.cursor is not None]
        if pairs != whole:
            at = next((n for n, (one, other) in enumerate(zip(pairs, whole, strict=False)) if one != other), len(pairs))
            yield f"{who} saw {len(pairs)} of {len(whole)} entries, which differ at {at}: {pairs[at : at + 1]}"


def _reader_event(item: Seen) -> Gap | Stalled:
    """An item of the tail that is no entry of the log."""
    return msgspec.json.decode(item.raw, type=Gap | Stalled)


def readers_resume_at_their_cursor(case: Case) -> Iterator[str]:
    """A reader resumes at its last cursor, cursors grow strictly, and the last segment ends with the terminal."""
    for reading in case.readings:
        who = f"reader {reading.id}/{reading.reader}"
        last: str | None = None
        for segment in reading.segments:
            if segment.after != last:
                yield f"{who} resumed at {segment.after}, but its last cursor was {last}"
            cursors = case.ids([item.cursor for item in segment.items if item.cursor is not None])
            edge = case.ids([last]) if last is not None else []
            if any(one >= other for one, other in zip([*edge, *cursors], [*edge, *cursors][1:], strict=False)):
                yield f"{who} saw cursors that do not grow after {segment.after}"
            last = str(cursors[-1]) if cursors else last
            if segment.ended not in ("left", "terminal", "StoreUnavailable"):
                yield f"{who} ended: {segment.ended}"
        if not reading.segments or reading.segments[-1].ended != "terminal":
            yield f"{who} has not seen the terminal: {[segment.ended for segment in reading.segments[-1:]]}"


LOG_PROMISES: tuple[Callable[[Case], Iterator[str]], ...] = (
    ends_once,
    entries_are_gapless,
    readers_saw_the_log,
    readers_resume_at_their_cursor,
)


# Promises about the whole campaign


def nothing_is_left_in_redis(history: History) -> Iterator[str]:
    """The queue is empty, every key has a lifetime, and no unknown key exists."""
    final = history.final
    if final.idle_queue:
        yield f"the queue still has {final.idle_queue[:5]} after every request has ended"
    known = _known_keys(history)
    for key in final.keys:
        if known.get(key.name, "string" if key.name.startswith(keys.worker_key("")) else None) != key.kind:
            yield f"{key.kind} {key.name} is left"
        elif key.ttl_ms < 0:
            yield f"{key.name} has no lifetime"


def _known_keys(history: History) -> dict[str, str]:
    known = {keys.WAKE: "list", keys.DEAD: "zset", keys.WORKERS: "zset", f"{keys.QUEUE}:health-check": "string"}
    known |= {keys.dead_letter_key(request_id): "hash" for request_id in history.final.dead}
    for planned in history.plan.requests:
        known[keys.log_key(planned.id)] = "stream"
        known[keys.rec_key(planned.id)] = "hash"
        known[keys.queue_state_key(planned.id)] = "hash"
    return known


def nothing_is_left_upstream(history: History) -> Iterator[str]:
    """No call is open after every request has ended, and no connection after the workers have."""
    final = history.final
    if final.idle_running:
        yield f"calls are still open after every request has ended: {final.idle_running[:5]}"
    still = [call.key for call in final.calls if call.ended == "open"]
    if still:
        yield f"calls are open after the workers have ended: {still[:5]}"
    if final.open_connections:
        yield f"{final.open_connections} connections to the model's server are open after the workers have ended"


def workers_exit_as_signalled(history: History) -> Iterator[str]:
    """No process is left, and each ended by the signal it got, after SIGTERM with exit code 0.

    A worker that finds no Redis at its start reports an error and ends, which is correct.
    """
    if history.final.processes:
        yield f"processes are left: {history.final.processes}"
    for end in history.exits:
        if not end.was_ready and end.asked is None:
            continue
        wanted = {"SIGKILL": -9, "SIGTERM": 0}.get(end.asked or "")
        if end.code != wanted:
            yield f"worker {end.worker} (pid {end.pid}) ended with {end.code} after {end.asked or 'no signal'}"


def dead_letters_match(history: History) -> Iterator[str]:
    """The dead-letter list has the jobs that cannot be run, the requests that got no fair run, and no other."""
    listed = set(history.final.dead)
    wanted = {planned.id for planned in history.plan.poison}
    for case in cases(history):
        code = case.outcome.error.code if case.outcome and case.outcome.error else ""
        if code in LISTED or (code in MAY_BE_LISTED and (case.record or {}).get("dead") == "1"):
            wanted.add(case.id)
    if missing := wanted - listed:
        yield f"missing in the dead-letter list: {sorted(missing)[:5]}"
    if others := listed - wanted:
        yield f"in the dead-letter list without a reason: {sorted(others)[:5]}"


def tenant_limits_hold(history: History) -> Iterator[str]:
    """No tenant has more calls of the model open at once than its limit.

    The calls of a hung worker stay open beside those of the takeover and do not count.
    """
    all_cases = list(cases(history))
    tenants = {case.id: case.planned.request.get("tenant") for case in all_cases}
    for tenant in sorted({tenant for tenant in tenants.values() if tenant}):
        steps: list[tuple[float, int]] = []
        for case in all_cases:
            if tenants[case.id] == tenant:
                for call in case.calls:
                    ended = (call.ended_at or history.ended) - CLOSING_S
                    if ended > call.began and not any(
                        hang.began < ended and hang.until > call.began for hang in case.hangs
                    ):
                        steps += [(call.began, 1), (ended, -1)]
        most = max(accumulate((step for _, step in sorted(steps)), initial=0))
        if most > history.plan.form.tenant_limit:
            yield f"tenant {tenant} had {most} calls open at once, its limit is {history.plan.form.tenant_limit}"


def only_a_limit_stalls_a_reader(history: History) -> Iterator[str]:
    """A reader gets `stalled` only while the tenant of its request is at its limit."""
    all_cases = list(cases(history))
    for case in all_cases:
        tenant = case.planned.request.get("tenant")
        of_tenant = [other for other in all_cases if tenant and other.planned.request.get("tenant") == tenant]
        for reading in case.readings:
            for item in (item for segment in reading.segments for item in segment.items if item.cursor is None):
                event = _reader_event(item)
                if not isinstance(event, Stalled):
                    continue
                running = sum(other is not case and other.was_running(item.at) for other in of_tenant)
                if event.why != "busy" or not tenant or running < history.plan.form.tenant_limit:
                    yield f"reader {case.id}/{reading.reader} got {item.raw!r} while {running} requests of {tenant} ran"


CAMPAIGN_PROMISES: tuple[Callable[[History], Iterator[str]], ...] = (
    only_a_limit_stalls_a_reader,
    nothing_is_left_in_redis,
    nothing_is_left_upstream,
    workers_exit_as_signalled,
    tenant_limits_hold,
    dead_letters_match,
)
