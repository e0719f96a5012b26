"""Names of tenants, priorities and limits: what is accepted, and the error for what is not."""

from typing import Any

import pytest

from tailrace.broker import keys
from tailrace.schemas.errors import RequestRejected, SettingsError
from tailrace.schemas.request import decode_request, parse_request
from tailrace.schemas.settings import Settings

HELLO: dict[str, Any] = {"model": "m", "messages": [{"role": "user", "content": "hello"}]}


@pytest.mark.parametrize("tenant", ["a", "Acme-Corp_2.eu", "-", "x" * 64])
def test_valid_tenant_names(tenant: str) -> None:
    request = parse_request({**HELLO, "tenant": tenant})
    assert request.tenant == tenant
    assert decode_request(request.encoded()) == request


@pytest.mark.parametrize("tenant", ["", "x" * 65, "a b", "a:b", "a,b", "a=b", "ä", "a\n", "{a}"])
def test_invalid_tenant_names(tenant: str) -> None:
    with pytest.raises(RequestRejected, match=r"^tenant: .*1 to 64 of the characters A-Z a-z 0-9 _ \. -$"):
        parse_request({**HELLO, "tenant": tenant})


@pytest.mark.parametrize("priority", ["urgent", "High", "", 1, None])
def test_other_priorities_are_refused(priority: object) -> None:
    with pytest.raises(RequestRejected, match=r"^priority: Input should be 'high', 'normal' or 'low'"):
        parse_request({**HELLO, "priority": priority})


def test_tenant_and_priority_are_part_of_the_digest_and_not_sent_to_the_model() -> None:
    # given a request with both, expect neither in what is sent to the model's server, and a digest of its own; a
    # default that is given counts as a default left out
    plain = parse_request(HELLO)
    request = parse_request({**HELLO, "tenant": "a", "priority": "high"})
    assert request.upstream_parameters() == plain.upstream_parameters() == HELLO
    others = [{"tenant": "a"}, {"priority": "high"}, {"tenant": "b", "priority": "high"}, {}]
    digests = {parse_request({**HELLO, **more}).digest() for more in others} | {request.digest()}
    assert len(digests) == 5
    assert parse_request({**HELLO, "tenant": None, "priority": "normal"}).digest() == plain.digest()


def test_the_lane_of_a_request() -> None:
    assert keys.lane_of(None, "normal") is None
    assert keys.lane_of("acme", "normal") == "normal:acme"
    assert keys.lane_of("acme", "high") == "high:acme"
    assert keys.lane_of(None, "low") == "low:"


def test_limits_are_read_from_the_environment() -> None:
    assert (Settings().tenant_limit, dict(Settings().tenant_limits)) == (0, {})
    given = {"TAILRACE_TENANT_LIMIT": "20", "TAILRACE_TENANT_LIMITS": " acme=10, initech=50,free=0,"}
    settings = Settings.from_environment(given)
    assert settings.tenant_limit == 20
    assert dict(settings.tenant_limits) == {"acme": 10, "initech": 50, "free": 0}
    assert Settings.from_environment({"TAILRACE_TENANT_LIMITS": ""}).tenant_limits == {}


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ("acme", "'acme' is not <tenant>=<limit>"),
        ("acme=", "'acme=' is not <tenant>=<limit>"),
        ("acme=-1", "'acme=-1' is not <tenant>=<limit>"),
        ("acme=1.5", "'acme=1.5' is not <tenant>=<limit>"),
        ("=5", "'' cannot be a tenant"),
        ("a b=5", "'a b' cannot be a tenant"),
        ("a=5,a=6", "names 'a' twice"),
    ],
)
def test_invalid_limits(given: str, message: str) -> None:
    with pytest.raises(SettingsError, match=f"^TAILRACE_TENANT_LIMITS: {message}"):
        Settings.from_environment({"TAILRACE_TENANT_LIMITS": given})


def test_a_limit_below_zero_is_refused() -> None:
    with pytest.raises(SettingsError, match=r"^TAILRACE_TENANT_LIMIT: "):
        Settings.from_environment({"TAILRACE_TENANT_LIMIT": "-1"})
