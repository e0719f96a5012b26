"""From the environment to the SDK's client: whose server, which key, over which transport."""

from collections.abc import Mapping
from typing import Literal
from urllib.parse import urlsplit
from urllib.request import getproxies, proxy_bypass

import httpx2
import openai

from tailrace.schemas.errors import SettingsError
from tailrace.worker.upstream.transport import Transport

SPARE_CONNECTIONS = 16
"""Beyond one for each running request: those of cancelled requests, while they close."""

TransportName = Literal["tailrace", "httpx"]

_OPENAI = "https://api.openai.com/v1"


def key_of(environment: Mapping[str, str]) -> str:
    """The key that is sent: it must appear in no error.

    Raises:
        SettingsError: there is none, or it cannot be one.
    """
    name = "AZURE_OPENAI_API_KEY" if environment.get("AZURE_OPENAI_ENDPOINT") else "OPENAI_API_KEY"
    key = environment.get(name, "")
    if not key.strip():
        raise SettingsError(
            f"{name} is not set: export the key of the model's server (any word for one that asks for none)"
        )
    if not (key.isascii() and key.isprintable()):
        raise SettingsError(f"{name} has a line end or a character that no key has: set it again")
    return key.strip()


def client_of(
    environment: Mapping[str, str], *, connect_s: float, max_streams: int, transport: TransportName
) -> openai.AsyncOpenAI:
    """A client of OpenAI or of whoever speaks as it does, by `OPENAI_API_KEY`, `OPENAI_BASE_URL` and `OPENAI_ORG_ID`;
    of Azure, by `AZURE_OPENAI_ENDPOINT`, `AZURE_OPENAI_API_KEY` and `OPENAI_API_VERSION`.

    Args:
        environment: theirs.
        connect_s: for a connection. All other waiting is limited by `Answer.read`, which can tell the first byte from
            the later ones.
        max_streams: answers received at once.
        transport: what carries requests; where a proxy is to lead to the server, httpx2's own does in any case.

    Raises:
        SettingsError: there is no key, or a URL cannot be one.
    """
    key, azure = key_of(environment), environment.get("AZURE_OPENAI_ENDPOINT") or None
    base_url = environment.get("OPENAI_BASE_URL") or None
    for name, url in (("AZURE_OPENAI_ENDPOINT", azure), ("OPENAI_BASE_URL", base_url)):
        if url is not None and not _is_http(url):
            raise SettingsError(f"{name} must be an http:// or https:// URL, such as {_OPENAI}")
    if azure and base_url:
        raise SettingsError("AZURE_OPENAI_ENDPOINT and OPENAI_BASE_URL are both set: unset the one that is not meant")
    version = environment.get("OPENAI_API_VERSION")
    if azure and not version:
        raise SettingsError("OPENAI_API_VERSION is not set: Azure needs it, such as 2024-10-21")
    connections = max_streams + SPARE_CONNECTIONS
    ours = transport == "tailrace" and not _proxied(azure or base_url or _OPENAI)
    http = openai.DefaultAsyncHttpxClient(
        limits=httpx2.Limits(max_connections=connections, max_keepalive_connections=connections),
        timeout=httpx2.Timeout(None, connect=connect_s),
        transport=Transport() if ours else None,
    )
    organization = environment.get("OPENAI_ORG_ID") or None
    if azure:
        return openai.AsyncAzureOpenAI(
            api_key=key,
            azure_endpoint=azure,
            api_version=version,
            organization=organization,
            max_retries=0,
            http_client=http,
        )
    return openai.AsyncOpenAI(
        api_key=key, base_url=base_url, organization=organization, max_retries=0, http_client=http
    )


def _proxied(url: str) -> bool:
    """Whether the environment (`HTTPS_PROXY`, `ALL_PROXY`, `NO_PROXY` ...) sends requests for this URL by a proxy."""
    parts = urlsplit(url)
    return not {parts.scheme, "all"}.isdisjoint(getproxies()) and not proxy_bypass(parts.netloc)


def _is_http(url: str) -> bool:
    try:
        parts = urlsplit(url)
        return parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
    except ValueError:
        return False
