"""The campaign's checker: a sound history passes, and every promise has histories that break it."""

from collections.abc import Callable
from typing import Any

import msgspec
import pytest

from tailrace.broker.keys import log_key, queue_state_key, rec_key
from tailrace.schemas import deltas
from tailrace.schemas.codec import encode_entry, encode_outcome
from tailrace.schemas.deltas import Entry
from tailrace.schemas.outcome import Outcome, ToolCall
from tests.fault.campaign import checker, history, outcome_promises, plan, summary
from tests.fault.campaign.answers import ScriptedAnswer, ScriptedCall
from tests.fault.campaign.case import COUNTED_S
from tests.fault.campaign.history import (
    CancelCall,
    Disturbance,
    Exit,
    Final,
    History,
    KeyLeft,
    Reading,
    Seen,
    Segment,
    SubmitAnswer,
    UpstreamCall,
)
from tests.fault.campaign.plan import SHORT, Plan, PlannedFault, PlannedPoison, PlannedReader, PlannedRequest, make_plan

Log = list[tuple[str, Entry]]
Edit = Callable[[History], History]

IDS = deltas.MessageIds("message-0", "message-1")
ACCEPTED = ("0-1", deltas.Accepted(1, "2026-01-01T00:00:00.000Z", "chat", "sim"))
RAW = '{"inner_thoughts": "Hm.", "q": "mill"}'
BEGAN = 1767225600.0


def started(attempt: int, at: str = "2026-01-01T00:00:00.100Z", why: str = "first") -> tuple[str, Entry]:
    return f"{attempt}-0", deltas.AttemptStarted(1, attempt, at, why, IDS)


WHOLE_ANSWER: list[Entry] = [
    deltas.ReasoningDelta(0, 1, "Hm.", "non_reasoner_model"),
    deltas.ToolCallDelta(1, 2, 0, deltas.ToolCallPart(name="search", tool_call_id="call_1")),
    deltas.ToolCallDelta(1, 3, 0, deltas.ToolCallPart(arguments='{"q": ')),
    deltas.ToolCallDelta(1, 4, 0, deltas.ToolCallPart(arguments='"mill"}')),
    deltas.AssistantDelta(2, 5, content="One "),
    deltas.AssistantDelta(2, 6, content="moment."),
]
LOGS: dict[str, Log] = {
    "whole": [
        ACCEPTED,
        started(1),
        ("1-1", deltas.AssistantDelta(0, 1, content="discarded")),
        started(3, why="lease_expired"),
        *((f"3-{seq}", entry) for seq, entry in enumerate(WHOLE_ANSWER, start=1)),
        ("3-7", deltas.Completed(9, "stop")),
    ],
    "stopped": [
        ACCEPTED,
        started(1),
        ("1-1", deltas.AssistantDelta(0, 1, content="One ")),
        ("1-2", deltas.Cancelled(2)),
    ],
    "failed": [ACCEPTED, started(1), ("1-1", deltas.Failed(2, deltas.ErrorInfo("upstream_500", "no", "provider")))],
    "waiting": [ACCEPTED, ("1-0", deltas.Cancelled(0))],
}
OUTCOMES = {
    "whole": Outcome(
        status="completed",
        attempt=3,
        content="One moment.",
        reasoning="Hm.",
        tool_calls=(ToolCall("call_1", "search", RAW, complete=True),),
    ),
    "stopped": Outcome(status="cancelled", attempt=1, content="One "),
    "failed": Outcome(status="failed", attempt=1, error=deltas.ErrorInfo("upstream_500", "no", "provider")),
    "waiting": Outcome(status="cancelled", attempt=1),
}
ANSWER = ScriptedAnswer(content="One moment.", reasoning="Hm.", calls=(ScriptedCall("search", RAW, '{"q": "mill"}'),))


