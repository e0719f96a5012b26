"""Error objects in all the shapes that providers send."""

from typing import Any

import pytest

from tailrace.schemas.errors import UpstreamError, UpstreamRefused, UpstreamUnavailable
from tailrace.worker.interface.upstream_error import MAX_MESSAGE_CHARACTERS, NO_MESSAGE, parse_upstream_error

CASES: list[tuple[Any, int | None, type[UpstreamError], str, str]] = [
    ({"code": "rate_limit_exceeded", "message": "m"}, None, UpstreamUnavailable, "upstream_429", "provider"),
    ({"code": None, "type": "server_error", "message": "m"}, None, UpstreamUnavailable, "upstream_500", "provider"),
    ({"code": "invalid_prompt", "message": "m"}, None, UpstreamRefused, "upstream_400", "caller"),
    ({"code": "image_too_small", "message": "m"}, None, UpstreamRefused, "upstream_400", "caller"),
    ({"code": "invalid_api_key", "type": "invalid_request_error"}, None, UpstreamRefused, "upstream_401", "operator"),
    ({"error": {"type": "overloaded_error", "message": "m"}}, None, UpstreamUnavailable, "upstream_503", "provider"),
    ([{"error": {"code": 429, "status": "RESOURCE_EXHAUSTED"}}], None, UpstreamUnavailable, "upstream_429", "provider"),
    ({"object": "error", "type": "BadRequestError", "code": 400}, None, UpstreamRefused, "upstream_400", "caller"),
    ({"error": {"code": 502, "message": "m"}}, None, UpstreamUnavailable, "upstream_502", "provider"),
    ({"error": {"code": "429", "message": "m"}}, None, UpstreamUnavailable, "upstream_429", "provider"),
    ({"code": "insufficient_quota", "message": "m"}, 429, UpstreamRefused, "upstream_429", "operator"),
    ({"code": "brand_new", "message": "m"}, None, UpstreamUnavailable, "upstream_error", "provider"),
    ({"code": "brand_new", "message": "m"}, 404, UpstreamRefused, "upstream_404", "caller"),
    ({"code": "server_error", "message": "m"}, 400, UpstreamRefused, "upstream_400", "caller"),
    ("out of grain", 503, UpstreamUnavailable, "upstream_503", "provider"),
    (None, None, UpstreamUnavailable, "upstream_error", "provider"),
    (17, 408, UpstreamUnavailable, "upstream_408", "provider"),
    (
        {"error": {"error": {"error": {"error": {"error": {}}}}}},
        None,
        UpstreamUnavailable,
        "upstream_error",
        "provider",
    ),
]


@pytest.mark.parametrize(("given", "status", "kind", "code", "whose"), CASES)
def test_the_class_depends_on_whether_another_try_may_help(
    given: Any, status: int | None, kind: type[UpstreamError], code: str, whose: str
) -> None:
    # given: an error object, with or without an HTTP status; if: it is read
    error = parse_upstream_error(given, status)
    # expect: class, wire code and who has to act
    assert (type(error), error.code, error.whose, error.status) == (kind, code, whose, status)
    assert str(error)


def test_the_message_is_the_providers_with_its_error_word() -> None:
    # given: errors with and without a message; expect: a readable message
    assert str(parse_upstream_error({"code": "server_error", "message": "The mill stopped."})) == (
        "The mill stopped. (server_error)"
    )
    assert str(parse_upstream_error({"message": "Error 502 from upstream", "code": 502})) == "Error 502 from upstream"
    assert str(parse_upstream_error({"detail": "not here"}, 404)) == "not here"
    assert str(parse_upstream_error({})) == NO_MESSAGE


def test_keys_are_removed_from_messages_and_long_messages_are_cut() -> None:
    # given: a provider that quotes the key
    error = parse_upstream_error({"message": "Incorrect API key provided: sk-proj-abcdef**********1234."}, 401)
    # expect: no part of it
    assert "abcdef" not in str(error)
    assert "1234" not in str(error)
    # given: a page in place of a message; expect: its start
    assert len(str(parse_upstream_error({"message": "x" * 100_000}))) == MAX_MESSAGE_CHARACTERS


def test_a_message_with_half_a_character_can_be_encoded() -> None:
    # given: a message that the server cut inside a surrogate pair; expect: valid UTF-8
    assert str(parse_upstream_error({"message": "No room \ud83d"})) == "No room \ufffd"
