"""API keys: what is kept is no key, and only what was given out opens."""

from datetime import UTC, datetime, timedelta

import pytest

from tailrace.producers.gateway.access.api_keys import HEADER, KeyRing, new_key, parse_keys, parse_until
from tailrace.schemas.errors import SettingsError

NOW = datetime(2026, 1, 1, tzinfo=UTC)


def test_a_key_opens_for_its_tenant_and_is_kept_nowhere() -> None:
    shown, kept = new_key("acme")
    (read,) = parse_keys(HEADER + kept.line)
    assert read == kept
    found = KeyRing([read]).find_key(shown, NOW)
    assert found is not None
    assert found.tenant == "acme"
    assert shown.rpartition("_")[2] not in kept.line


def test_several_keys_of_a_tenant_stand_beside_each_other_and_end_apart() -> None:
    old, kept_old = new_key("acme", NOW + timedelta(days=1))
    new, kept_new = new_key("acme")
    ring = KeyRing(parse_keys(f"{kept_old.line}\n# the new one\n\n{kept_new.line}\n"))
    assert ring.find_key(old, NOW) == kept_old
    assert ring.find_key(new, NOW) == kept_new
    assert ring.find_key(old, NOW + timedelta(days=1)) is None
    assert ring.find_key(new, NOW + timedelta(days=1)) == kept_new


def test_no_other_key_opens() -> None:
    shown, kept = new_key("acme")
    other, _ = new_key("acme")
    prefix, key_id, secret = shown.split("_", 2)
    ring = KeyRing([kept])
    for given in (other, f"{prefix}_{key_id}_{other.split('_', 2)[2]}", f"{prefix}_{key_id}_", secret, "", kept.digest):
        assert ring.find_key(given, NOW) is None


@pytest.mark.parametrize("line", ["trk_0123456789ab_secret", "0123456789ab acme short", "0123456789ab a/b " + 64 * "0"])
def test_a_line_that_cannot_be_read_is_named_and_not_repeated(line: str) -> None:
    with pytest.raises(SettingsError, match="line 2") as refused:
        parse_keys(f"# keys\n{line}\n")
    assert line not in str(refused.value)
    assert "secret" not in str(refused.value)


def test_an_id_stands_once() -> None:
    _, kept = new_key("acme")
    with pytest.raises(SettingsError, match="line 2"):
        parse_keys(f"{kept.line}\n{kept.line}\n")


def test_a_time_without_an_offset_is_utc() -> None:
    assert parse_until("2026-01-01") == NOW
    assert parse_until("2026-01-01T01:00:00+01:00") == NOW
