"""The campaign's checker: a history without fault passes; for each promise one that breaks it is refused."""

from collections.abc import Callable
from typing import Any

import msgspec
import pytest

from tailrace.broker.keys import log_key, queue_state_key, rec_key
from tailrace.schemas import deltas
from tailrace.schemas.codec import encode_entry, encode_outcome
from tailrace.schemas.deltas import Entry
from tailrace.schemas.outcome import Outcome, ToolCall
from tests.fault.campaign import checker, figures, history, plan, verdicts
from tests.fault.campaign.answers import Told, ToldCall
from tests.fault.campaign.case import COUNTED_S
from tests.fault.campaign.history import (
    Answered,
    CancelCall,
    Disturbance,
    Exit,
    Final,
    History,
    KeyLeft,
    Reading,
    Seen,
    Segment,
    UpstreamCall,
)
from tests.fault.campaign.plan import SHORT, Plan, PlannedFault, PlannedPoison, PlannedReader, PlannedRequest, make_plan

Log = list[tuple[str, Entry]]
Doctor = Callable[[History], History]

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
        ("1-1", deltas.AssistantDelta(0, 1, content="void")),
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
TOLD = Told(content="One moment.", reasoning="Hm.", calls=(ToldCall("search", RAW, '{"q": "mill"}'),))


def planned(request_id: str, **given: Any) -> PlannedRequest:
    told = TOLD if request_id == "whole" else Told(content="One moment.")
    defaults: dict[str, Any] = {
        "at_s": 0.0,
        "how": "submit",
        "via": "direct",
        "request": {"id": request_id},
        "told": msgspec.structs.replace(told, fate="failed" if request_id == "failed" else "completed"),
        "again_s": (),
        "conflicts": request_id == "whole",
        "cancel_s": (1.0,) if request_id in ("stopped", "waiting") else (),
        "readers": (PlannedReader("direct", 0.0, ()),),
    }
    return PlannedRequest(id=request_id, **{**defaults, **given})


