"""API keys of a web tier: how one is made, kept and recognised. Pure but for chance; the file is read elsewhere.

A key is `trk_<id>_<secret>`. The id finds its line; of the secret only the SHA-256 is kept. It is 32 random bytes, so a
slow hash, which protects words that people choose, would protect nothing and cost every call.
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
# API keys of the gateway: id, tenant, SHA-256 of the secret, and until when. `tailrace key` writes this file.
"""


class ApiKey(NamedTuple):
    """A key as it is kept. `until` is None for one without an end."""

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
    """A key for a tenant: what its owner is given, which is kept nowhere, and what is kept.

    Raises:
        ValueError: the tenant's name cannot be used.
    """
    key_id, secret = secrets.token_hex(6), secrets.token_urlsafe(32)
    return f"trk_{key_id}_{secret}", ApiKey(key_id, check_tenant(tenant), _digest(secret), until)


def parse_keys(text: str) -> list[ApiKey]:
    """Reads the lines of a file; empty ones and those that begin with `#` say nothing.

    Raises:
        SettingsError: a line cannot be read. The message has its number and nothing of it: it may be a key by mistake.
    """
    found: dict[str, ApiKey] = {}
    for number, line in enumerate(map(str.strip, text.splitlines()), 1):
        if not line or line.startswith("#"):
            continue
        key = _parsed(line)
        if key is None:
            raise SettingsError(f"line {number} of the API keys is not `<id> <tenant> <sha256> [until=<time>]`")
        if key.id in found:
            raise SettingsError(f"line {number} of the API keys has the id of a line above")
        found[key.id] = key
    return list(found.values())


def parse_until(text: str) -> datetime:
    """Reads a time, ISO 8601; without an offset it is UTC.

    Raises:
        ValueError: it is none.
    """
    until = datetime.fromisoformat(text)
    return until if until.tzinfo else until.replace(tzinfo=UTC)


class KeyRing:
    """The keys that are valid.

    Args:
        keys: as they are kept.
    """

    def __init__(self, keys: Iterable[ApiKey]) -> None:
        self._keys = {key.id: key for key in keys}

    def __len__(self) -> int:
        return len(self._keys)

    def find(self, given: str, now: datetime) -> ApiKey | None:
        """The key that was given, if it is one of ours and its time is not over."""
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
