"""What a producer may submit: every refusal names the parameter and what to do; accepted requests are unchanged."""

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tailrace.schemas.errors import RequestRejected, RequestTooLarge, SettingsError
from tailrace.schemas.interface_options import InterfaceOptions
from tailrace.schemas.json_values import find_fault
from tailrace.schemas.request import MAX_REQUEST_BYTES, GenerationRequest, decode_request, parse_request
from tailrace.schemas.settings import Settings

HELLO: dict[str, Any] = {"model": "m", "messages": [{"role": "user", "content": "hello"}]}
ASK: dict[str, Any] = {"api": "responses", "model": "m", "input": "hello"}

WRONG: list[tuple[dict[str, Any], str]] = [
    ({"messages": HELLO["messages"]}, "model: "),
    ({**HELLO, "model": ""}, "model: "),
    ({**HELLO, "model": 7}, "model: "),
    ({"model": "m"}, "messages: give at least one"),
    ({"model": "m", "messages": []}, "messages: give at least one"),
    ({"model": "m", "messages": "hello"}, "messages: "),
    ({"model": "m", "messages": [{"content": "x"}]}, 'messages: message 0 needs a "role"'),
    ({"model": "m", "messages": ["x"]}, "messages.0: "),
    ({**HELLO, "stream": True}, "stream: leave it out"),
    ({**HELLO, "stream": False}, "stream: leave it out"),
    ({**HELLO, "n": 2}, "n: leave it out or give 1"),
    ({**HELLO, "background": True}, "background: leave it out"),
    ({**HELLO, "audio": {}}, "audio: leave it out"),
    ({**HELLO, "modalities": ["text", "audio"]}, "modalities: only text"),
    ({**HELLO, "extra_headers": {}}, "extra_headers: leave it out"),
    ({**HELLO, "extra_query": {}}, "extra_query: leave it out"),
    ({**HELLO, "api_key": "sk-1"}, "api_key: leave it out"),
    ({**HELLO, "extra_body": {"stream": True}}, "extra_body.stream: leave it out"),
    ({**HELLO, "extra_body": {"n": 3}}, "extra_body.n: "),
    ({**HELLO, "extra_body": {"temperature": 1}}, "extra_body.temperature: give it under its own name"),
    ({**HELLO, "top_k": 5}, "top_k: unknown parameter; a vendor's own parameters go into extra_body"),
    ({**HELLO, "temperature": "hot"}, "temperature: "),
    ({**HELLO, "temperature": True}, "temperature: "),
    ({**HELLO, "max_tokens": 1.5}, "max_tokens: "),
    ({**HELLO, "tools": {}}, "tools: "),
    ({**HELLO, "tools": ["f"]}, "tools.0: "),
    ({**HELLO, "api": "completions"}, "api: "),
    ({**HELLO, "input": "x"}, 'input: belongs to api "responses"'),
    ({**ASK, "messages": []}, "messages: "),
    ({**ASK, "messages": HELLO["messages"]}, 'messages: belongs to api "chat"'),
    ({"api": "responses", "model": "m"}, "input: give a text"),
    ({**HELLO, "id": ""}, "id: "),
    ({**HELLO, "id": "a b"}, "id: id 'a b' cannot be used"),
    ({**HELLO, "id": 7}, "id: "),
    ({**HELLO, "timeout_s": 0.0}, "timeout_s: "),
    ({**HELLO, "timeout_s": -1.0}, "timeout_s: "),
    ({**HELLO, "timeout_s": float("inf")}, "timeout_s: "),
    ({**HELLO, "timeout_s": float("nan")}, "timeout_s: "),
    ({**HELLO, "timeout_s": 86_401.0}, "timeout_s: "),
    ({**HELLO, "metadata": "x"}, "metadata: "),
    ({**HELLO, "metadata": {"x": "y" * 17_000}}, "metadata: has 17,008 bytes, the limit is 16,384"),
    ({**HELLO, "interface": {"use_assistant_messages": True}}, "interface.use_assistant_messages: unknown parameter"),
    ({**HELLO, "interface": {"use_assistant_message": "yes"}}, "interface.use_assistant_message: "),
    ({**HELLO, "interface": {"inner_thoughts_kwarg": ""}}, "interface.inner_thoughts_kwarg: "),
    ({**HELLO, "interface": {"think_tags": "drop"}}, "interface.think_tags: "),
]