def reading(request_id: str, log: list[tuple[str, bytes]], *cuts: int) -> Reading:
    """A reader that left after so many entries, each time."""
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
            *(Answered(id=name, asked=BEGAN, answered=BEGAN, word="accepted", first=True) for name in LOGS),
            Answered(id="whole", asked=BEGAN, answered=BEGAN, word="conflict", first=False),
        ],
        cancels=[
            CancelCall(id="stopped", asked=BEGAN + 1, answered=BEGAN + 1, word="signalled", status="running"),
            CancelCall(id="stopped", asked=BEGAN + 3, answered=BEGAN + 3, word="finished", status="cancelled"),
            CancelCall(id="waiting", asked=BEGAN + 1, answered=BEGAN + 1, word="ended", status="cancelled"),
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
        healed=BEGAN + 4,
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


# Ways to doctor a history


def final(**changes: Any) -> Doctor:
    return lambda whole: msgspec.structs.replace(whole, final=msgspec.structs.replace(whole.final, **changes))


def log(request_id: str, edit: Callable[[list[tuple[str, bytes]]], list[tuple[str, bytes]]]) -> Doctor:
    """The log is another, and every reader has seen it so."""

    def doctor(whole: History) -> History:
        edited = edit(list(whole.final.logs[request_id]))
        readings = [one for one in whole.readings if one.id != request_id] + [reading(request_id, edited)]
        doctored = final(logs={**whole.final.logs, request_id: edited})(whole)
        return msgspec.structs.replace(doctored, readings=readings)

    return doctor


def record(request_id: str, **changes: str) -> Doctor:
    return lambda whole: final(
        records={**whole.final.records, request_id: {**whole.final.records[request_id], **changes}}
    )(whole)


def outcome(of: str, **changes: Any) -> Doctor:
    """The outcome is another, and its record says the same."""
    changed = msgspec.structs.replace(OUTCOMES[of], **{"request_id": of, **changes})
    return record(of, outcome=encode_outcome(changed).decode())


def without(name: str) -> Doctor:
    def doctor(whole: History) -> History:
        kept: dict[str, Any] = {key: value for key, value in getattr(whole.final, name).items() if key != "whole"}
        return final(**{name: kept})(whole)

    return doctor


def segments(edit: Callable[[list[Segment]], list[Segment]]) -> Doctor:
    """What the reader that came four times saw is another."""

    def doctor(whole: History) -> History:
        *others, last = whole.readings
        changed = Reading(last.id, last.reader, edit(list(last.segments)))
        return msgspec.structs.replace(whole, readings=[*others, changed])

    return doctor


def seen(edit: Callable[[list[Seen]], list[Seen]]) -> Doctor:
    """What that reader saw in its second segment is another."""
    return segments(
        lambda all_: [all_[0], msgspec.structs.replace(all_[1], items=edit(list(all_[1].items))), *all_[2:]]
    )


def told_to_wait(of: str, why: deltas.StalledWhy = "busy", at: float = BEGAN + 1.5, **request: Any) -> Doctor:
    """Its first reader was told that nobody works on it; `request`: fields of every request of the campaign."""

    def doctor(whole: History) -> History:
        told = Seen(None, said(deltas.Stalled(10_000, why)), at)
        readings = [
            Reading(one.id, one.reader, [Segment(None, [told, *one.segments[0].items], one.segments[0].ended)])
            if (one.id, one.reader) == (of, 0)
            else one
            for one in whole.readings
        ]
        for name in LOGS:
            whole = plans(name, request={"id": name, **request})(whole)
        return msgspec.structs.replace(whole, readings=readings)

    return doctor


def plans(request_id: str, **changes: Any) -> Doctor:
    def doctor(whole: History) -> History:
        requests = tuple(
            msgspec.structs.replace(one, **changes) if one.id == request_id else one for one in whole.plan.requests
        )
        return msgspec.structs.replace(whole, plan=msgspec.structs.replace(whole.plan, requests=requests))

    return doctor


def cancels(word: str, status: str, *, request_id: str = "stopped", answered: float = BEGAN + 1) -> Doctor:
    told = CancelCall(id=request_id, asked=BEGAN, answered=answered, word=word, status=status)
    return lambda whole: msgspec.structs.replace(whole, cancels=[*whole.cancels, told])


def submits(word: Any, *, request_id: str, first: bool = False) -> Doctor:
    told = Answered(id=request_id, asked=BEGAN, answered=BEGAN, word=word, first=first)
    return lambda whole: msgspec.structs.replace(whole, submits=[*whole.submits, told])


def exits(end: Exit) -> Doctor:
    return lambda whole: msgspec.structs.replace(whole, exits=[*whole.exits, end])


def calls(*names: str, ended: str = "completed") -> Doctor:
    """More calls of the model."""
    made = [UpstreamCall(name, 9, "/v1/chat/completions", 200, ended, BEGAN, BEGAN) for name in names]
    return lambda whole: final(calls=[*whole.final.calls, *made])(whole)


def call_lasts(number: int, until: float) -> Doctor:
    """One of the calls is closed only then."""

    def doctor(whole: History) -> History:
        made = list(whole.final.calls)
        made[number] = msgspec.structs.replace(made[number], ended_at=until)
        return final(calls=made)(whole)

    return doctor


def keys_left(*left: KeyLeft) -> Doctor:
    return lambda whole: final(keys=[*whole.final.keys, *left])(whole)


def said(entry: Any) -> bytes:
    return encode_entry(entry)


TEXT = said(deltas.AssistantDelta(2, 7, content=" More"))
DONE = said(deltas.Completed(9, "stop"))
INCOMPLETE = ToolCall("call_1", "search", RAW, complete=False)
FAILED_SO = deltas.ErrorInfo("internal", "a fault", "operator")
CRASHED = deltas.ErrorInfo("worker_crashed", "its worker died", "operator")
TOO_LATE = deltas.ErrorInfo("deadline_exceeded", "over", "caller")

DOCTORED: list[tuple[str, str, Doctor]] = [
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
        log("whole", lambda entries: [entries[0], ("1-0", said(started(2)[1])), *entries[2:]]),
    ),
    (
        "entries_are_gapless",
        "a start in the middle",
        log("whole", lambda entries: [*entries[:2], ("1-1", said(started(1)[1])), *entries[3:]]),
    ),
    ("readers_saw_the_log", "an entry is missing", seen(lambda items: items[:-1])),
    ("readers_saw_the_log", "an entry comes twice", seen(lambda items: [*items, items[-1]])),
    ("readers_saw_the_log", "two entries change places", seen(lambda items: items[::-1])),
    ("readers_saw_the_log", "an entry is another", seen(lambda items: [Seen(items[0].cursor, TEXT), *items[1:]])),
    ("readers_saw_the_log", "a gap is told", seen(lambda items: [*items, Seen(None, said(deltas.Gap("1-0", "1-2")))])),
    ("only_a_limit_makes_wait", "no tenant, no limit", told_to_wait("waiting")),
    ("only_a_limit_makes_wait", "no worker", told_to_wait("waiting", "no_worker", tenant="acme")),
    (
        "only_a_limit_makes_wait",
        "fewer run than may",
        told_to_wait("waiting", at=BEGAN + 2.1 + COUNTED_S, tenant="acme"),
    ),
    ("readers_saw_the_log", "the end is not seen", segments(lambda all_: all_[:-1])),
    (
        "readers_come_back_where_they_left",
        "resumed elsewhere",
        segments(lambda all_: [all_[0], msgspec.structs.replace(all_[1], after="0-0"), *all_[2:]]),
    ),
    ("readers_come_back_where_they_left", "a cursor repeated", seen(lambda items: [items[0], *items])),
    ("readers_come_back_where_they_left", "a cursor of the past", segments(lambda all_: [*all_, all_[0]])),
    (
        "readers_come_back_where_they_left",
        "an error",
        segments(lambda all_: [*all_[:-1], msgspec.structs.replace(all_[-1], ended="CursorInvalid: 3-7")]),
    ),
    (
        "readers_come_back_where_they_left",
        "never finished",
        segments(lambda all_: [*all_[:-1], msgspec.structs.replace(all_[-1], ended="left")]),
    ),
    ("readers_come_back_where_they_left", "saw nothing", segments(lambda _: [])),
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
        "void text counted",
        log("whole", lambda entries: [*entries[:3], *_renumbered(entries[4:], 1)]),
    ),
    ("outcome_is_what_was_told", "completed with less", outcome("whole", content="One ")),
    ("outcome_is_what_was_told", "completed with another's", outcome("whole", content="Two moments.")),
    ("outcome_is_what_was_told", "reasoning of another", outcome("whole", reasoning="Ha.")),
    ("outcome_is_what_was_told", "a call is missing", outcome("whole", tool_calls=())),
    ("outcome_is_what_was_told", "a call is incomplete", outcome("whole", tool_calls=(INCOMPLETE,))),
    (
        "outcome_is_what_was_told",
        "arguments of another",
        outcome("whole", tool_calls=(ToolCall("call_1", "search", '{"q": "mile"}', True),)),
    ),
    ("outcome_is_what_was_told", "cancelled with what was never said", outcome("stopped", content="One,")),
    ("outcome_is_what_was_told", "cancelled with a call too many", outcome("stopped", tool_calls=(INCOMPLETE,))),
    (
        "ends_as_it_must",
        "completed where it must fail",
        plans("whole", told=msgspec.structs.replace(TOLD, fate="failed")),
    ),
    ("ends_as_it_must", "cancelled by nobody", lambda whole: msgspec.structs.replace(whole, cancels=whole.cancels[:2])),
    ("ends_as_it_must", "failed where it must complete", plans("failed", told=Told())),
    ("ends_as_it_must", "failed by a fault of ours", outcome("failed", error=FAILED_SO)),
    ("ends_as_it_must", "failed by crashes that nobody caused", outcome("failed", error=CRASHED)),
    ("ends_as_it_must", "out of time without a limit", outcome("failed", error=TOO_LATE)),
    ("ends_as_it_must", "cut off by the model", outcome("whole", status="incomplete")),
    ("cancels_are_kept", "told ended, and completed", cancels("ended", "cancelled", request_id="whole")),
    ("cancels_are_kept", "told finished otherwise", cancels("finished", "completed")),
    ("cancels_are_kept", "told that there is none", cancels("unknown", "")),
    (
        "cancels_are_kept",
        "told signalled, and a later attempt completes",
        cancels("signalled", "running", request_id="whole", answered=BEGAN),
    ),
    ("submits_agree", "a conflict without reason", submits("conflict", request_id="stopped")),
    ("submits_agree", "accepted twice", submits("accepted", request_id="stopped")),
    (
        "submits_agree",
        "standing before it was submitted",
        lambda whole: plans("stopped", how="enqueue")(submits("standing", request_id="stopped", first=True)(whole)),
    ),
    ("submits_agree", "other content is not refused", plans("stopped", conflicts=True)),
    ("model_is_called_by_attempts_alone", "called once more", calls("whole")),
    ("model_is_called_by_attempts_alone", "called by nobody's attempt", calls("waiting")),
    ("model_is_called_by_attempts_alone", "never answered", final(calls=[])),
    ("model_speaks_to_one_at_a_time", "two at once", lambda whole: _two_at_once(whole)),
    ("model_speaks_to_one_at_a_time", "after the end", call_lasts(3, BEGAN + 3.6)),
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
    ("tenants_keep_their_limit", "one too many", lambda whole: _crowded(whole)),
    ("the_dead_are_listed", "a poisoned job is missing", lambda whole: final(dead=[])(_poisoned(whole))),
    ("the_dead_are_listed", "one that crashed is missing", outcome("failed", error=CRASHED)),
    ("the_dead_are_listed", "one that completed is listed", final(dead=["whole"])),
    ("the_dead_are_listed", "one that ran out of time is missing", lambda whole: _late(whole)),
    ("workers_end_when_told", "left", final(processes=[44])),
    ("workers_end_when_told", "by itself", exits(Exit(1, 44, 0, None, True, BEGAN))),
    ("workers_end_when_told", "in disorder", exits(Exit(1, 44, 1, "SIGTERM", True, BEGAN))),
    ("workers_end_when_told", "not by the signal", exits(Exit(1, 44, -15, "SIGTERM", True, BEGAN))),
]


