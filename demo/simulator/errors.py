"""The simulator's error answers: OpenAI's bodies, types and codes, and the headers that go with them.

Pure. Sources: the API reference on error codes and on rate limits; how the official SDK handles them.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import msgspec

Headers = list[tuple[str, str]]

_DEFAULTS: Mapping[int, tuple[str, str | None, str]] = {
    400: ("invalid_request_error", None, "The request is not valid."),
    401: ("invalid_request_error", "invalid_api_key", "Incorrect API key provided."),
    403: ("invalid_request_error", "unsupported_country_region_territory", "This key may not do that."),
    404: ("invalid_request_error", "model_not_found", "The model does not exist or you do not have access to it."),
    409: ("invalid_request_error", None, "The request conflicts with another one."),
    413: ("invalid_request_error", None, "The request is too large."),
    429: ("requests", "rate_limit_exceeded", "Rate limit reached for requests."),
    500: ("server_error", None, "The server had an error while it processed the request."),
    502: ("server_error", None, "Bad gateway."),
    503: ("server_error", None, "The model is overloaded; try again later."),
    504: ("server_error", None, "Gateway time-out."),
    529: ("overloaded_error", None, "Overloaded."),
}


class ApiError(Exception):
    """An error answer: its status, and the `error` object of OpenAI's body."""

    def __init__(
        self,
        status: int,
        message: str | None = None,
        *,
        code: str | None = None,
        param: str | None = None,
        retry_after_s: float | None = None,
    ) -> None:
        kind, usual_code, usual_message = _DEFAULTS.get(status, ("server_error", None, "The server failed."))
        if code == "insufficient_quota":
            kind, usual_message = code, "You exceeded your current quota, please check your plan and billing details."
        self.status = status
        self.message = message or usual_message
        self.type = kind
        self.code = code or (usual_code if message is None else None)
        self.param = param
        self.retry_after_s = retry_after_s
        super().__init__(f"{status} {self.message}")

    def body(self) -> bytes:
        error = {"message": self.message, "type": self.type, "param": self.param, "code": self.code}
        return msgspec.json.format(msgspec.json.encode({"error": error}), indent=2) + b"\n"

    def headers(self) -> Headers:
        """`retry-after` in whole seconds, rounded up; `retry-after-ms` exact; the reset as OpenAI writes durations."""
        if self.retry_after_s is None:
            return []
        return [
            ("retry-after", str(math.ceil(self.retry_after_s))),
            ("retry-after-ms", str(round(self.retry_after_s * 1000))),
            ("x-ratelimit-limit-requests", "10000"),
            ("x-ratelimit-remaining-requests", "0"),
            ("x-ratelimit-reset-requests", duration(self.retry_after_s)),
        ]


def duration(seconds: float) -> str:
    """A duration as in the `x-ratelimit-reset-*` headers: `20ms`, `1.5s`, `6m0s`."""
    if seconds < 1:
        return f"{round(seconds * 1000)}ms"
    minutes, rest = divmod(seconds, 60)
    return f"{int(minutes)}m{rest:g}s" if minutes else f"{rest:g}s"


def not_json() -> ApiError:
    return ApiError(400, "We could not parse the JSON body of your request: the API expects a JSON object.")


def missing_parameter(name: str) -> ApiError:
    return ApiError(400, f"Missing required parameter: '{name}'.", param=name, code="missing_required_parameter")


def invalid_type(name: str, expected: str, got: Any) -> ApiError:
    kinds = {bool: "a boolean", int: "an integer", float: "a decimal number", str: "a string", list: "an array",
             dict: "an object", type(None): "null"}  # fmt: skip
    kind = kinds.get(type(got), "something else")  # pyright: ignore[reportUnknownArgumentType] -- the caller's JSON
    message = f"Invalid type for '{name}': expected {expected}, but got {kind} instead."
    return ApiError(400, message, param=name, code="invalid_type")


def empty_array(name: str) -> ApiError:
    message = f"Invalid '{name}': empty array. Expected an array with minimum length 1, but got an empty array instead."
    return ApiError(400, message, param=name, code="empty_array")


def model_not_found(model: str) -> ApiError:
    message = f"The model `{model}` does not exist or you do not have access to it."
    return ApiError(404, message, code="model_not_found")


def unknown_url(method: str, path: str) -> ApiError:
    return ApiError(404, f"Invalid URL ({method} {path})")


def check_key(authorization: str | None, key: str | None) -> None:
    """Checks the bearer token; without `key`, any token that is not empty is accepted.

    Raises:
        ApiError: 401.
    """
    scheme, _, token = (authorization or "").partition(" ")
    token = token.strip()
    if scheme.lower() != "bearer" or not token:
        raise ApiError(401, "You didn't provide an API key. Send it in an Authorization header using Bearer auth.")
    if key is not None and token != key:
        shown = f"{token[:3]}{'*' * 8}{token[-4:]}" if len(token) > 11 else "*" * len(token)
        raise ApiError(401, f"Incorrect API key provided: {shown}.", code="invalid_api_key")
