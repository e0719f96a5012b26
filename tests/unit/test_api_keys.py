"""API keys: the file does not contain the secrets, and only issued keys are accepted."""

from datetime import UTC, datetime, timedelta

import pytest

from tailrace.producers.gateway.access.api_keys import HEADER, KeyRing, new_key, parse_keys, parse_until
from tailrace.schemas.errors import SettingsError

NOW = datetime(2026, 1, 1, tzinfo=UTC)


def test_a_key_identifies_its_tenant_and_is_not_stored() -> None:
    key, record = new_key("acme")
    (read,) = parse_keys(HEADER + record.line)
    assert read == record
    found = KeyRing([read]).find_key(key, NOW)
    assert found is not None
    assert found.tenant == "acme"
    assert key.rpartition("_")[2] not in record.line


def test_several_keys_of_a_tenant_expire_independently() -> None:
    old, kept_old = new_key("acme", NOW + timedelta(days=1))
    new, kept_new = new_key("acme")
    ring = KeyRing(parse_keys(f"{kept_old.line}\n# the new one\n\n{kept_new.line}\n"))
    assert ring.find_key(old, NOW) == kept_old
    assert ring.find_key(new, NOW) == kept_new
    assert ring.find_key(old, NOW + timedelta(days=1)) is None
    assert ring.find_key(new, NOW + timedelta(days=1)) == kept_new


def test_no_other_key_is_accepted() -> None:
    key, record = new_key("acme")
    other, _ = new_key("acme")
    prefix, key_id, secret = key.split("_", 2)
    ring = KeyRing([record])
    for given in (
        other,
        f"{prefix}_{key_id}_{other.split('_', 2)[2]}",
        f"{prefix}_{key_id}_",
        secret,
        "",
        record.digest,
    ):
        assert ring.find_key(given, NOW) is None


@pytest.mark.parametrize("line", ["trk_0123456789ab_secret", "0123456789ab acme short", "0123456789ab a/b " + 64 * "0"])
def test_a_malformed_line_is_reported_by_number_only(line: str) -> None:
    with pytest.raises(SettingsError, match="line 2") as refused:
        parse_keys(f"# keys\n{line}\n")
    assert line not in str(refused.value)
    assert "secret" not in str(refused.value)


def test_a_repeated_id_is_rejected() -> None:
    _, record = new_key("acme")
    with pytest.raises(SettingsError, match="line 2"):
        parse_keys(f"{record.line}\n{record.line}\n")


def test_a_time_without_an_offset_is_utc() -> None:
    assert parse_until("2026-01-01") == NOW
    assert parse_until("2026-01-01T01:00:00+01:00") == NOW