def _without_outcome(whole: History) -> History:
    kept = {name: value for name, value in whole.final.records["whole"].items() if name != "outcome"}
    return final(records={**whole.final.records, "whole": kept})(whole)


def _poisoned(whole: History) -> History:
    jobs = (PlannedPoison("poison", 0.0, "garbage"),)
    doctored = msgspec.structs.replace(whole, plan=msgspec.structs.replace(whole.plan, poison=jobs))
    return final(dead=["poison"])(doctored)


def _late(whole: History) -> History:
    return record("failed", dead="1")(outcome("failed", error=TOO_LATE)(whole))


def _two_at_once(whole: History) -> History:
    return call_lasts(1, BEGAN + 1.8)(call_lasts(0, BEGAN + 1.7)(whole))


def _crowded(whole: History) -> History:
    made = [UpstreamCall("waiting", n, "/v1/responses", 200, "completed", BEGAN, BEGAN + 1) for n in range(4)]
    return plans("waiting", request={"id": "waiting", "tenant": "acme"})(final(calls=made)(whole))


def _renumbered(entries: list[tuple[str, bytes]], attempt: int) -> list[tuple[str, bytes]]:
    return [(f"{attempt}-{seq}", raw) for seq, (_, raw) in enumerate(entries, start=2)]


def test_a_history_without_fault_passes() -> None:
    # given four requests that ended each in its way, expect nothing to be found
    assert checker.check(good()) == []


