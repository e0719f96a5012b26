"""Finds values without a JSON form (RFC 8259). Knows nothing of requests."""

import math
from typing import Any, cast

_PLAIN = frozenset({str, int, bool, type(None)})


def find_fault(value: Any) -> str | None:
    """Describes the first value without a JSON form, such as `messages.0.content: bytes has no JSON form`; else None.

    It is stricter than our encoders, which would write bytes, times or sets in forms that no model's server expects.
    """
    fault = _fault(value)
    return None if fault is None else fault.removeprefix(".").removeprefix(": ")


def _fault(value: Any) -> str | None:
    """The fault as `.member.member: reason`. The place is built on the way back: without a fault it costs nothing."""
    if type(value) in _PLAIN:
        return None
    if isinstance(value, dict):
        return _fault_in_object(cast(dict[Any, Any], value))
    if isinstance(value, list | tuple):
        return _fault_in_array(cast(list[Any], value))
    if isinstance(value, float):
        return None if math.isfinite(value) else f": {value} has no JSON form"
    return None if isinstance(value, str | int) else f": {type(value).__name__} has no JSON form"


def _fault_in_object(members: dict[Any, Any]) -> str | None:
    for name, member in members.items():
        if not isinstance(name, str):
            return f": the key {name!r} is not a string"
        if type(member) not in _PLAIN and (fault := _fault(member)):
            return f".{name}{fault}"
    return None


def _fault_in_array(items: list[Any]) -> str | None:
    for position, item in enumerate(items):
        if type(item) not in _PLAIN and (fault := _fault(item)):
            return f".{position}{fault}"
    return None
