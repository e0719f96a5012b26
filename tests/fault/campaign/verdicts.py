"""Promises about what a request comes to: its outcome, its readers' text, its cancels, its calls of the model. Pure."""

import json
from collections.abc import Callable, Iterator
from datetime import datetime
from itertools import combinations
from typing import Any, cast

from tailrace.schemas.codec import decode_entry
from tailrace.schemas.deltas import AttemptStarted
from tailrace.schemas.outcome import Outcome
from tests.fault.campaign.answers import Told
from tests.fault.campaign.case import Case
from tests.fault.campaign.history import UpstreamCall
from tests.fault.campaign.reading import Shown, collapse

CRASHES_UNTIL_DEAD = 3
CLOCK_SLACK_S = 0.05
OVERLAP_S = 0.8
AFTER_END_S = 1.5
"""How late a call may be closed on a busy machine; the rest of a body whose answer has ended is read for a second."""


def readers_have_the_outcome(case: Case) -> Iterator[str]:
    """What each reader has put together in the end, void attempts dropped, is what the outcome says."""
    if case.outcome is None:
        return
    for reading in case.readings:
        items = [item for segment in reading.segments for item in segment.items if item.cursor is not None]
        ids = case.ids([item.cursor for item in items if item.cursor is not None])
        shown = collapse(zip(ids, (decode_entry(item.raw) for item in items), strict=True))
        for what in _differences(shown, case.outcome, assistant_mode=_assistant_mode(case)):
            yield f"reader {reading.id}/{reading.reader}: {what}"


def _differences(shown: Shown, outcome: Outcome, *, assistant_mode: bool) -> Iterator[str]:
    pairs = (
        ("content", shown.content, outcome.content or ""),
        ("refusal", shown.refusal, outcome.refusal or ""),
        ("reasoning", shown.reasoning, outcome.reasoning or ""),
    )
    for name, seen, stands in pairs:
        if seen != stands:
            yield f"{name} is {seen[-60:]!r}, the outcome's is {stands[-60:]!r}"
    hidden = "send_message" if assistant_mode else None
    calls = {number: call for number, call in enumerate(outcome.tool_calls) if call.name != hidden}
    if shown.calls.keys() != calls.keys():
        yield f"calls are {list(shown.calls)}, the outcome's are {list(calls)}"
        return
    for number, call in calls.items():
        seen = shown.calls[number]
        if (seen.name, seen.call_id) != (call.name, call.id or ""):
            yield f"call {number} is {seen.name} {seen.call_id}, the outcome's is {call.name} {call.id}"
        if call.complete and _parsed(seen.arguments) != _without_thoughts(call.arguments):
            yield f"call {number} has arguments {seen.arguments[-60:]!r}, the outcome's are {call.arguments[-60:]!r}"


def _without_thoughts(arguments: str) -> object:
    parsed = _parsed(arguments)
    if not isinstance(parsed, dict):
        return parsed
    return {name: value for name, value in cast(dict[str, Any], parsed).items() if name != "inner_thoughts"}


def _parsed(text: str) -> object:
    try:
        return json.loads(text)
    except ValueError:
        return text


def _assistant_mode(case: Case) -> bool:
    return bool(case.planned.request.get("interface", {}).get("use_assistant_message"))


def outcome_is_what_was_told(case: Case) -> Iterator[str]:
    """A completed request says all the model's server was told to say; any other one a beginning of it, at most."""
    outcome, told = case.outcome, case.planned.told
    if outcome is None:
        return
    whole = outcome.status == "completed"
    for name, says, should in (
        ("content", outcome.content or "", told.content or ""),
        ("reasoning", outcome.reasoning or "", told.reasoning or ""),
    ):
        if says != should if whole else not should.startswith(says):
            yield f"{name}, {outcome.status}, ends {says[-60:]!r}, told was {should[:20]!r}...{should[-40:]!r}"
    yield from _calls_told(outcome, told, whole=whole)


def _calls_told(outcome: Outcome, told: Told, *, whole: bool) -> Iterator[str]:
    if len(outcome.tool_calls) != len(told.calls) if whole else len(outcome.tool_calls) > len(told.calls):
        yield f"it has {len(outcome.tool_calls)} calls, told were {len(told.calls)}"
        return
    for call, should in zip(outcome.tool_calls, told.calls, strict=False):
        as_told = call.arguments == should.arguments
        # Arguments that never came are `{}`, as the interface has it.
        begun = should.arguments.startswith(call.arguments) or call.arguments == "{}"
        if call.name != should.name or not (as_told if whole else begun):
            yield f"call {call.name} {call.arguments[-60:]!r}, told was {should.name} {should.arguments[-60:]!r}"
        if whole and not call.complete:
            yield f"call {call.name} of a completed request is marked incomplete"


