"""The slow path of decoding: JSON that the strict decoder refuses, and values of the wrong type.

Used only after the fast path has failed, so its speed does not matter.
"""

import json
import re
from typing import Any, cast

_LONE_SURROGATE = re.compile("[\ud800-\udfff]")
REPLACEMENT = "\ufffd"


def decode_leniently(data: bytes | str) -> Any:
    """Decodes JSON that may have invalid UTF-8, raw control characters in strings, NaN, lone surrogates or a BOM.

    A lone surrogate is kept at either end of a string, where it may be half of a pair (servers in JavaScript cut pairs
    in two); everywhere else it becomes U+FFFD.

    Raises:
        ValueError: the data is not JSON.
    """
    text = data.decode("utf-8", "replace") if isinstance(data, bytes) else data
    try:
        return _repair(json.loads(text.lstrip("\ufeff"), strict=False))
    except RecursionError as error:
        raise ValueError("JSON nested too deeply") from error


def _repair(value: Any) -> Any:
    if isinstance(value, str):
        return value if value.isascii() else _repair_text(value)
    if isinstance(value, list):
        return [_repair(element) for element in cast("list[Any]", value)]
    if isinstance(value, dict):
        members = cast("dict[str, Any]", value).items()
        return {replace_lone_surrogates(_repair(key)): _repair(element) for key, element in members}
    return value


def _repair_text(text: str) -> str:
    return text[:1] + _LONE_SURROGATE.sub(REPLACEMENT, text[1:-1]) + text[1:][-1:]


def replace_lone_surrogates(text: str) -> str:
    """Replaces lone surrogates with U+FFFD, so that the text can be encoded as UTF-8."""
    return text if text.isascii() else _LONE_SURROGATE.sub(REPLACEMENT, text)


def replace_lone_surrogates_in(value: Any) -> Any:
    """`replace_lone_surrogates` for every text inside a decoded JSON value."""
    if isinstance(value, str):
        return replace_lone_surrogates(value)
    if isinstance(value, list):
        return [replace_lone_surrogates_in(element) for element in cast("list[Any]", value)]
    if isinstance(value, dict):
        return {key: replace_lone_surrogates_in(element) for key, element in cast("dict[str, Any]", value).items()}
    return value


def is_shallow(value: Any, levels: int = 64) -> bool:
    """Whether a JSON value is nested no deeper than `levels`, so that any encoder accepts it."""
    if isinstance(value, dict):
        value = list(cast("dict[str, Any]", value).values())
    if not isinstance(value, list):
        return True
    return levels > 0 and all(is_shallow(element, levels - 1) for element in cast("list[Any]", value))


def as_text(value: Any) -> str | None:
    """The value as text, None if it is neither text nor a number. Some servers send `1` for `"1"`."""
    if isinstance(value, str):
        return value
    if isinstance(value, int | float) and not isinstance(value, bool):
        return str(value)
    return None


def as_integer(value: Any) -> int | None:
    """The value as an integer, also from `2.0` and `"2"`; None if it is not an integer."""
    if isinstance(value, bool):
        return None
    if isinstance(value, int):
        return value
    if isinstance(value, float) and value.is_integer():
        return int(value)
    if isinstance(value, str) and value.isascii() and value.isdecimal() and len(value) < 20:
        return int(value)
    return None


def as_object(value: Any) -> dict[str, Any] | None:
    """The value if it is a JSON object, else None."""
    return cast("dict[str, Any]", value) if isinstance(value, dict) else None


def as_objects(value: Any) -> list[dict[str, Any]] | None:
    """The objects in a list; None if the value is not a list."""
    if not isinstance(value, list):
        return None
    return [cast("dict[str, Any]", element) for element in cast("list[Any]", value) if isinstance(element, dict)]