def planned(request_id: str, **given: Any) -> PlannedRequest:
    answer = ANSWER if request_id == "whole" else ScriptedAnswer(content="One moment.")
    defaults: dict[str, Any] = {
        "at_s": 0.0,
        "how": "submit",
        "via": "direct",
        "request": {"id": request_id},
        "answer": msgspec.structs.replace(answer, expected_end="failed" if request_id == "failed" else "completed"),
        "again_s": (),
        "conflicts": request_id == "whole",
        "cancel_s": (1.0,) if request_id in ("stopped", "waiting") else (),
        "readers": (PlannedReader("direct", 0.0, ()),),
    }
    return PlannedRequest(id=request_id, **{**defaults, **given})


def reading(request_id: str, log: list[tuple[str, bytes]], *cuts: int) -> Reading:
    """A reader that disconnected after each of these numbers of entries."""
    items = [Seen(cursor, raw) for cursor, raw in log]
    segments: list[Segment] = []
    at = 0
    for cut in (*cuts, len(items)):
        after = items[at - 1].cursor if at else None
        segments.append(Segment(after, items[at:cut], "terminal" if cut == len(items) else "left"))
        at = cut
    return Reading(request_id, len(cuts), segments)


def good() -> History:
    logs = {
        request_id: [(entry_id, encode_entry(entry)) for entry_id, entry in log]  # pyright: ignore[reportArgumentType] - each is an entry of a log
        for request_id, log in LOGS.items()
    }
    records = {
        request_id: {
            "status": outcome.status,
            "attempt": str(outcome.attempt),
            "finished_ms": str(int(BEGAN * 1000) + 2000),
            "outcome": encode_outcome(msgspec.structs.replace(outcome, request_id=request_id)).decode(),
        }
        for request_id, outcome in OUTCOMES.items()
    }
    called = ("whole", "whole", "stopped", "failed")
    return History(
        plan=Plan(7, SHORT, tuple(planned(request_id) for request_id in LOGS), (), ()),
        submits=[
            *(SubmitAnswer(id=name, asked=BEGAN, answered=BEGAN, result="accepted", first=True) for name in LOGS),
            SubmitAnswer(id="whole", asked=BEGAN, answered=BEGAN, result="conflict", first=False),
        ],
        cancels=[
            CancelCall(id="stopped", asked=BEGAN + 1, answered=BEGAN + 1, result="signalled", status="running"),
            CancelCall(id="stopped", asked=BEGAN + 3, answered=BEGAN + 3, result="finished", status="cancelled"),
            CancelCall(id="waiting", asked=BEGAN + 1, answered=BEGAN + 1, result="ended", status="cancelled"),
        ],
        readings=[
            *(reading(request_id, log) for request_id, log in logs.items()),
            reading("whole", logs["whole"], 1, 3, 6),
        ],
        disturbances=[Disturbance("kill_worker", 0, BEGAN + 1, BEGAN + 2, 41)],
        exits=[
            Exit(0, 41, -9, "SIGKILL", True, BEGAN + 1),
            Exit(0, 42, 1, None, False, BEGAN + 2),  # it found no Redis
            Exit(0, 43, 0, "SIGTERM", True, BEGAN + 5),
        ],
        began=BEGAN,
        repaired=BEGAN + 4,
        ended=BEGAN + 6,
        final=Final(
            idle_queue=[],
            idle_running=[],
            records=records,
            logs=logs,
            keys=[
                *(KeyLeft(log_key(request_id), "stream", 1000) for request_id in LOGS),
                *(KeyLeft(rec_key(request_id), "hash", 1000) for request_id in LOGS),
                KeyLeft("tr:queue:wake", "list", 1000),
            ],
            calls=[
                UpstreamCall(
                    name, number, "/v1/chat/completions", 200, "completed", BEGAN + number / 2, BEGAN + number / 2
                )
                for number, name in enumerate(called)
            ],
            dead=[],
            open_connections=0,
            processes=[],
        ),
    )


# Edits of a sound history


def final(**changes: Any) -> Edit:
    return lambda whole: msgspec.structs.replace(whole, final=msgspec.structs.replace(whole.final, **changes))