@pytest.mark.parametrize(("given_", "message"), WRONG)
def test_a_wrong_parameter_is_refused_by_name(given_: dict[str, Any], message: str) -> None:
    with pytest.raises(RequestRejected) as caught:
        parse_request(given_)
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)
    assert "pydantic" not in str(caught.value)
    # as JSON too
    with pytest.raises(RequestRejected):
        parse_request(json.dumps(given_))


def test_a_key_given_by_mistake_is_not_repeated_in_the_error() -> None:
    with pytest.raises(RequestRejected) as caught:
        parse_request({**HELLO, "api_key": "sk-secret", "top_k": "sk-secret"})
    assert "secret" not in str(caught.value)


@pytest.mark.parametrize("text", ["", "{", "[]", "null", '"x"', "NaN", "{}x", b"\xff\xfe", b"\x00"])
def test_text_that_is_not_a_json_object_is_refused(text: str | bytes) -> None:
    with pytest.raises(RequestRejected):
        parse_request(text)


def test_a_text_that_is_too_long_is_refused_before_it_is_parsed() -> None:
    with pytest.raises(RequestTooLarge, match="the limit is 8,388,608"):
        parse_request(b" " * (2 * MAX_REQUEST_BYTES + 1))


def test_the_limit_applies_to_the_stored_size() -> None:
    # given a request whose JSON is twice as long as its stored form
    fits = parse_request(json.dumps({**HELLO, "user": "é" * (MAX_REQUEST_BYTES // 4)}))
    assert len(fits.encoded()) < MAX_REQUEST_BYTES
    with pytest.raises(RequestTooLarge, match="send large files by URL"):
        parse_request({**HELLO, "user": "x" * MAX_REQUEST_BYTES}).encoded()


def test_a_value_nested_too_deeply_is_refused() -> None:
    deep: list[Any] = []
    for _ in range(10_000):
        deep = [deep]
    with pytest.raises(RequestRejected):
        parse_request({**HELLO, "metadata": {"x": deep}}).encoded()
    with pytest.raises(RequestRejected):
        parse_request('{"model":"m","messages":[{"role":"user","content":' + "[" * 10_000 + "]" * 10_000 + "}]}")


def test_parameters_reach_the_models_server_unchanged() -> None:
    request = parse_request(
        {
            **HELLO,
            "messages": [{"role": "assistant", "content": None, "tool_calls": []}, {"role": "tool", "content": "1"}],
            "tools": [{"type": "function", "function": {"name": "f", "parameters": {"default": None}}}],
            "temperature": 1,
            "seed": None,
            "n": 1,
            "id": "mine",
            "metadata": {"a": 1},
            "timeout_s": 5.0,
            "tenant": "acme",
            "extra_body": {"top_k": 5},
            "interface": {"use_assistant_message": True},
        }
    )
    assert request.upstream_parameters() == {
        "model": "m",
        "messages": [{"role": "assistant", "content": None, "tool_calls": []}, {"role": "tool", "content": "1"}],
        "tools": [{"type": "function", "function": {"name": "f", "parameters": {"default": None}}}],
        "temperature": 1,
    }
    assert request.extra_body == {"top_k": 5}


def test_a_stored_request_is_read_back_equal() -> None:
    for content in (HELLO, ASK, {**HELLO, "id": "mine", "metadata": {"a": [1, None, 0.5, "é"]}, "timeout_s": 5.0}):
        request = parse_request(content)
        assert decode_request(request.encoded()) == request


def test_interface_options_are_one_object_from_request_to_interface() -> None:
    request = parse_request({**HELLO, "interface": {"think_tags": "reasoning"}})
    assert request.interface == InterfaceOptions(think_tags="reasoning")
    assert GenerationRequest(**HELLO, interface=request.interface) == request
    assert decode_request(request.encoded()).interface == request.interface
    assert parse_request(json.dumps({**HELLO, "interface": {"think_tags": "reasoning"}})) == request


@pytest.mark.parametrize("packed", [b"", b"\xc1", b"\x80", b"\x93\x01\x02\x03"])
def test_bytes_that_are_not_a_stored_request_are_refused(packed: bytes) -> None:
    with pytest.raises(RequestRejected, match="cannot be read"):
        decode_request(packed)


def test_the_digest_depends_on_the_content_alone() -> None:
    digest = parse_request(HELLO).digest()
    same: list[dict[str, Any]] = [
        dict(reversed(HELLO.items())),
        {**HELLO, "id": "mine"},
        {**HELLO, "api": "chat", "interface": {"put_inner_thoughts_in_kwarg": True}},
        {**HELLO, "seed": None},
        {**HELLO, "n": 1},
        {**HELLO, "messages": [{"content": "hello", "role": "user"}]},
    ]
    assert [parse_request(content).digest() for content in same] == [digest] * len(same)
    other: list[dict[str, Any]] = [
        {**HELLO, "model": "n"},
        {**HELLO, "messages": [{"role": "user", "content": "hello "}]},
        {**HELLO, "temperature": 0.0},
        {**HELLO, "metadata": {}},
        {**HELLO, "timeout_s": 5.0},
        {**HELLO, "interface": {"use_assistant_message": True}},
        {**HELLO, "messages": [{"role": "user", "content": "hello", "name": None}]},
    ]
    digests = {parse_request(content).digest() for content in other}
    assert len(digests) == len(other)
    assert digest not in digests


json_values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**63), 2**64 - 1)
    | st.floats(allow_nan=False, allow_infinity=False)
    # lone surrogates cannot be encoded as UTF-8
    | st.text(st.characters(exclude_categories=["Cs"])),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=4), inner, max_size=4),
    max_leaves=12,
)