@pytest.mark.parametrize(
    ("promise", "doctor"),
    [pytest.param(promise, doctor, id=f"{promise}: {what}") for promise, what, doctor in DOCTORED],
)
def test_a_broken_promise_is_found(promise: str, doctor: Doctor) -> None:
    # given a history in which one promise was broken, expect that promise to be named
    assert promise in {violation.promise for violation in checker.check(doctor(good()))}


def test_every_promise_has_a_history_that_breaks_it() -> None:
    # given the promises the checker asks for, expect each to be broken above at least once
    asked = {promise.__name__ for promise in (*checker.PROMISES, *verdicts.VERDICTS, *checker.WHOLE)}
    assert asked == {promise for promise, _, _ in DOCTORED}


def test_crashes_that_were_caused_may_end_a_request() -> None:
    # given a request that failed because its workers died, if the campaign did that three times, expect no objection
    doctored = final(dead=["failed"])(outcome("failed", error=CRASHED)(good()))
    kills = [Disturbance("kill_worker", 0, BEGAN + n / 10, BEGAN + n / 10, 50 + n) for n in range(3)]
    cuts = [Disturbance("cut", 0, BEGAN + n / 10, BEGAN + n / 10) for n in range(3)]
    assert checker.check(msgspec.structs.replace(doctored, disturbances=kills)) == []
    assert checker.check(msgspec.structs.replace(doctored, disturbances=[*kills[:2], *cuts])) != []


