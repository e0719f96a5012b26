"""The spacing of commits at different rates."""

import pytest

from tailrace.worker.publish.commit_spacing import SPACINGS, WINDOW_S, CommitSpacing

STEP_S = 0.0005
(HIGH_PER_S, HIGH_SPACING_S), (MEDIUM_PER_S, MEDIUM_SPACING_S) = SPACINGS


def pauses(spacing: CommitSpacing, per_s: float, for_s: float, start: float = 100.0) -> list[float]:
    """The pauses after commits at regular times, each of which took no time."""
    steps = int(for_s / STEP_S)
    times = [start + number * STEP_S for number in range(steps)]
    return [spacing.pause_s(now, now, round(per_s * STEP_S)) for now in times]


def test_a_lone_commit_causes_no_pause() -> None:
    assert CommitSpacing().pause_s(100.0, 100.001, 400) == 0.0


def test_at_a_low_rate_no_commit_waits() -> None:
    assert set(pauses(CommitSpacing(), MEDIUM_PER_S * 0.8, 1.0)) == {0.0}


def test_the_spacing_follows_the_rate() -> None:
    spacing = CommitSpacing()
    medium = pauses(spacing, MEDIUM_PER_S * 1.6, 1.0)
    windows = 2 * int(WINDOW_S / STEP_S)
    assert set(medium[windows:]) == {MEDIUM_SPACING_S}
    high = pauses(spacing, HIGH_PER_S * 1.2, 1.0, start=101.0)
    assert set(high[windows:]) == {HIGH_SPACING_S}
    low = pauses(spacing, MEDIUM_PER_S * 0.8, 1.0, start=102.0)
    assert set(low[windows:]) == {0.0}


def test_the_time_a_commit_took_is_part_of_the_spacing() -> None:
    spacing = CommitSpacing()
    pauses(spacing, HIGH_PER_S * 2, 1.0)
    assert spacing.pause_s(101.0, 101.0 + HIGH_SPACING_S / 4, 10) == pytest.approx(HIGH_SPACING_S * 3 / 4)
    assert spacing.pause_s(101.0, 101.0 + HIGH_SPACING_S * 2, 10) == 0.0
