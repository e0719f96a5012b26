"""What benchmarks make of their measurements."""

import pytest

from bench.statistics import flatness, interleaved, median, percentile


def test_median_takes_the_middle_and_not_the_mean() -> None:
    # given values with one far off, if their median is taken, expect the middle one, or the mean of two
    assert median([1.0, 1000.0, 2.0]) == 2.0
    assert median([4.0, 1.0, 2.0, 1000.0]) == 3.0


def test_percentile_is_the_nearest_rank() -> None:
    # given ten values in any order, if a percentile is taken, expect one of them: so many are not above it
    values = [7.0, 3.0, 10.0, 1.0, 4.0, 8.0, 2.0, 9.0, 6.0, 5.0]
    assert percentile(values, 90) == 9.0
    assert percentile(values, 91) == 10.0
    assert percentile(values, 100) == 10.0
    assert percentile([5.0], 1) == 5.0


def test_nothing_measured_is_no_figure() -> None:
    # given a measurement that gave no values, if it is summed up, expect an error and not a 0
    with pytest.raises(ValueError, match="no values"):
        median([])
    with pytest.raises(ValueError, match="0 values"):
        percentile([], 90)


def test_flatness_is_the_largest_by_the_smallest_size() -> None:
    # given costs by size in any order, if flatness is asked for, expect largest size by smallest, not highest by lowest
    assert flatness({20_000: 6.0, 100: 4.0, 1_000: 12.0}) == 1.5


def test_ways_are_measured_in_turn_and_in_changing_order() -> None:
    # given two ways, if they are measured in three rounds, expect each once a round and none always after the other
    order: list[str] = []

    def way(name: str) -> float:
        order.append(name)
        return float(len(order))

    values = interleaved({"a": lambda: way("a"), "b": lambda: way("b")}, rounds=3)
    assert "".join(order) == "abbaab"
    assert values == {"a": [1.0, 4.0, 5.0], "b": [2.0, 3.0, 6.0]}