def test_what_was_signalled_in_time_may_have_completed() -> None:
    # given a cancel that a worker was told while it finished, if no attempt began afterwards, expect no objection
    assert checker.check(cancels("signalled", "running", request_id="whole")(good())) == []


def test_a_call_of_a_worker_that_hangs_may_stay_open() -> None:
    # given a call that is open beside the next one, if its worker was stopped all the while, expect no objection
    hang = [Disturbance("hang_worker", 0, BEGAN + 0.1, BEGAN + 1.5)]
    doctored = msgspec.structs.replace(_two_at_once(good()), disturbances=hang)
    assert checker.check(doctored) == []


def test_jobs_that_nobody_can_run_are_no_fault() -> None:
    # given a job that nobody can run, if it stands in the dead-letter list, expect no objection
    assert checker.check(_poisoned(good())) == []


def test_who_waits_for_its_tenant_to_have_room_may_be_told_so() -> None:
    # given a tenant that has as many running as it may, if a reader of one more was told that nobody works on it,
    # expect no objection
    assert plan.SHORT.tenant_limit == 3
    assert checker.check(told_to_wait("waiting", tenant="acme")(good())) == []
    assert checker.check(told_to_wait("waiting", at=BEGAN + 2 + COUNTED_S, tenant="acme")(good())) == []


def test_a_history_survives_writing() -> None:
    # given a history, if it is written and read again, expect the same
    assert history.load(history.dump(good())) == good()


def test_figures_count_what_happened() -> None:
    # given the history, expect its ends and its takeovers counted
    told = "\n".join(figures.lines(good()))
    assert "1 completed" in told
    assert "2 cancelled" in told
    assert "1 lease_expired" in told


@pytest.mark.parametrize("form", plan.FORMS.values(), ids=list(plan.FORMS))
def test_a_seed_has_one_plan(form: plan.Form) -> None:
    # given a seed, expect the same plan each time, and another one for another seed
    assert make_plan(3, form) == make_plan(3, form)
    assert make_plan(3, form) != make_plan(4, form)


def test_a_server_whose_writes_may_be_late_is_not_killed() -> None:
    # given a server that does not write to disk before it answers, expect the plan to stop it, but never to kill it
    kinds: set[str] = set()
    for seed in range(20):
        faults: tuple[PlannedFault, ...] = make_plan(seed, msgspec.structs.replace(SHORT, fsync="everysec")).faults
        kinds |= {fault.kind for fault in faults}
    assert "stop_server" in kinds
    assert "kill_server" not in kinds
