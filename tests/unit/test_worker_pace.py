"""How far commits keep apart, by what comes."""

import pytest

from tailrace.worker.publish.commit_spacing import LOOK_S, SPACINGS, Pace

STEP_S = 0.0005
(MOST_PER_S, MOST_S), (BUSY_PER_S, LESS_S) = SPACINGS


def pauses(pace: Pace, per_s: float, for_s: float, start: float = 100.0) -> list[float]:
    """What is answered to commits at even times, each of which took no time."""
    steps = int(for_s / STEP_S)
    times = [start + number * STEP_S for number in range(steps)]
    return [pace.pause_s(now, now, round(per_s * STEP_S)) for now in times]


def test_a_lone_commit_is_followed_at_once() -> None:
    assert Pace().pause_s(100.0, 100.001, 400) == 0.0


def test_below_the_rate_no_commit_waits() -> None:
    assert set(pauses(Pace(), BUSY_PER_S * 0.8, 1.0)) == {0.0}


def test_under_load_commits_keep_apart_and_no_more_when_it_is_over() -> None:
    # given a rate above, if it lasts, expect the spacing soon; if it falls, none soon
    pace = Pace()
    loud = pauses(pace, BUSY_PER_S * 1.6, 1.0)
    looked = 2 * int(LOOK_S / STEP_S)
    assert set(loud[looked:]) == {LESS_S}
    louder = pauses(pace, MOST_PER_S * 1.2, 1.0, start=101.0)
    assert set(louder[looked:]) == {MOST_S}
    quiet = pauses(pace, BUSY_PER_S * 0.8, 1.0, start=102.0)
    assert set(quiet[looked:]) == {0.0}


def test_what_a_commit_took_counts() -> None:
    pace = Pace()
    pauses(pace, MOST_PER_S * 2, 1.0)
    assert pace.pause_s(101.0, 101.0 + MOST_S / 4, 10) == pytest.approx(MOST_S * 3 / 4)
    assert pace.pause_s(101.0, 101.0 + MOST_S * 2, 10) == 0.0