def log(request_id: str, edit: Callable[[list[tuple[str, bytes]]], list[tuple[str, bytes]]]) -> Edit:
    """Changes a log, and lets one reader see the changed log."""

    def apply(whole: History) -> History:
        edited = edit(list(whole.final.logs[request_id]))
        readings = [one for one in whole.readings if one.id != request_id] + [reading(request_id, edited)]
        edited_history = final(logs={**whole.final.logs, request_id: edited})(whole)
        return msgspec.structs.replace(edited_history, readings=readings)

    return apply


def record(request_id: str, **changes: str) -> Edit:
    return lambda whole: final(
        records={**whole.final.records, request_id: {**whole.final.records[request_id], **changes}}
    )(whole)


def outcome(of: str, **changes: Any) -> Edit:
    """Changes the outcome in the record."""
    changed = msgspec.structs.replace(OUTCOMES[of], **{"request_id": of, **changes})
    return record(of, outcome=encode_outcome(changed).decode())


def without(name: str) -> Edit:
    def apply(whole: History) -> History:
        kept: dict[str, Any] = {key: value for key, value in getattr(whole.final, name).items() if key != "whole"}
        return final(**{name: kept})(whole)

    return apply


def segments(edit: Callable[[list[Segment]], list[Segment]]) -> Edit:
    """Changes the segments of the reader that connected four times."""

    def apply(whole: History) -> History:
        *others, last = whole.readings
        changed = Reading(last.id, last.reader, edit(list(last.segments)))
        return msgspec.structs.replace(whole, readings=[*others, changed])

    return apply


def seen(edit: Callable[[list[Seen]], list[Seen]]) -> Edit:
    """Changes the items in the second segment of that reader."""
    return segments(
        lambda all_: [all_[0], msgspec.structs.replace(all_[1], items=edit(list(all_[1].items))), *all_[2:]]
    )


def stalled(of: str, why: deltas.StalledWhy = "busy", at: float = BEGAN + 1.5, **request: Any) -> Edit:
    """Gives its first reader a `stalled` event; `request`: fields of every request of the campaign."""

    def apply(whole: History) -> History:
        event = Seen(None, encoded(deltas.Stalled(10_000, why)), at)
        readings = [
            Reading(one.id, one.reader, [Segment(None, [event, *one.segments[0].items], one.segments[0].ended)])
            if (one.id, one.reader) == (of, 0)
            else one
            for one in whole.readings
        ]
        for name in LOGS:
            whole = plans(name, request={"id": name, **request})(whole)
        return msgspec.structs.replace(whole, readings=readings)

    return apply


def plans(request_id: str, **changes: Any) -> Edit:
    def apply(whole: History) -> History:
        requests = tuple(
            msgspec.structs.replace(one, **changes) if one.id == request_id else one for one in whole.plan.requests
        )
        return msgspec.structs.replace(whole, plan=msgspec.structs.replace(whole.plan, requests=requests))

    return apply


def cancels(result: str, status: str, *, request_id: str = "stopped", answered: float = BEGAN + 1) -> Edit:
    cancel = CancelCall(id=request_id, asked=BEGAN, answered=answered, result=result, status=status)
    return lambda whole: msgspec.structs.replace(whole, cancels=[*whole.cancels, cancel])


def submits(result: Any, *, request_id: str, first: bool = False) -> Edit:
    answer = SubmitAnswer(id=request_id, asked=BEGAN, answered=BEGAN, result=result, first=first)
    return lambda whole: msgspec.structs.replace(whole, submits=[*whole.submits, answer])


def exits(end: Exit) -> Edit:
    return lambda whole: msgspec.structs.replace(whole, exits=[*whole.exits, end])


def calls(*names: str, ended: str = "completed") -> Edit:
    """Adds calls of the model."""
    made = [UpstreamCall(name, 9, "/v1/chat/completions", 200, ended, BEGAN, BEGAN) for name in names]
    return lambda whole: final(calls=[*whole.final.calls, *made])(whole)


def call_lasts(number: int, until: float) -> Edit:
    """Changes when a call is closed."""

    def apply(whole: History) -> History:
        made = list(whole.final.calls)
        made[number] = msgspec.structs.replace(made[number], ended_at=until)
        return final(calls=made)(whole)

    return apply


