"""Medians of interleaved runs, percentiles and flatness. Pure; reads no clock."""

from collections.abc import Callable, Mapping, Sequence
from math import ceil
from statistics import median as _median


def median(values: Sequence[float]) -> float:
    """The middle value; of an even number, the mean of the two in the middle.

    Raises:
        ValueError: there are no values.
    """
    if not values:
        raise ValueError("a measurement gave no values")
    return _median(values)


def percentile(values: Sequence[float], percent: float) -> float:
    """The smallest value that at least `percent` percent of the values do not exceed (nearest rank).

    Raises:
        ValueError: there are no values, or `percent` is not above 0 and up to 100.
    """
    if not values or not 0 < percent <= 100:
        raise ValueError(f"no percentile {percent:g} of {len(values)} values")
    return sorted(values)[ceil(percent / 100 * len(values)) - 1]


def flatness(cost_by_size: Mapping[int, float]) -> float:
    """The cost at the largest size divided by the cost at the smallest; 1 is flat."""
    return cost_by_size[max(cost_by_size)] / cost_by_size[min(cost_by_size)]


def interleaved(ways: Mapping[str, Callable[[], float]], rounds: int) -> dict[str, list[float]]:
    """Measures every way once per round, so that other load on the machine affects all of them alike.

    Every second round runs in reverse order, so that no way always follows the same other way.
    """
    values: dict[str, list[float]] = {name: [] for name in ways}
    for number in range(rounds):
        for name in list(ways) if number % 2 == 0 else reversed(list(ways)):
            values[name].append(ways[name]())
    return values
