"""Summarizes a campaign: how requests ended, how often they began, how soon they were taken over. Pure."""

from collections import Counter
from datetime import datetime
from itertools import pairwise
from statistics import median

from tailrace.schemas.deltas import AttemptStarted
from tests.fault.campaign.case import HANGS, KILLS, Case, cases
from tests.fault.campaign.history import Disturbance, History


def lines(history: History) -> list[str]:
    """Returns a few lines for people."""
    all_cases = list(cases(history))
    ends = Counter(case.outcome.status if case.outcome else "no outcome" for case in all_cases)
    codes = Counter(case.outcome.error.code for case in all_cases if case.outcome and case.outcome.error)
    whys = Counter(entry.why for case in all_cases for _, entry in case.log if isinstance(entry, AttemptStarted))
    faults = Counter(what.kind for what in history.disturbances)
    segments = sum(len(reading.segments) for reading in history.readings)
    seen = sum(len(segment.items) for reading in history.readings for segment in reading.segments)
    failed = sum(answer.failed for answer in history.submits)
    summary = [
        f"{len(all_cases)} requests in {history.ended - history.began:.0f} s: {_counted(ends)}",
        f"error codes: {_counted(codes)}",
        f"attempts by reason: {_counted(whys)}; calls of the model: {len(history.final.calls)}",
        f"faults: {_counted(faults)}",
        f"{len(history.readings)} readers connected {segments} times and saw {seen} entries",
        f"submits that failed and were repeated: {failed}",
    ]
    for name, times in (
        ("from SIGKILL to the next attempt", takeovers(history, all_cases)),
        ("from the answer of a cancel to the end", _cancelled_after(all_cases)),
    ):
        if times:
            summary.append(f"{name}: median {median(times):.2f} s, longest {max(times):.2f} s, of {len(times)}")
    return summary


def takeovers(history: History, all_cases: list[Case]) -> list[float]:
    """Returns the seconds from a SIGKILL to the next attempt, where nothing else can have cost the lease.

    The log does not name the worker, so a kill counts if it is the only such fault between the two attempts.
    """
    found: list[float] = []
    for case in all_cases:
        begins = [(_seconds(entry), entry.why) for _, entry in case.log if isinstance(entry, AttemptStarted)]
        for (before, _), (after, why) in pairwise(begins):
            between = [
                what for what in history.disturbances if what.kind in KILLS | HANGS and _touches(what, before, after)
            ]
            if why == "lease_expired" and [what.kind for what in between] == ["kill_worker"]:
                found.append(after - between[0].began)
    return found


def _touches(what: Disturbance, first: float, last: float) -> bool:
    return what.began <= last and what.until >= first


def _cancelled_after(all_cases: list[Case]) -> list[float]:
    return [
        max(0.0, int(case.record["finished_ms"]) / 1000 - cancel.answered)
        for case in all_cases
        for cancel in case.cancels[:1]
        if cancel.result == "signalled" and case.record and case.record.get("status") == "cancelled"
    ]


def _seconds(entry: AttemptStarted) -> float:
    return datetime.fromisoformat(entry.at).timestamp()


def _counted(counter: Counter[str]) -> str:
    return ", ".join(f"{count} {name}" for name, count in counter.most_common()) or "none"