def keys_left(*left: KeyLeft) -> Edit:
    return lambda whole: final(keys=[*whole.final.keys, *left])(whole)


def encoded(entry: Any) -> bytes:
    return encode_entry(entry)


TEXT = encoded(deltas.AssistantDelta(2, 7, content=" More"))
DONE = encoded(deltas.Completed(9, "stop"))
INCOMPLETE = ToolCall("call_1", "search", RAW, complete=False)
INTERNAL = deltas.ErrorInfo("internal", "a fault", "operator")
CRASHED = deltas.ErrorInfo("worker_crashed", "its worker died", "operator")
OVERDUE = deltas.ErrorInfo("deadline_exceeded", "over", "caller")

BROKEN: list[tuple[str, str, Edit]] = [
    ("ends_once", "never accepted", lambda whole: msgspec.structs.replace(whole, submits=whole.submits[1:])),
    ("ends_once", "record lost", without("records")),
    ("ends_once", "log lost", without("logs")),
    ("ends_once", "no terminal", log("whole", lambda entries: entries[:-1])),
    ("ends_once", "two terminals", log("whole", lambda entries: [*entries, ("3-8", DONE)])),
    ("ends_once", "an entry after the terminal", log("whole", lambda entries: [*entries, ("3-8", TEXT)])),
    ("ends_once", "status of another kind", record("whole", status="failed")),
    ("ends_once", "still running", record("whole", status="running")),
    ("ends_once", "outcome of another kind", outcome("whole", status="incomplete")),
    ("ends_once", "no outcome", lambda whole: _without_outcome(whole)),
    ("ends_once", "outcome of another attempt", outcome("whole", attempt=2)),
    ("ends_once", "outcome of another request", outcome("whole", request_id="stopped")),
    ("ends_once", "record of another attempt", record("whole", attempt="4")),
    ("entries_are_gapless", "accepted is missing", log("whole", lambda entries: entries[1:])),
    ("entries_are_gapless", "a hole", log("whole", lambda entries: entries[:5] + entries[6:])),
    ("entries_are_gapless", "attempts shrink", log("whole", lambda entries: [entries[0], *entries[3:4], *entries[1:]])),
    ("entries_are_gapless", "an attempt without its start", log("whole", lambda entries: entries[:1] + entries[2:])),
    (
        "entries_are_gapless",
        "an attempt that begins with a delta",
        log("whole", lambda entries: [*entries[:3], ("3-0", TEXT), *entries[4:]]),
    ),
    (
        "entries_are_gapless",
        "a start that names another attempt",
        log("whole", lambda entries: [entries[0], ("1-0", encoded(started(2)[1])), *entries[2:]]),
    ),
    (
        "entries_are_gapless",
        "a start in the middle",
        log("whole", lambda entries: [*entries[:2], ("1-1", encoded(started(1)[1])), *entries[3:]]),
    ),
    ("readers_saw_the_log", "an entry is missing", seen(lambda items: items[:-1])),
    ("readers_saw_the_log", "an entry comes twice", seen(lambda items: [*items, items[-1]])),
    ("readers_saw_the_log", "two entries change places", seen(lambda items: items[::-1])),
    ("readers_saw_the_log", "an entry is another", seen(lambda items: [Seen(items[0].cursor, TEXT), *items[1:]])),
    ("readers_saw_the_log", "a gap event", seen(lambda items: [*items, Seen(None, encoded(deltas.Gap("1-0", "1-2")))])),
    ("only_a_limit_stalls_a_reader", "no tenant, no limit", stalled("waiting")),
    ("only_a_limit_stalls_a_reader", "no worker", stalled("waiting", "no_worker", tenant="acme")),
    (
        "only_a_limit_stalls_a_reader",
        "below the limit",
        stalled("waiting", at=BEGAN + 2.1 + COUNTED_S, tenant="acme"),
    ),
    ("readers_saw_the_log", "the end is not seen", segments(lambda all_: all_[:-1])),
    (
        "readers_resume_at_their_cursor",
        "resumed at another cursor",
        segments(lambda all_: [all_[0], msgspec.structs.replace(all_[1], after="0-0"), *all_[2:]]),
    ),
    ("readers_resume_at_their_cursor", "a cursor repeated", seen(lambda items: [items[0], *items])),
    ("readers_resume_at_their_cursor", "an earlier cursor", segments(lambda all_: [*all_, all_[0]])),
    (
        "readers_resume_at_their_cursor",
        "an error",
        segments(lambda all_: [*all_[:-1], msgspec.structs.replace(all_[-1], ended="CursorInvalid: 3-7")]),
    ),
    (
        "readers_resume_at_their_cursor",
        "never finished",
        segments(lambda all_: [*all_[:-1], msgspec.structs.replace(all_[-1], ended="left")]),
    ),
    ("readers_resume_at_their_cursor", "saw nothing", segments(lambda _: [])),
    ("readers_have_the_outcome", "content", outcome("whole", content="One moment")),
    ("readers_have_the_outcome", "reasoning", outcome("whole", reasoning=None)),
    ("readers_have_the_outcome", "refusal", outcome("whole", refusal="No.")),
    ("readers_have_the_outcome", "calls", outcome("whole", tool_calls=())),
    ("readers_have_the_outcome", "id", outcome("whole", tool_calls=(ToolCall("call_2", "search", RAW, True),))),
    (
        "readers_have_the_outcome",
        "arguments",
        outcome("whole", tool_calls=(ToolCall("call_1", "search", '{"q": "mil"}', True),)),
    ),
    (
        "readers_have_the_outcome",
        "discarded text counted",
        log("whole", lambda entries: [*entries[:3], *_renumbered(entries[4:], 1)]),
    ),
    ("outcome_matches_the_scripted_answer", "completed with a part", outcome("whole", content="One ")),
    ("outcome_matches_the_scripted_answer", "completed with another text", outcome("whole", content="Two moments.")),
    ("outcome_matches_the_scripted_answer", "another reasoning", outcome("whole", reasoning="Ha.")),
    ("outcome_matches_the_scripted_answer", "a call is missing", outcome("whole", tool_calls=())),
    ("outcome_matches_the_scripted_answer", "a call is incomplete", outcome("whole", tool_calls=(INCOMPLETE,))),
    (
        "outcome_matches_the_scripted_answer",
        "other arguments",
        outcome("whole", tool_calls=(ToolCall("call_1", "search", '{"q": "mile"}', True),)),
    ),
    ("outcome_matches_the_scripted_answer", "cancelled with another text", outcome("stopped", content="One,")),
    (
        "outcome_matches_the_scripted_answer",
        "cancelled with a call too many",
        outcome("stopped", tool_calls=(INCOMPLETE,)),
    ),
    (
        "status_has_a_cause",
        "completed where it must fail",
        plans("whole", answer=msgspec.structs.replace(ANSWER, expected_end="failed")),
    ),
    (
        "status_has_a_cause",
        "cancelled without a cancel",
        lambda whole: msgspec.structs.replace(whole, cancels=whole.cancels[:2]),
    ),
    ("status_has_a_cause", "failed where it must complete", plans("failed", answer=ScriptedAnswer())),
    ("status_has_a_cause", "failed with an internal error", outcome("failed", error=INTERNAL)),
    ("status_has_a_cause", "crashed without a fault", outcome("failed", error=CRASHED)),
    ("status_has_a_cause", "deadline exceeded without a time limit", outcome("failed", error=OVERDUE)),
    ("status_has_a_cause", "incomplete", outcome("whole", status="incomplete")),
    ("cancel_answers_hold", "ended, but completed", cancels("ended", "cancelled", request_id="whole")),
    ("cancel_answers_hold", "finished with another status", cancels("finished", "completed")),
    ("cancel_answers_hold", "unknown", cancels("unknown", "")),
    (
        "cancel_answers_hold",
        "signalled, but a later attempt completes",
        cancels("signalled", "running", request_id="whole", answered=BEGAN),
    ),
    ("submit_answers_agree", "a conflict of the same content", submits("conflict", request_id="stopped")),
    ("submit_answers_agree", "accepted twice", submits("accepted", request_id="stopped")),
    (
        "submit_answers_agree",
        "existing before it was submitted",
        lambda whole: plans("stopped", how="enqueue")(submits("existing", request_id="stopped", first=True)(whole)),
    ),
    ("submit_answers_agree", "other content is no conflict", plans("stopped", conflicts=True)),
    ("only_attempts_call_the_model", "called once more", calls("whole")),
    ("only_attempts_call_the_model", "called without an attempt", calls("waiting")),
    ("only_attempts_call_the_model", "never answered", final(calls=[])),
    ("model_calls_do_not_overlap", "two at once", lambda whole: _two_at_once(whole)),
    ("model_calls_do_not_overlap", "after the end", call_lasts(3, BEGAN + 3.6)),
    ("nothing_is_left_in_redis", "queued", final(idle_queue=["whole"])),
    ("nothing_is_left_in_redis", "a lease", keys_left(KeyLeft("arq:in-progress:whole", "string", 900))),
    ("nothing_is_left_in_redis", "a job", keys_left(KeyLeft("arq:job:whole", "string", 900))),
    ("nothing_is_left_in_redis", "a result", keys_left(KeyLeft("arq:result:whole", "string", 900))),
    ("nothing_is_left_in_redis", "an abort", keys_left(KeyLeft("arq:abort", "zset", -1))),
    ("nothing_is_left_in_redis", "the queue", keys_left(KeyLeft("arq:queue", "zset", -1))),
    ("nothing_is_left_in_redis", "for ever", keys_left(KeyLeft(queue_state_key("whole"), "hash", -1))),
    ("nothing_is_left_upstream", "open when idle", final(idle_running=["whole"])),
    ("nothing_is_left_upstream", "open at the end", calls("whole", ended="open")),
    ("nothing_is_left_upstream", "a connection", final(open_connections=1)),
    ("tenant_limits_hold", "above the limit", lambda whole: _crowded(whole)),
    ("dead_letters_match", "a poisoned job is missing", lambda whole: final(dead=[])(_poisoned(whole))),
    ("dead_letters_match", "a crashed request is missing", outcome("failed", error=CRASHED)),
    ("dead_letters_match", "a completed request is listed", final(dead=["whole"])),
    ("dead_letters_match", "an overdue request is missing", lambda whole: _late(whole)),
    ("workers_exit_as_signalled", "left", final(processes=[44])),
    ("workers_exit_as_signalled", "by itself", exits(Exit(1, 44, 0, None, True, BEGAN))),
    ("workers_exit_as_signalled", "with exit code 1", exits(Exit(1, 44, 1, "SIGTERM", True, BEGAN))),
    ("workers_exit_as_signalled", "by another signal", exits(Exit(1, 44, -15, "SIGTERM", True, BEGAN))),
]


