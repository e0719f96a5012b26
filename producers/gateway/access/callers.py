"""Authenticates callers: API keys for web tiers, tokens for browsers, anyone if the gateway is open.

Knows nothing of routes, and of a request only its id and tenant.
"""

import time
from datetime import UTC, datetime
from typing import NamedTuple

from tailrace.producers.gateway.access.key_file import KeyFile
from tailrace.producers.tokens import TokenSigner
from tailrace.schemas.errors import AccessDenied, TokenInvalid

_KEY_PREFIX = "trk_"


class Caller(NamedTuple):
    """An authenticated caller.

    Attributes:
        tenant: the tenant the caller acts for.
        request_id: the one request a token is for; None for an API key.
        may_cancel: whether the caller may cancel what it may read.
        is_anyone: whether the gateway is open, so that tenants are not kept apart.
    """

    tenant: str | None
    request_id: str | None = None
    may_cancel: bool = True
    is_anyone: bool = False

    def may_read(self, request_id: str, tenant: str | None) -> bool:
        """Whether the caller may see this request of this tenant."""
        return self.is_anyone or (tenant == self.tenant and self.request_id in (None, request_id))


class Authenticator:
    """Identifies callers by their credentials.

    Args:
        keys: the API keys; None opens the gateway to anyone.
        tokens: reads tokens; None if the gateway accepts none.
    """

    def __init__(self, keys: KeyFile | None, tokens: TokenSigner | None) -> None:
        self._keys = keys
        self._tokens = tokens

    @property
    def is_open(self) -> bool:
        """Whether calls need no credentials."""
        return self._keys is None

    def callers(self, authorization: str | None, tokens: list[str]) -> list[Caller]:
        """The callers of one HTTP call: one for its `Authorization` header, or one for each token in its query.

        Raises:
            AccessDenied: the credentials are missing or invalid.
        """
        if self._keys is None:
            return [Caller(None, is_anyone=True)]
        if authorization is None and tokens:
            return [self._token_holder(token) for token in tokens]
        scheme, _, credentials = (authorization or "").partition(" ")
        if scheme.lower() != "bearer" or not credentials:
            raise AccessDenied("send an API key or a token: Authorization: Bearer ...", 401)
        credentials = credentials.strip()
        if credentials.startswith(_KEY_PREFIX):
            return [self._key_holder(credentials, self._keys)]
        return [self._token_holder(credentials)]

    def _key_holder(self, given: str, keys: KeyFile) -> Caller:
        key = keys.current().find_key(given, datetime.now(UTC))
        if key is None:
            raise AccessDenied("this API key is unknown or has expired", 401)
        return Caller(key.tenant)

    def _token_holder(self, given: str) -> Caller:
        if self._tokens is None:
            raise AccessDenied("this gateway accepts no tokens: it has no secret to verify them with", 401)
        try:
            grant = self._tokens.read_token(given, time.time())
        except TokenInvalid as error:
            raise AccessDenied(str(error), 401) from error
        return Caller(grant.tenant, grant.request_id, grant.may_cancel)