def ends_as_it_must(case: Case) -> Iterator[str]:
    """The status is one that what was told, asked and done to it can have brought about."""
    outcome, fate = case.outcome, case.planned.told.fate
    if outcome is None:
        return
    why = f"{outcome.status}, {outcome.error}; {len(case.log)} entries, {[what.kind for what in case.disturbed]}"
    match outcome.status:
        case "completed":
            if fate == "failed":
                yield f"it must fail, and ended {why}"
        case "cancelled":
            if not case.cancels:
                yield f"nobody cancelled it, and it ended {why}"
        case "failed":
            code = outcome.error.code if outcome.error else ""
            if not _may_fail(case, code):
                yield f"it must not fail like that: {why}"
        case _:
            yield f"nothing can have brought it to {why}"


def _may_fail(case: Case, code: str) -> bool:
    if code == "worker_crashed":
        return len(case.leases_lost) >= CRASHES_UNTIL_DEAD
    if code == "deadline_exceeded":
        return "timeout_s" in case.planned.request
    # A policy to fail after the first delta, and a fault after it.
    return case.planned.told.fate in ("failed", "either") and code.startswith("upstream_")


def cancels_are_kept(case: Case) -> Iterator[str]:
    """Who was told `ended` finds it cancelled, who was told `finished` finds that status, and who was told `signalled`
    finds that no attempt that began later went on to complete it."""
    if case.outcome is None:
        return
    status = case.outcome.status
    for cancel in case.cancels:
        match cancel.word:
            case "ended":
                wrong = (cancel.status, status) != ("cancelled", "cancelled")
            case "finished":
                wrong = cancel.status != status
            case "signalled":
                wrong = status == "completed" and _began_after(case, cancel.answered)
            case _:
                wrong = True
        if wrong:
            yield f"a cancel was answered {cancel.word} {cancel.status}, and it is {status}"


def _began_after(case: Case, moment: float) -> bool:
    started = [entry for _, entry in case.log if isinstance(entry, AttemptStarted)]
    return bool(started) and datetime.fromisoformat(started[-1].at).timestamp() > moment + CLOCK_SLACK_S


def submits_agree(case: Case) -> Iterator[str]:
    """Content that differs is a conflict, the same content never is; a repetition finds the request standing."""
    for answered in case.submits:
        if answered.word == "conflict" and not case.planned.conflicts:
            yield "a submit of the same content was refused as a conflict"
        # Of arq's own enqueue a repetition is accepted once the job is gone; a lost reply looks like a first submit.
        if not answered.first and answered.word == "accepted" and case.planned.how == "submit":
            yield "a repeated submit was accepted as a new request"
        if answered.first and answered.word == "standing" and not answered.failed and case.planned.how == "enqueue":
            yield "a first submit found the request standing, and none had failed before"
    if case.planned.conflicts and not any(answered.word == "conflict" for answered in case.submits):
        yield "a submit with other content was not refused"


def model_is_called_by_attempts_alone(case: Case) -> Iterator[str]:
    """Each call of the model belongs to an attempt that readers saw begin; a completed request has one answered."""
    begun = sum(isinstance(entry, AttemptStarted) for _, entry in case.log)
    if len(case.calls) > begun:
        yield f"the model was called {len(case.calls)} times in {begun} attempts"
    if case.outcome is not None and case.outcome.status == "completed":
        # One that is closed by us as soon as its end was read counts as answered, too.
        if not any(call.ended in ("completed", "client_closed", "cut", "rst") for call in case.calls):
            yield f"it is completed, and no call was answered: {[call.ended for call in case.calls]}"


def model_speaks_to_one_at_a_time(case: Case) -> Iterator[str]:
    """No two calls are open at once for longer than it takes to close one, and none after the request's end for longer
    than the rest of a body may take. A worker that hangs cannot close its own."""
    calls = [call for call in case.calls if call.ended_at is not None and not _hung(case, call)]
    spans = sorted((call.began, call.ended_at or 0.0, call.call) for call in calls)
    for (_, one_ended, one), (other_began, other_ended, other) in combinations(spans, 2):
        both_s = min(one_ended, other_ended) - other_began
        if both_s > OVERLAP_S:
            yield f"calls {one} and {other} were open at once for {both_s:.2f} s"
    finished = int((case.record or {}).get("finished_ms", "0")) / 1000
    for _, ended, number in spans:
        if finished and ended - finished > AFTER_END_S:
            yield f"call {number} was open for {ended - finished:.2f} s after the end"


def _hung(case: Case, call: UpstreamCall) -> bool:
    return any(hang.began < (call.ended_at or 0.0) and hang.until > call.began for hang in case.hangs)


VERDICTS: tuple[Callable[[Case], Iterator[str]], ...] = (
    readers_have_the_outcome,
    outcome_is_what_was_told,
    ends_as_it_must,
    cancels_are_kept,
    submits_agree,
    model_is_called_by_attempts_alone,
    model_speaks_to_one_at_a_time,
)
