"""Reads token counts from the fields in which providers send them."""

from collections.abc import Mapping
from typing import Any

from tailrace.schemas.deltas import Usage
from tailrace.worker.interface.lenient import as_integer, as_object

_INPUT = ("prompt_tokens", "input_tokens")
_OUTPUT = ("completion_tokens", "output_tokens")
_INPUT_DETAILS = ("prompt_tokens_details", "input_tokens_details", "prompt_token_details")
_OUTPUT_DETAILS = ("completion_tokens_details", "output_tokens_details")
_CACHED = ("prompt_cache_hit_tokens", "num_cached_tokens", "cached_tokens", "cache_read_input_tokens")


def read_usage(given: Mapping[str, Any], before: Usage | None) -> Usage:
    """The counts of a usage object; those it lacks stay as they were before. Counts are never added up."""
    old = before or Usage()
    return Usage(
        _or(_first(given, _INPUT), old.input_tokens),
        _or(_first(given, _OUTPUT), old.output_tokens),
        _or(_or(_detail(given, _INPUT_DETAILS, "cached_tokens"), _first(given, _CACHED)), old.cached_tokens),
        _or(
            _or(_detail(given, _OUTPUT_DETAILS, "reasoning_tokens"), _first(given, ("reasoning_tokens",))),
            old.reasoning_tokens,
        ),
    )


def _first(given: Mapping[str, Any], keys: tuple[str, ...]) -> int | None:
    for key in keys:
        count = as_integer(given.get(key))
        if count is not None and 0 <= count < 1 << 63:
            return count
    return None


def _detail(given: Mapping[str, Any], groups: tuple[str, ...], key: str) -> int | None:
    for group in groups:
        if (details := as_object(given.get(group))) is not None:
            return _first(details, (key,))
    return None


def _or(count: int | None, other: int | None) -> int | None:
    return other if count is None else count
