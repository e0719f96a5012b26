"""Which web pages may call the gateway. Pure."""

import re
from collections.abc import Sequence

from tailrace.schemas.errors import SettingsError

_LOOPBACK = re.compile(r"(localhost|127(\.[0-9]{1,3}){3}|\[::1\])(:[0-9]{1,5})?", re.IGNORECASE)


def is_cross_site(host: str, origin: str | None, allowed: Sequence[str]) -> bool:
    """Whether a page of another site makes this call, through a browser on this machine.

    A gateway without keys has no other protection. The call of such a page has a foreign `Origin`. With DNS rebinding
    the origin is the gateway's own, but then `Host` is the page's name instead of a loopback name.

    Args:
        host: the call's `Host` header.
        origin: its `Origin` header, which browsers send with every POST and every cross-origin read.
        allowed: other origins that may call.
    """
    if _LOOPBACK.fullmatch(host) is None:
        return True
    return origin is not None and origin not in allowed and origin.partition("://")[2] != host


def parse_origins(text: str) -> list[str]:
    """Parses the setting TAILRACE_GATEWAY_ORIGINS: origins separated by commas.

    Raises:
        SettingsError: one of them is not an origin.
    """
    origins = [origin for part in text.split(",") if (origin := part.strip())]
    for origin in origins:
        if not origin.startswith(("https://", "http://")) or origin.count("/") != 2 or "*" in origin:
            raise SettingsError(
                f"TAILRACE_GATEWAY_ORIGINS: {origin!r} is not an origin; give scheme and host, such as https://app.example"
            )
    return origins