def _without_outcome(whole: History) -> History:
    kept = {name: value for name, value in whole.final.records["whole"].items() if name != "outcome"}
    return final(records={**whole.final.records, "whole": kept})(whole)


def _poisoned(whole: History) -> History:
    jobs = (PlannedPoison("poison", 0.0, "garbage"),)
    edited_history = msgspec.structs.replace(whole, plan=msgspec.structs.replace(whole.plan, poison=jobs))
    return final(dead=["poison"])(edited_history)


def _late(whole: History) -> History:
    return record("failed", dead="1")(outcome("failed", error=OVERDUE)(whole))


def _two_at_once(whole: History) -> History:
    return call_lasts(1, BEGAN + 1.8)(call_lasts(0, BEGAN + 1.7)(whole))


def _crowded(whole: History) -> History:
    made = [UpstreamCall("waiting", n, "/v1/responses", 200, "completed", BEGAN, BEGAN + 1) for n in range(4)]
    return plans("waiting", request={"id": "waiting", "tenant": "acme"})(final(calls=made)(whole))


def _renumbered(entries: list[tuple[str, bytes]], attempt: int) -> list[tuple[str, bytes]]:
    return [(f"{attempt}-{seq}", raw) for seq, (_, raw) in enumerate(entries, start=2)]


