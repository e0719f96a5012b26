"""Tokens with which a browser may read one request, or also cancel it, until a certain time. Pure.

A token is `v1.<grant>.<HMAC-SHA256 of both>`, each part base64url without padding. It is signed, not encrypted: its
holder can read the request's id, tenant and expiry in it.
"""

import hmac
import re
from base64 import urlsafe_b64decode, urlsafe_b64encode
from collections.abc import Sequence

import msgspec

from tailrace.schemas.errors import SettingsError, TokenInvalid

MIN_SECRET_CHARACTERS = 32
MAX_TOKEN_CHARACTERS = 1024

_VERSION = "v1"
_TOKEN = re.compile(r"v1\.([A-Za-z0-9_-]+)\.([A-Za-z0-9_-]{43})\Z")


class Grant(msgspec.Struct, frozen=True):
    """What a token allows: reading one request of one tenant until a time, and perhaps cancelling it.

    It names the tenant because an id may be used again once the lifetime of its request is over.
    """

    request_id: str
    tenant: str | None
    may_cancel: bool
    expires_s: int


_grant = msgspec.json.Decoder(Grant)


class TokenSigner:
    """Signs tokens with the first secret, and accepts those of any: to rotate, put a new secret before the old one.

    Args:
        secrets: at least one, each of 32 characters or more.

    Raises:
        SettingsError: there is no secret, or one is too short.
    """

    def __init__(self, secrets: Sequence[str]) -> None:
        if not secrets:
            raise SettingsError("TAILRACE_TOKEN_SECRETS: is not set, and tokens are signed with it")
        if any(len(secret) < MIN_SECRET_CHARACTERS for secret in secrets):
            raise SettingsError(
                f"TAILRACE_TOKEN_SECRETS: each needs {MIN_SECRET_CHARACTERS} characters or more; "
                "for a good one: openssl rand -hex 32"
            )
        self._secrets = [secret.encode() for secret in secrets]

    @classmethod
    def from_setting(cls, text: str) -> "TokenSigner | None":
        """A signer for the setting's secrets, which are separated by commas; None if there are none."""
        secrets = [secret for part in text.split(",") if (secret := part.strip())]
        return cls(secrets) if secrets else None

    def mint(self, grant: Grant) -> str:
        """Issues a token for this grant."""
        signed = f"{_VERSION}.{_text(msgspec.json.encode(grant))}"
        return f"{signed}.{_mac(self._secrets[0], signed)}"

    def read_token(self, token: str, now_s: float) -> Grant:
        """What a token allows at this time.

        Args:
            token: a token issued by `mint`.
            now_s: seconds since 1970.

        Raises:
            TokenInvalid: it allows nothing. The message does not contain it.
        """
        match = _TOKEN.match(token) if len(token) <= MAX_TOKEN_CHARACTERS else None
        if match is None:
            raise TokenInvalid("this is not a token")
        signed = token[: match.end(1)]
        valid = False
        for secret in self._secrets:  # all of them, so that the time taken reveals nothing
            valid |= hmac.compare_digest(_mac(secret, signed), match[2])
        if not valid:
            raise TokenInvalid("the token's signature is not ours")
        try:
            grant = _grant.decode(_bytes(match[1]))
        except msgspec.MsgspecError as error:
            raise TokenInvalid("the token cannot be read") from error
        if now_s >= grant.expires_s:
            raise TokenInvalid("the token has expired")
        return grant


def _mac(secret: bytes, signed: str) -> str:
    return _text(hmac.digest(secret, b"tailrace token " + signed.encode(), "sha256"))


def _text(raw: bytes) -> str:
    return urlsafe_b64encode(raw).rstrip(b"=").decode()


def _bytes(text: str) -> bytes:
    try:
        return urlsafe_b64decode(text + "=" * (-len(text) % 4))
    except ValueError as error:
        raise TokenInvalid("this is not a token") from error
