"""Turns a provider's error object, from a response body or from inside a stream, into one of our errors.

Knows nothing of HTTP clients and decides no retry: the class of the error shows whether another try may help.
"""

import json
import re
from collections.abc import Mapping
from typing import Any, cast

from tailrace.schemas.errors import UpstreamError, UpstreamRefused, UpstreamUnavailable, Whose
from tailrace.worker.interface.lenient import is_shallow, replace_lone_surrogates

MAX_MESSAGE_CHARACTERS = 2000
NO_MESSAGE = "the model's server reported an error without a message"

_KEY = re.compile(r"\b(sk|gsk|xai|pk)-[\w*.-]{6,}")
"""Providers quote keys, partly masked, in their messages; ours must not repeat them."""

STATUS_OF_WORD: Mapping[str, int] = {
    # 400: the request itself
    "invalid_request_error": 400,
    "invalid_request": 400,
    "invalid_argument": 400,
    "invalid_prompt": 400,
    "bad_request": 400,
    "badrequesterror": 400,
    "context_length_exceeded": 400,
    "string_above_max_length": 400,
    "content_filter": 400,
    "content_policy_violation": 400,
    "responsibleaipolicyviolation": 400,
    "bio_policy": 400,
    "cyber_policy": 400,
    "misalignment_policy_violation": 400,
    "data_residency_mismatch": 400,
    "failed_to_download_image": 400,
    "failed_precondition": 400,
    "unsupported_value": 400,
    "unsupported_parameter": 400,
    "unknown_parameter": 400,
    "missing_required_parameter": 400,
    "unprocessable_entity": 422,
    "request_too_large": 413,
    # 401, 402, 403: the account or the key
    "authentication_error": 401,
    "invalid_api_key": 401,
    "unauthenticated": 401,
    "unauthorized": 401,
    "insufficient_quota": 402,
    "billing_hard_limit_reached": 402,
    "billing_not_active": 402,
    "billing_error": 402,
    "payment_required": 402,
    "insufficient_credits": 402,
    "permission_error": 403,
    "permission_denied": 403,
    "forbidden": 403,
    "unsupported_country_region_territory": 403,
    "usage_not_included": 403,
    # 404: the model or another object
    "not_found": 404,
    "not_found_error": 404,
    "notfounderror": 404,
    "model_not_found": 404,
    "model_not_active": 404,
    "image_file_not_found": 404,
    "previous_response_not_found": 404,
    # a later try may succeed
    "timeout": 408,
    "timeout_error": 504,
    "deadline_exceeded": 504,
    "vector_store_timeout": 504,
    "rate_limit_exceeded": 429,
    "rate_limit_error": 429,
    "rate_limit_reached": 429,
    "rate_limited": 429,
    "too_many_requests": 429,
    "resource_exhausted": 429,
    "usage_limit_reached": 429,
    "tokens": 429,
    "requests": 429,
    "slow_down": 503,
    "server_is_overloaded": 503,
    "overloaded_error": 503,
    "overloaded": 503,
    "engine_overloaded": 503,
    "unavailable": 503,
    "service_unavailable": 503,
    "service_unavailable_error": 503,
    "server_error": 500,
    "api_error": 500,
    "internal": 500,
    "internal_error": 500,
    "internal_server_error": 500,
    "internalservererror": 500,
    "bad_gateway": 502,
    "upstream_error": 502,
}
"""Words that providers use for `code`, `type` or `status` of an error, with the HTTP status of each.

Sources: the API references of OpenAI (`ResponseError.code`, guide to error codes), Anthropic, Google (RPC codes), vLLM
and OpenRouter.
"""

_WHOSE_OF_STATUS: Mapping[int, Whose] = {401: "operator", 402: "operator", 403: "operator"}
_LATER = frozenset({408, 409, 425, 429})


def parse_upstream_error(given: object, status: int | None = None) -> UpstreamError:
    """Reads an error of any provider: `{"error": {...}}`, the object itself, a text, or a list with one of them.

    The wire code is `upstream_<status>`, from the HTTP status, else from the number or the word in the object. It is
    `upstream_error` if there is neither; that counts as unavailable, since a stream had started.

    Args:
        given: a decoded JSON value of any type.
        status: the HTTP status, if the error is an HTTP response.
    """
    error = _innermost(given)
    words = _words(error)
    quota = any(STATUS_OF_WORD.get(word) == 402 for word in words)
    known = 402 if quota else status or _status_of(words)  # an exhausted quota has status 429; waiting does not help
    message = _message(error, words)
    if known is None:
        return UpstreamUnavailable(message, code="upstream_error")
    code = f"upstream_{status or known}"
    if known in _LATER or known >= 500:
        return UpstreamUnavailable(message, code=code, status=status)
    return UpstreamRefused(message, code=code, whose=_WHOSE_OF_STATUS.get(known, "caller"), status=status)


def _innermost(given: Any, depth: int = 4) -> Any:
    """The object with the message, without the envelopes that providers put around it."""
    inner: Any = None
    if isinstance(given, list):
        inner = next(iter(cast("list[Any]", given)), None)
    elif isinstance(given, dict):
        inner = cast("dict[str, Any]", given).get("error")
    if depth and inner and isinstance(inner, dict | list | str):
        return _innermost(inner, depth - 1)
    return cast("Any", given)


def _words(error: object) -> list[str]:
    """The words that name the kind of the error, the most specific first."""
    if not isinstance(error, dict):
        return []
    fields = cast("dict[str, Any]", error)
    found: list[str] = []
    for key in ("code", "status", "type"):
        value = fields.get(key)
        if isinstance(value, str | int) and not isinstance(value, bool) and value not in ("", "error"):
            found.append(str(value).lower())
    return found


def _status_of(words: list[str]) -> int | None:
    for word in words:
        if word in STATUS_OF_WORD:
            return STATUS_OF_WORD[word]
        if word.isdecimal() and 400 <= int(word[:4]) <= 599:
            return int(word[:4])
        if "image" in word:  # OpenAI has a dozen words for errors of an image
            return 400
    return None


def _message(error: object, words: list[str]) -> str:
    text: object = error
    if isinstance(error, dict):
        fields = cast("dict[str, Any]", error)
        text = next((fields[key] for key in ("message", "detail", "msg") if fields.get(key)), None)
        if isinstance(text, list | dict) and is_shallow(cast("Any", text)):  # a list of findings, as FastAPI sends it
            text = json.dumps(text, ensure_ascii=False)
    message = text.strip() if isinstance(text, str) else ""
    if words and words[0] not in message.lower():
        message = f"{message or NO_MESSAGE} ({words[0]})"
    return replace_lone_surrogates(_KEY.sub(r"\1-***", message or NO_MESSAGE)[:MAX_MESSAGE_CHARACTERS])
