"""Judges a history: every promise that was broken, with the request and what was found. Pure.

Each function below is one promise and yields what breaks it; `check` asks them all. A promise has a unit test with a
history that breaks it (tests/unit/test_campaign_checker.py): a check that cannot fail is none.
"""

from collections.abc import Callable, Iterator
from itertools import accumulate
from typing import NamedTuple

import msgspec

from tailrace.broker import keys
from tailrace.schemas.deltas import TERMINALS, AttemptStarted, Gap, Stalled
from tests.fault.campaign.case import Case, cases
from tests.fault.campaign.history import History, Seen
from tests.fault.campaign.verdicts import VERDICTS

CLOSING_S = 0.8
"""A call that is being closed may overlap the next for so long, on a busy machine."""

LISTED = frozenset({"worker_crashed"})
MAY_BE_LISTED = frozenset({"deadline_exceeded"})
"""Only where the time was over before the model's server was asked: the record says so."""


class Violation(NamedTuple):
    """A broken promise: its name, whose, and what was found."""

    promise: str
    request_id: str
    found: str

    def __str__(self) -> str:
        return f"{self.promise}: {self.request_id or 'campaign'}: {self.found}"


def check(history: History) -> list[Violation]:
    """Every violation in a history."""
    found = [
        Violation(promise.__name__, case.id, what)
        for case in cases(history)
        for promise in (*PROMISES, *VERDICTS)
        for what in promise(case)
    ]
    return found + [Violation(promise.__name__, "", what) for promise in WHOLE for what in promise(history)]


# Of each request


def ends_once(case: Case) -> Iterator[str]:
    """An accepted request ends: one terminal, the last entry of its log, with an outcome of its kind."""
    if not case.accepted:
        yield "it was never accepted"
        return
    if case.record is None or not case.log:
        yield "it was accepted, and has no record or no log"
        return
    terminals = [(entry_id, entry) for entry_id, entry in case.log if isinstance(entry, TERMINALS)]
    if len(terminals) != 1:
        yield f"it has {len(terminals)} terminals: {[str(entry_id) for entry_id, _ in terminals]}, {case.tail_of_log}"
        return
    entry_id, terminal = terminals[0]
    if entry_id != case.log[-1][0]:
        yield f"its terminal {entry_id} is followed by {case.log[-1][0]}"
    outcome = case.outcome
    words = (terminal.__struct_config__.tag, case.record.get("status"), outcome.status if outcome else None)
    if len(set(words)) != 1:
        yield f"terminal, status and outcome do not say the same: {words}"
    if outcome is not None and (outcome.request_id, str(outcome.attempt)) != (case.id, str(entry_id.attempt)):
        yield f"its outcome is that of {outcome.request_id}, attempt {outcome.attempt}; the terminal is {entry_id}"
    if case.record.get("attempt") != str(entry_id.attempt):
        yield f"its record names attempt {case.record.get('attempt')}, the terminal is {entry_id}"


