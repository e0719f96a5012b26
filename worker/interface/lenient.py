"""The second, slow path of decoding: JSON that a strict decoder refuses, and values of the wrong type.

Pure. Used only after the fast path has failed, so it may take its time.
"""

import json
import re
from typing import Any, cast

_LONE_SURROGATE = re.compile("[\ud800-\udfff]")
REPLACEMENT = "\ufffd"


def loads(data: bytes | str) -> Any:
    """JSON that may have bytes that are no UTF-8, raw control characters in strings, NaN, lone surrogates or a BOM.

    A lone surrogate is kept at either end of a string, where it may be half of a pair that was cut in two (servers in
    JavaScript do that); everywhere else it becomes U+FFFD.

    Raises:
        ValueError: when it is no JSON all the same.
    """
    text = data.decode("utf-8", "replace") if isinstance(data, bytes) else data
    try:
        return _mended(json.loads(text.lstrip("\ufeff"), strict=False))
    except RecursionError as error:
        raise ValueError("JSON nested too deeply") from error


def _mended(value: Any) -> Any:
    if isinstance(value, str):
        return value if value.isascii() else _mended_text(value)
    if isinstance(value, list):
        return [_mended(element) for element in cast("list[Any]", value)]
    if isinstance(value, dict):
        return {whole(_mended(key)): _mended(element) for key, element in cast("dict[str, Any]", value).items()}
    return value


def _mended_text(text: str) -> str:
    return text[:1] + _LONE_SURROGATE.sub(REPLACEMENT, text[1:-1]) + text[1:][-1:]


def whole(text: str) -> str:
    """The text with no lone surrogate left in it: what may be encoded as UTF-8."""
    return text if text.isascii() else _LONE_SURROGATE.sub(REPLACEMENT, text)


def wholesome(value: Any) -> Any:
    """`whole` for every text inside a decoded JSON value."""
    if isinstance(value, str):
        return whole(value)
    if isinstance(value, list):
        return [wholesome(element) for element in cast("list[Any]", value)]
    if isinstance(value, dict):
        return {key: wholesome(element) for key, element in cast("dict[str, Any]", value).items()}
    return value


def is_shallow(value: Any, levels: int = 64) -> bool:
    """Whether a JSON value is nested no deeper than that: what is, may be encoded again anywhere."""
    if isinstance(value, dict):
        value = list(cast("dict[str, Any]", value).values())
    if not isinstance(value, list):
        return True
    return levels > 0 and all(is_shallow(element, levels - 1) for element in cast("list[Any]", value))


def as_text(value: Any) -> str | None:
    """A text, or None for what is none. Numbers are written out: a server that sends `1` for `"1"` means the text."""
    if isinstance(value, str):
        return value
    if isinstance(value, int | float) and not isinstance(value, bool):
        return str(value)
    return None


def as_integer(value: Any) -> int | None:
    """An integer, also out of `2.0` and `"2"`, or None."""
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
    """A JSON object, or None."""
    return cast("dict[str, Any]", value) if isinstance(value, dict) else None


def as_objects(value: Any) -> list[dict[str, Any]] | None:
    """The objects in a list, or None where there is no list."""
    if not isinstance(value, list):
        return None
    return [cast("dict[str, Any]", element) for element in cast("list[Any]", value) if isinstance(element, dict)]
