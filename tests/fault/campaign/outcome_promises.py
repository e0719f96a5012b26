"""Promises about the end of a request: its outcome, its readers' text, its cancels, its calls of the model. Pure."""

import json
from collections.abc import Callable, Iterator
from datetime import datetime
from itertools import combinations
from typing import Any, cast

from tailrace.schemas.codec import decode_entry
from tailrace.schemas.deltas import AttemptStarted
from tailrace.schemas.outcome import Outcome
from tests.fault.campaign.answers import ScriptedAnswer
from tests.fault.campaign.case import Case
from tests.fault.campaign.history import UpstreamCall
from tests.fault.campaign.reading import Shown, collapse

CRASHES_UNTIL_DEAD = 3
CLOCK_SLACK_S = 0.05
OVERLAP_S = 0.8
AFTER_END_S = 1.5
"""How long after the end a call may stay open on a busy machine; the rest of its body is read for a second."""


def readers_have_the_outcome(case: Case) -> Iterator[str]:
    """The text of each reader, without discarded attempts, is that of the outcome."""
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
    for name, seen, expected in pairs:
        if seen != expected:
            yield f"{name} is {seen[-60:]!r}, the outcome's is {expected[-60:]!r}"
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


def outcome_matches_the_scripted_answer(case: Case) -> Iterator[str]:
    """A completed request has the whole scripted answer; any other one has a beginning of it."""
    outcome, answer = case.outcome, case.planned.answer
    if outcome is None:
        return
    whole = outcome.status == "completed"
    for name, found, expected in (
        ("content", outcome.content or "", answer.content or ""),
        ("reasoning", outcome.reasoning or "", answer.reasoning or ""),
    ):
        if found != expected if whole else not expected.startswith(found):
            yield f"{name}, {outcome.status}, is ...{found[-60:]!r}, expected {expected[:20]!r}...{expected[-40:]!r}"
    yield from _calls_match(outcome, answer, whole=whole)


def _calls_match(outcome: Outcome, answer: ScriptedAnswer, *, whole: bool) -> Iterator[str]:
    if len(outcome.tool_calls) != len(answer.calls) if whole else len(outcome.tool_calls) > len(answer.calls):
        yield f"it has {len(outcome.tool_calls)} calls, expected {len(answer.calls)}"
        return
    for call, expected in zip(outcome.tool_calls, answer.calls, strict=False):
        is_equal = call.arguments == expected.arguments
        # The interface turns arguments that never came into `{}`.
        begun = expected.arguments.startswith(call.arguments) or call.arguments == "{}"
        if call.name != expected.name or not (is_equal if whole else begun):
            yield f"call {call.name} {call.arguments[-60:]!r}; expected {expected.name} {expected.arguments[-60:]!r}"
        if whole and not call.complete:
            yield f"call {call.name} of a completed request is marked incomplete"


def status_has_a_cause(case: Case) -> Iterator[str]:
    """The status is explained by the scripted answer, the cancels or the faults."""
    outcome, expected_end = case.outcome, case.planned.answer.expected_end
    if outcome is None:
        return
    why = f"{outcome.status}, {outcome.error}; {len(case.log)} entries, {[what.kind for what in case.disturbed]}"
    match outcome.status:
        case "completed":
            if expected_end == "failed":
                yield f"it must fail, but ended {why}"
        case "cancelled":
            if not case.cancels:
                yield f"it was not cancelled, but ended {why}"
        case "failed":
            code = outcome.error.code if outcome.error else ""
            if not _may_fail(case, code):
                yield f"nothing explains this failure: {why}"
        case _:
            yield f"nothing explains this status: {why}"


def _may_fail(case: Case, code: str) -> bool:
    if code == "worker_crashed":
        return len(case.leases_lost) >= CRASHES_UNTIL_DEAD
    if code == "deadline_exceeded":
        return "timeout_s" in case.planned.request
    # `either`: on_failure is `fail`, and a fault struck after the first delta.
    return case.planned.answer.expected_end in ("failed", "either") and code.startswith("upstream_")


def cancel_answers_hold(case: Case) -> Iterator[str]:
    """After the answer `ended` the request is cancelled; after `finished` it has that status; after `signalled` no
    attempt that began later completes it."""
    if case.outcome is None:
        return
    status = case.outcome.status
    for cancel in case.cancels:
        match cancel.result:
            case "ended":
                wrong = (cancel.status, status) != ("cancelled", "cancelled")
            case "finished":
                wrong = cancel.status != status
            case "signalled":
                wrong = status == "completed" and _began_after(case, cancel.answered)
            case _:
                wrong = True
        if wrong:
            yield f"a cancel got {cancel.result} {cancel.status}, but the request is {status}"


def _began_after(case: Case, moment: float) -> bool:
    started = [entry for _, entry in case.log if isinstance(entry, AttemptStarted)]
    return bool(started) and datetime.fromisoformat(started[-1].at).timestamp() > moment + CLOCK_SLACK_S


def submit_answers_agree(case: Case) -> Iterator[str]:
    """Other content is a conflict, the same content never is, and a repeated submit finds the existing request."""
    for answer in case.submits:
        if answer.result == "conflict" and not case.planned.conflicts:
            yield "a submit of the same content was refused as a conflict"
        # arq's `enqueue_job` accepts a repetition once the job has left the queue, and after a lost reply.
        if not answer.first and answer.result == "accepted" and case.planned.how == "submit":
            yield "a repeated submit was accepted as a new request"
        if answer.first and answer.result == "existing" and not answer.failed and case.planned.how == "enqueue":
            yield "a first submit found an existing request, though no submit before it had failed"
    if case.planned.conflicts and not any(answer.result == "conflict" for answer in case.submits):
        yield "a submit with other content was not a conflict"


def only_attempts_call_the_model(case: Case) -> Iterator[str]:
    """The model is called at most once per attempt in the log, and a completed request has an answered call."""
    begun = sum(isinstance(entry, AttemptStarted) for _, entry in case.log)
    if len(case.calls) > begun:
        yield f"the model was called {len(case.calls)} times in {begun} attempts"
    if case.outcome is not None and case.outcome.status == "completed":
        # A call that the worker closed as soon as it had read the end counts as answered.
        if not any(call.ended in ("completed", "client_closed", "cut", "rst") for call in case.calls):
            yield f"it is completed, but no call was answered: {[call.ended for call in case.calls]}"


def model_calls_do_not_overlap(case: Case) -> Iterator[str]:
    """Calls of a request do not overlap for longer than closing one takes, and none stays open for longer after the
    end than the rest of a body may take. The calls of a hung worker do not count."""
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


OUTCOME_PROMISES: tuple[Callable[[Case], Iterator[str]], ...] = (
    readers_have_the_outcome,
    outcome_matches_the_scripted_answer,
    status_has_a_cause,
    cancel_answers_hold,
    submit_answers_agree,
    only_attempts_call_the_model,
    model_calls_do_not_overlap,
)
