"""Opens a connection to a host: the first of its addresses that answers (RFC 8305, "Happy Eyeballs")."""

import asyncio
import socket
import ssl
from collections.abc import Callable, Coroutine
from itertools import chain, zip_longest
from typing import Any, NamedTuple

import httpx2

from tailrace.worker.upstream.transport.connection import Connection

STAGGER_S = 0.25
"""How long one address is tried alone before the next one is tried in parallel (RFC 8305, 5)."""


class Origin(NamedTuple):
    """The server of a connection; `secure` means TLS."""

    secure: bool
    host: str
    port: int


async def connect(origin: Origin, context: ssl.SSLContext | None, timeout_s: float | None) -> Connection:
    """Opens a connection, with TLS if a context is given.

    Raises:
        httpx2.ConnectTimeout: there was no connection in time, including the TLS handshake.
        httpx2.ConnectError: the host does not exist, nothing listens there, or its certificate is not accepted.
    """
    loop = asyncio.get_running_loop()
    tls: dict[str, Any] = {}
    if context is not None:
        tls = {"ssl": context, "server_hostname": origin.host, "ssl_handshake_timeout": timeout_s}

    async def connect_to(address: str) -> Connection:
        return (await loop.create_connection(Connection, address, origin.port, **tls))[1]

    try:
        async with asyncio.timeout(timeout_s):
            return await _first_connection(await _addresses(origin), connect_to)
    except TimeoutError as error:
        raise httpx2.ConnectTimeout(f"no connection to {origin.host}:{origin.port} in time") from error
    except OSError as error:
        raise httpx2.ConnectError(str(error) or type(error).__name__) from error


async def _addresses(origin: Origin) -> list[str]:
    """The addresses of a host in the system's order, but with the address families alternating."""
    found = await asyncio.get_running_loop().getaddrinfo(origin.host, origin.port, type=socket.SOCK_STREAM)
    families: dict[int, list[str]] = {}
    for family, _, _, _, address in found:
        families.setdefault(family, []).append(str(address[0]))
    return [host for host in chain(*zip_longest(*families.values())) if host is not None]


async def _first_connection(
    addresses: list[str], connect_to: Callable[[str], Coroutine[Any, Any, Connection]]
) -> Connection:
    """Returns the first connection that opens; all others are closed.

    Raises:
        OSError: the last failure, once all have failed.
    """
    running: set[asyncio.Task[Connection]] = set()
    failure = OSError("the host has no address")
    try:
        while addresses or running:
            if addresses:
                running.add(asyncio.create_task(connect_to(addresses.pop(0))))
            done, _ = await asyncio.wait(
                running, timeout=STAGGER_S if addresses else None, return_when=asyncio.FIRST_COMPLETED
            )
            for task in done:
                running.discard(task)
                error = task.exception()
                if error is None:
                    return task.result()
                if not isinstance(error, OSError):
                    raise error
                failure = error
        raise failure
    finally:
        for task in running:
            task.cancel()
            task.add_done_callback(_close_connection)


def _close_connection(task: asyncio.Task[Connection]) -> None:
    if not task.cancelled() and task.exception() is None:
        task.result().close()
