"""API keys of web tiers: makes, parses and verifies them. Pure except for randomness; `key_file.py` reads the file.

A key is `trk_<id>_<secret>`. The id finds the key's line in the file, which stores only the SHA-256 of the secret. The
secret is 32 random bytes: a slow hash, made for passwords, would add no protection and would slow down every call.
"""

import hmac
import re
import secrets
from collections.abc import Iterable
from datetime import UTC, datetime
from hashlib import sha256
from typing import NamedTuple

from tailrace.schemas.errors import SettingsError
from tailrace.schemas.request import check_tenant

_KEY = re.compile(r"trk_([0-9a-f]{12})_([A-Za-z0-9_-]{43})\Z")
_LINE = re.compile(r"([0-9a-f]{12}) (\S+) ([0-9a-f]{64})(?: until=(\S+))?\Z")

HEADER = """\
# API keys of the gateway: id, tenant, SHA-256 of the secret, and expiry if any. Written by `tailrace key`.
"""


class ApiKey(NamedTuple):
    """A key as the file stores it. `until` is None for a key that does not expire."""

    id: str
    tenant: str
    digest: str
    until: datetime | None

    @property
    def line(self) -> str:
        """The key's line in the file."""
        until = "" if self.until is None else f" until={self.until.isoformat()}"
        return f"{self.id} {self.tenant} {self.digest}{until}"


def new_key(tenant: str, until: datetime | None = None) -> tuple[str, ApiKey]:
    """Makes a key for a tenant.

    Returns:
        The key to give to its owner, which is not stored, and the record of it for the file.

    Raises:
        ValueError: the tenant's name is invalid.
    """
    key_id, secret = secrets.token_hex(6), secrets.token_urlsafe(32)
    return f"trk_{key_id}_{secret}", ApiKey(key_id, check_tenant(tenant), _digest(secret), until)


def parse_keys(text: str) -> list[ApiKey]:
    """Parses the lines of a key file. Empty lines and lines that begin with `#` are skipped.

    Raises:
        SettingsError: a line is malformed. The message names its number but not its text, which may be a key.
    """
    found: dict[str, ApiKey] = {}
    for number, line in enumerate(map(str.strip, text.splitlines()), 1):
        if not line or line.startswith("#"):
            continue
        key = _parsed(line)
        if key is None:
            raise SettingsError(f"line {number} of the API keys is not `<id> <tenant> <sha256> [until=<time>]`")
        if key.id in found:
            raise SettingsError(f"line {number} of the API keys repeats the id of an earlier line")
        found[key.id] = key
    return list(found.values())


def parse_until(text: str) -> datetime:
    """Parses an ISO 8601 time; UTC when it has no offset.

    Raises:
        ValueError: the text is not a time.
    """
    until = datetime.fromisoformat(text)
    return until if until.tzinfo else until.replace(tzinfo=UTC)


class KeyRing:
    """The keys of a file.

    Args:
        keys: their records.
    """

    def __init__(self, keys: Iterable[ApiKey]) -> None:
        self._keys = {key.id: key for key in keys}

    def __len__(self) -> int:
        return len(self._keys)

    def find_key(self, given: str, now: datetime) -> ApiKey | None:
        """The record of the given key; None when the key is unknown or has expired."""
        match = _KEY.match(given)
        if match is None:
            return None
        key = self._keys.get(match[1])
        digest = _digest(match[2])
        if key is None or not hmac.compare_digest(digest, key.digest):
            return None
        return key if key.until is None or now < key.until else None


def _parsed(line: str) -> ApiKey | None:
    match = _LINE.match(line)
    if match is None:
        return None
    try:
        return ApiKey(match[1], check_tenant(match[2]), match[3], parse_until(match[4]) if match[4] else None)
    except ValueError:
        return None


def _digest(secret: str) -> str:
    return sha256(secret.encode()).hexdigest()