def test_a_sound_history_passes() -> None:
    # given four requests that ended in four ways, expect no violation
    assert checker.check(good()) == []


@pytest.mark.parametrize(
    ("promise", "edit_history"),
    [pytest.param(promise, edit_history, id=f"{promise}: {what}") for promise, what, edit_history in BROKEN],
)
def test_a_broken_promise_is_found(promise: str, edit_history: Edit) -> None:
    # given a history in which one promise is broken, expect a violation of that promise
    assert promise in {violation.promise for violation in checker.check(edit_history(good()))}


def test_every_promise_has_a_history_that_breaks_it() -> None:
    # given the promises of the checker, expect each to be broken above at least once
    asked = {
        promise.__name__
        for promise in (*checker.LOG_PROMISES, *outcome_promises.OUTCOME_PROMISES, *checker.CAMPAIGN_PROMISES)
    }
    assert asked == {promise for promise, _, _ in BROKEN}


def test_enough_kills_explain_a_crashed_request() -> None:
    # given a request that failed by crashes, if three workers were killed, expect no violation; after two, one
    edited_history = final(dead=["failed"])(outcome("failed", error=CRASHED)(good()))
    kills = [Disturbance("kill_worker", 0, BEGAN + n / 10, BEGAN + n / 10, 50 + n) for n in range(3)]
    cuts = [Disturbance("cut", 0, BEGAN + n / 10, BEGAN + n / 10) for n in range(3)]
    assert checker.check(msgspec.structs.replace(edited_history, disturbances=kills)) == []
    assert checker.check(msgspec.structs.replace(edited_history, disturbances=[*kills[:2], *cuts])) != []


