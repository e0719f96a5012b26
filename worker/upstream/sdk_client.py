"""Makes the SDK's client from the environment: its server, key and transport."""

from collections.abc import Mapping
from typing import Literal
from urllib.parse import urlsplit
from urllib.request import getproxies, proxy_bypass

import httpx2
import openai

from tailrace.schemas.errors import SettingsError
from tailrace.worker.upstream.transport import Transport

SPARE_CONNECTIONS = 16
"""Connections in addition to one per running request: those of cancelled requests, while they close."""

TransportName = Literal["tailrace", "httpx"]

_OPENAI = "https://api.openai.com/v1"


def api_key_of(environment: Mapping[str, str]) -> str:
    """The API key. It must appear in no error.

    Raises:
        SettingsError: there is no key, or its value is not valid.
    """
    name = "AZURE_OPENAI_API_KEY" if environment.get("AZURE_OPENAI_ENDPOINT") else "OPENAI_API_KEY"
    key = environment.get(name, "")
    if not key.strip():
        raise SettingsError(
            f"{name} is not set: export the key of the model's server (any word if the server needs none)"
        )
    if not (key.isascii() and key.isprintable()):
        raise SettingsError(f"{name} has a line end or another character that no key has: set it again")
    return key.strip()


def make_sdk_client(
    environment: Mapping[str, str], *, connect_timeout_s: float, max_streams: int, transport: TransportName
) -> openai.AsyncOpenAI:
    """Makes a client of OpenAI, of a compatible server, or of Azure.

    OpenAI and compatible servers use `OPENAI_API_KEY`, `OPENAI_BASE_URL` and `OPENAI_ORG_ID`; Azure uses
    `AZURE_OPENAI_ENDPOINT`, `AZURE_OPENAI_API_KEY` and `OPENAI_API_VERSION`.

    Args:
        environment: has these variables.
        connect_timeout_s: for opening a connection. `ResponseBody` limits all other waits, since it knows the first
            byte from later ones.
        max_streams: how many responses are received at once.
        transport: carries the requests; if the environment names a proxy for the server, httpx2's own is used.

    Raises:
        SettingsError: there is no key, or a URL is not valid.
    """
    key, azure = api_key_of(environment), environment.get("AZURE_OPENAI_ENDPOINT") or None
    base_url = environment.get("OPENAI_BASE_URL") or None
    for name, url in (("AZURE_OPENAI_ENDPOINT", azure), ("OPENAI_BASE_URL", base_url)):
        if url is not None and not _is_http(url):
            raise SettingsError(f"{name} must be an http:// or https:// URL, such as {_OPENAI}")
    if azure and base_url:
        raise SettingsError("AZURE_OPENAI_ENDPOINT and OPENAI_BASE_URL are both set: unset one of them")
    version = environment.get("OPENAI_API_VERSION")
    if azure and not version:
        raise SettingsError("OPENAI_API_VERSION is not set: Azure needs it, for example 2024-10-21")
    connections = max_streams + SPARE_CONNECTIONS
    own_transport = transport == "tailrace" and not _proxied(azure or base_url or _OPENAI)
    http = openai.DefaultAsyncHttpxClient(
        limits=httpx2.Limits(max_connections=connections, max_keepalive_connections=connections),
        timeout=httpx2.Timeout(None, connect=connect_timeout_s),
        transport=Transport() if own_transport else None,
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
    """Whether the environment (`HTTPS_PROXY`, `ALL_PROXY`, `NO_PROXY` ...) names a proxy for this URL."""
    parts = urlsplit(url)
    return not {parts.scheme, "all"}.isdisjoint(getproxies()) and not proxy_bypass(parts.netloc)


def _is_http(url: str) -> bool:
    try:
        parts = urlsplit(url)
        return parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
    except ValueError:
        return False