@given(json_values)
def test_every_json_value_is_kept(value: Any) -> None:
    assert find_fault(value) is None
    if isinstance(value, dict):
        request = parse_request({**HELLO, "extra_body": {"x": value}})
        stored = decode_request(request.encoded())
        assert stored.extra_body == {"x": value}


@pytest.mark.parametrize(
    ("value", "fault"),
    [
        (b"x", "bytes has no JSON form"),
        ({"a": [1, {"b": {1, 2}}]}, "a.1.b: set has no JSON form"),
        ([float("nan")], "0: nan has no JSON form"),
        ({"a": {1: 2}}, "a: the key 1 is not a string"),
        ({"a": (1, object())}, "a.1: object has no JSON form"),
    ],
)
def test_values_without_a_json_form_are_found(value: Any, fault: str) -> None:
    assert find_fault(value) == fault


def test_a_request_is_immutable() -> None:
    request = GenerationRequest(**HELLO)
    with pytest.raises(ValueError, match="frozen"):
        request.model = "other"


@pytest.mark.parametrize(
    "url",
    [
        "redis://localhost",
        "redis://localhost:6379/15",
        "rediss://user:p%40ss@h:1/0",
        "unix:///run/redis.sock?db=1",
        "redis://[::1]:6379/0",
        "redis+sentinel://a:1,b/mymaster",
        "rediss+sentinel://user:p%40ss@[::1]:26379/main-1/2?ssl_ca_certs=/ca.pem",
    ],
)
def test_valid_redis_urls(url: str) -> None:
    assert Settings.from_environment({"TAILRACE_REDIS_URL": url}).redis_url == url


@pytest.mark.parametrize(
    "url",
    [
        *(
            "",
            "localhost:6379",
            "http://h",
            "redis://h:port",
            "redis://h:0",
            "redis://h:65536",
            "redis://h/x",
            "unix://",
        ),
        *("redis+sentinel://h", "redis+sentinel://h/0/0/0", "redis+sentinel://h:0/m", "redis+sentinel://a,,b/m"),
    ],
)
def test_invalid_redis_urls(url: str) -> None:
    with pytest.raises(SettingsError, match=r"^TAILRACE_REDIS_URL: "):
        Settings.from_environment({"TAILRACE_REDIS_URL": url})


@pytest.mark.parametrize(
    ("name", "value"), [("LEASE_S", "0"), ("MAX_JOBS", "many"), ("MAX_JOBS", "0"), ("RETENTION_S", "-1")]
)
def test_settings_out_of_range_are_named(name: str, value: str) -> None:
    with pytest.raises(SettingsError, match=f"^TAILRACE_{name}: "):
        Settings.from_environment({f"TAILRACE_{name}": value})


def test_unknown_settings_are_named_and_other_variables_ignored() -> None:
    with pytest.raises(SettingsError, match="TAILRACE_LEASE is not a setting"):
        Settings.from_environment({"TAILRACE_LEASE": "5"})
    assert Settings.from_environment({"LEASE_S": "x", "OPENAI_API_KEY": "k"}) == Settings()