def test_a_request_may_complete_after_it_was_signalled() -> None:
    # given a cancel that was signalled, if no attempt began afterwards, expect no violation
    assert checker.check(cancels("signalled", "running", request_id="whole")(good())) == []


def test_a_call_of_a_hung_worker_may_stay_open() -> None:
    # given two calls that overlap, if a worker was stopped meanwhile, expect no violation
    hang = [Disturbance("hang_worker", 0, BEGAN + 0.1, BEGAN + 1.5)]
    edited_history = msgspec.structs.replace(_two_at_once(good()), disturbances=hang)
    assert checker.check(edited_history) == []


def test_a_listed_job_that_cannot_be_run_is_no_violation() -> None:
    # given a job that cannot be run, if the dead-letter list has it, expect no violation
    assert checker.check(_poisoned(good())) == []


def test_a_reader_may_be_stalled_while_its_tenant_is_at_the_limit() -> None:
    # given a tenant at its limit, if a reader of another request got `stalled`, expect no violation
    assert plan.SHORT.tenant_limit == 3
    assert checker.check(stalled("waiting", tenant="acme")(good())) == []
    assert checker.check(stalled("waiting", at=BEGAN + 2 + COUNTED_S, tenant="acme")(good())) == []


def test_a_history_can_be_dumped_and_loaded() -> None:
    # given a history, if it is dumped and loaded, expect the same
    assert history.load(history.dump(good())) == good()


def test_the_summary_counts_ends_and_takeovers() -> None:
    # given the history, expect its ends and its takeovers counted
    text = "\n".join(summary.lines(good()))
    assert "1 completed" in text
    assert "2 cancelled" in text
    assert "1 lease_expired" in text


@pytest.mark.parametrize("form", plan.FORMS.values(), ids=list(plan.FORMS))
def test_a_seed_has_one_plan(form: plan.Form) -> None:
    # given a seed, expect the same plan each time, and another plan for another seed
    assert make_plan(3, form) == make_plan(3, form)
    assert make_plan(3, form) != make_plan(4, form)


def test_a_server_that_may_lose_writes_is_not_killed() -> None:
    # given a server that does not write to disk before it answers, expect plans that stop it and never kill it
    kinds: set[str] = set()
    for seed in range(20):
        faults: tuple[PlannedFault, ...] = make_plan(seed, msgspec.structs.replace(SHORT, fsync="everysec")).faults
        kinds |= {fault.kind for fault in faults}
    assert "stop_server" in kinds
    assert "kill_server" not in kinds