def entries_are_gapless(case: Case) -> Iterator[str]:
    """0-1 comes first; attempts grow; within one every entry follows the one before; each begins with its start.

    Whoever ends a request that nobody runs takes a number of his own, and his terminal is all of that attempt.
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
    """What each reader saw is the log: every entry once, in order, byte for byte, over all its comings and goings."""
    whole = [(str(entry_id), raw) for (entry_id, _), raw in zip(case.log, case.raw, strict=True)]
    for reading in case.readings:
        who = f"reader {reading.id}/{reading.reader}"
        seen = [item for segment in reading.segments for item in segment.items]
        gaps = [item.raw for item in seen if item.cursor is None and isinstance(_said(item), Gap)]
        if gaps:
            yield f"{who} was told {gaps[0]!r}"
        pairs = [(item.cursor, item.raw) for item in seen if item.cursor is not None]
        if pairs != whole:
            at = next((n for n, (one, other) in enumerate(zip(pairs, whole, strict=False)) if one != other), len(pairs))
            yield f"{who} saw {len(pairs)} of {len(whole)} entries, another than the log at {at}: {pairs[at : at + 1]}"


def _said(item: Seen) -> Gap | Stalled:
    """What a reader itself says."""
    return msgspec.json.decode(item.raw, type=Gap | Stalled)


def readers_come_back_where_they_left(case: Case) -> Iterator[str]:
    """Cursors grow strictly; a reader resumes at the last it saw, and its last segment ends with the terminal."""
    for reading in case.readings:
        who = f"reader {reading.id}/{reading.reader}"
        last: str | None = None
        for segment in reading.segments:
            if segment.after != last:
                yield f"{who} came back at {segment.after}, and had left at {last}"
            cursors = case.ids([item.cursor for item in segment.items if item.cursor is not None])
            edge = case.ids([last]) if last is not None else []
            if any(one >= other for one, other in zip([*edge, *cursors], [*edge, *cursors][1:], strict=False)):
                yield f"{who} saw cursors that do not grow after {segment.after}"
            last = str(cursors[-1]) if cursors else last
            if segment.ended not in ("left", "terminal", "StoreUnavailable"):
                yield f"{who} ended: {segment.ended}"
        if not reading.segments or reading.segments[-1].ended != "terminal":
            yield f"{who} has not seen the end: {[segment.ended for segment in reading.segments[-1:]]}"


PROMISES: tuple[Callable[[Case], Iterator[str]], ...] = (
    ends_once,
    entries_are_gapless,
    readers_saw_the_log,
    readers_come_back_where_they_left,
)


# Of the whole campaign


def nothing_is_left_in_redis(history: History) -> Iterator[str]:
    """Every key has a lifetime; of the queue nothing is left; no key is there that nobody knows."""
    final = history.final
    if final.idle_queue:
        yield f"the queue still has {final.idle_queue[:5]} when all has ended"
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
    """When all has ended no call is open; when the workers are gone no connection is."""
    final = history.final
    if final.idle_running:
        yield f"calls are still open when all has ended: {final.idle_running[:5]}"
    still = [call.key for call in final.calls if call.ended == "open"]
    if still:
        yield f"calls are open after the workers' end: {still[:5]}"
    if final.open_connections:
        yield f"{final.open_connections} connections to the model's server are open after the workers' end"


def workers_end_when_told(history: History) -> Iterator[str]:
    """No process is left; each ended by the signal it was sent, after SIGTERM with exit code 0.

    A worker that finds no Redis when it starts says so and ends: that is for whoever starts it.
    """
    if history.final.processes:
        yield f"processes are left: {history.final.processes}"
    for end in history.exits:
        if not end.was_ready and end.asked is None:
            continue
        wanted = {"SIGKILL": -9, "SIGTERM": 0}.get(end.asked or "")
        if end.code != wanted:
            yield f"worker {end.place} (pid {end.pid}) ended with {end.code} after {end.asked or 'no signal'}"


def the_dead_are_listed(history: History) -> Iterator[str]:
    """In the dead-letter list stand the jobs that nobody can run, the requests that got no fair run, and no other."""
    listed = set(history.final.dead)
    wanted = {planned.id for planned in history.plan.poison}
    for case in cases(history):
        code = case.outcome.error.code if case.outcome and case.outcome.error else ""
        if code in LISTED or (code in MAY_BE_LISTED and (case.record or {}).get("dead") == "1"):
            wanted.add(case.id)
    if missing := wanted - listed:
        yield f"missing in the dead-letter list: {sorted(missing)[:5]}"
    if others := listed - wanted:
        yield f"in the dead-letter list without reason: {sorted(others)[:5]}"


def tenants_keep_their_limit(history: History) -> Iterator[str]:
    """No tenant has more calls of the model open at once than it may have requests run.

    A worker that hangs keeps its calls open beside those of who has taken over: they do not count.
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
            yield f"tenant {tenant} had {most} calls open at once, {history.plan.form.tenant_limit} are allowed"


def only_a_limit_makes_wait(history: History) -> Iterator[str]:
    """No reader is told that nobody works on its request, but where its tenant had as many running as it may."""
    all_cases = list(cases(history))
    for case in all_cases:
        tenant = case.planned.request.get("tenant")
        of_tenant = [other for other in all_cases if tenant and other.planned.request.get("tenant") == tenant]
        for reading in case.readings:
            for item in (item for segment in reading.segments for item in segment.items if item.cursor is None):
                told = _said(item)
                if not isinstance(told, Stalled):
                    continue
                running = sum(other is not case and other.was_running(item.at) for other in of_tenant)
                if told.why != "busy" or not tenant or running < history.plan.form.tenant_limit:
                    yield f"reader {case.id}/{reading.reader} was told {item.raw!r} while {running} of {tenant} ran"


WHOLE: tuple[Callable[[History], Iterator[str]], ...] = (
    only_a_limit_makes_wait,
    nothing_is_left_in_redis,
    nothing_is_left_upstream,
    workers_end_when_told,
    tenants_keep_their_limit,
    the_dead_are_listed,
)
