"""Who asks, and what they may: API keys for web tiers, tokens for browsers, and how often a tenant may submit.

Reads the file of keys. Knows nothing of routes, and of requests only the tenant they were submitted for.
"""

import logging
import os
import re
import time
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import NamedTuple

from tailrace.producers.gateway.access.api_keys import KeyRing, parse_keys
from tailrace.producers.tokens import TokenInvalid, TokenSigner
from tailrace.schemas.errors import SettingsError, TailraceError, Whose
from tailrace.telemetry.logging import fields

_logger = logging.getLogger("tailrace.gateway")

_LOOK_AGAIN_S = 1.0
_KEY_PREFIX = "trk_"
_LOOPBACK = re.compile(r"(localhost|127(\.[0-9]{1,3}){3}|\[::1\])(:[0-9]{1,5})?", re.IGNORECASE)


class AccessDenied(TailraceError):
    """Whoever asks has no valid API key or token, or it does not allow this."""

    code = "access_denied"
    whose: Whose = "caller"

    def __init__(self, message: str, status: int) -> None:
        super().__init__(message)
        self.status = status


class Caller(NamedTuple):
    """Somebody who has shown who they are.

    Attributes:
        tenant: on whose behalf.
        request_id: the one request that a token is for; None for an API key.
        may_cancel: whether they may cancel what they may read.
        is_anyone: the gateway is open, and there are no tenants to keep apart.
    """

    tenant: str | None
    request_id: str | None = None
    may_cancel: bool = True
    is_anyone: bool = False

    def may_read(self, request_id: str, tenant: str | None) -> bool:
        """Whether a request of this tenant is theirs to see."""
        return self.is_anyone or (tenant == self.tenant and self.request_id in (None, request_id))


class Access:
    """Tells callers by what they show.

    Args:
        keys: the API keys; None opens the gateway to anyone.
        tokens: reads tokens; None where there are none.
    """

    def __init__(self, keys: "KeyFile | None", tokens: TokenSigner | None) -> None:
        self._keys = keys
        self._tokens = tokens

    @property
    def is_open(self) -> bool:
        """Whether nobody is asked for a key."""
        return self._keys is None

    def callers(self, authorization: str | None, tokens: list[str]) -> list[Caller]:
        """Everybody that one call speaks for: one by its `Authorization`, or one for each token in its query.

        Raises:
            AccessDenied: nobody.
        """
        if self._keys is None:
            return [Caller(None, is_anyone=True)]
        if authorization is None and tokens:
            return [self._of_token(token) for token in tokens]
        scheme, _, shown = (authorization or "").partition(" ")
        if scheme.lower() != "bearer" or not shown:
            raise AccessDenied("give an API key or a token: Authorization: Bearer ...", 401)
        shown = shown.strip()
        return [self._of_key(shown, self._keys) if shown.startswith(_KEY_PREFIX) else self._of_token(shown)]

    def _of_key(self, shown: str, keys: "KeyFile") -> Caller:
        key = keys.ring().find(shown, datetime.now(UTC))
        if key is None:
            raise AccessDenied("this API key is unknown or has expired", 401)
        return Caller(key.tenant)

    def _of_token(self, shown: str) -> Caller:
        if self._tokens is None:
            raise AccessDenied("this gateway accepts no tokens: it has no secret to check them with", 401)
        try:
            grant = self._tokens.read(shown, time.time())
        except TokenInvalid as error:
            raise AccessDenied(str(error), 401) from error
        return Caller(grant.tenant, grant.request_id, grant.may_cancel)


class KeyFile:
    """The file of API keys, read again when it has changed, so that keys come and go without a restart.

    Args:
        path: of the file.

    Raises:
        SettingsError: it cannot be read, or has no key.
    """

    def __init__(self, path: str) -> None:
        self._path = path
        self._seen: tuple[int, int, int] | None = None
        self._look_at_s = 0.0
        self._ring = KeyRing([])
        self._look()
        if not len(self._ring):
            raise SettingsError(f"{path} has no API key; make one: tailrace key new --tenant NAME --file {path}")

    def ring(self) -> KeyRing:
        """The keys now. A file that has become unreadable leaves those that were."""
        if time.monotonic() >= self._look_at_s:
            try:
                self._look()
            except SettingsError as error:
                _logger.error(
                    "cannot read the API keys again (%s); those read before stay valid",
                    error,
                    extra=fields("api_keys_not_reloaded", why=error),
                )
        return self._ring

    def _look(self) -> None:
        self._look_at_s = time.monotonic() + _LOOK_AGAIN_S
        try:
            stat = os.stat(self._path)
            seen = (stat.st_mtime_ns, stat.st_size, stat.st_ino)
            if seen == self._seen:
                return
            with open(self._path, encoding="utf-8") as file:
                text = file.read()
        except (OSError, UnicodeDecodeError) as error:
            reason = error.strerror if isinstance(error, OSError) else "it is not UTF-8"
            raise SettingsError(f"TAILRACE_GATEWAY_KEYS_FILE: {self._path} cannot be read: {reason}") from error
        self._seen = seen
        self._ring = KeyRing(parse_keys(text))


class Allowance:
    """How many submits each tenant has left: refilled evenly, up to one minute's worth.

    Args:
        per_minute: for each tenant; 0 for no limit.
    """

    def __init__(self, per_minute: int) -> None:
        self._per_minute = per_minute
        self._left: dict[str | None, tuple[float, float]] = {}

    def wait_s(self, tenant: str | None, now_s: float) -> float:
        """Takes one submit; seconds to wait where there is none left, 0 where there was.

        Args:
            tenant: whose.
            now_s: of a monotonic clock.
        """
        if not self._per_minute:
            return 0.0
        left, at_s = self._left.get(tenant, (float(self._per_minute), now_s))
        left = min(float(self._per_minute), left + (now_s - at_s) * self._per_minute / 60)
        if left < 1:
            self._left[tenant] = (left, now_s)
            return (1 - left) * 60 / self._per_minute
        self._left[tenant] = (left - 1, now_s)
        return 0.0


def is_from_elsewhere(host: str, origin: str | None, allowed: Sequence[str]) -> bool:
    """Whether a page from elsewhere calls, by way of a browser on this machine.

    A gateway without keys has nothing else to tell by. Such a page is of another origin, or its host's name was made to
    lead here (DNS rebinding), and then it is the page's name that the call goes to.

    Args:
        host: the call's `Host`.
        origin: its `Origin`, which browsers send with what a page posts or reads across origins.
        allowed: origins that may call.
    """
    if _LOOPBACK.fullmatch(host) is None:
        return True
    return origin is not None and origin not in allowed and origin.partition("://")[2] != host


def origins_of(text: str) -> list[str]:
    """The pages that may call, as the setting has them.

    Raises:
        SettingsError: one is no origin.
    """
    origins = [origin for part in text.split(",") if (origin := part.strip())]
    for origin in origins:
        if not origin.startswith(("https://", "http://")) or origin.count("/") != 2 or "*" in origin:
            raise SettingsError(
                f"TAILRACE_GATEWAY_ORIGINS: {origin!r} is not an origin; give scheme and host, such as https://app.example"
            )
    return origins
