"""From a host's name to a connection: the first of its addresses that answers (RFC 8305, "Happy Eyeballs")."""

import asyncio
import socket
import ssl
from collections.abc import Callable, Coroutine
from itertools import chain, zip_longest
from typing import Any, NamedTuple

import httpx2

from tailrace.worker.upstream.transport.connection import Connection

STAGGER_S = 0.25
"""How long one address is tried alone before the next joins (RFC 8305, 5)."""


class Origin(NamedTuple):
    """Whom a connection leads to; `secure` by TLS."""

    secure: bool
    host: str
    port: int


async def dial(origin: Origin, context: ssl.SSLContext | None, limit_s: float | None) -> Connection:
    """A new connection, with TLS where a context is given.

    Raises:
        httpx2.ConnectTimeout: there was none in so many seconds, TLS included.
        httpx2.ConnectError: no such host, nobody there, or not whom we look for.
    """
    loop = asyncio.get_running_loop()
    secured: dict[str, Any] = {}
    if context is not None:
        secured = {"ssl": context, "server_hostname": origin.host, "ssl_handshake_timeout": limit_s}

    async def connect(host: str) -> Connection:
        return (await loop.create_connection(Connection, host, origin.port, **secured))[1]

    try:
        async with asyncio.timeout(limit_s):
            return await _first(await _addresses(origin), connect)
    except TimeoutError as error:
        raise httpx2.ConnectTimeout(f"no connection to {origin.host}:{origin.port} in time") from error
    except OSError as error:
        raise httpx2.ConnectError(str(error) or type(error).__name__) from error


async def _addresses(origin: Origin) -> list[str]:
    """The addresses of a host in the system's order, but the families by turns."""
    found = await asyncio.get_running_loop().getaddrinfo(origin.host, origin.port, type=socket.SOCK_STREAM)
    families: dict[int, list[str]] = {}
    for family, _, _, _, address in found:
        families.setdefault(family, []).append(str(address[0]))
    return [host for host in chain(*zip_longest(*families.values())) if host is not None]


async def _first(hosts: list[str], connect: Callable[[str], Coroutine[Any, Any, Connection]]) -> Connection:
    """The first connection there is; of all others nothing is left.

    Raises:
        OSError: the last failure, once all have failed.
    """
    running: set[asyncio.Task[Connection]] = set()
    failure = OSError("the host has no address")
    try:
        while hosts or running:
            if hosts:
                running.add(asyncio.create_task(connect(hosts.pop(0))))
            done, _ = await asyncio.wait(
                running, timeout=STAGGER_S if hosts else None, return_when=asyncio.FIRST_COMPLETED
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
            task.add_done_callback(_close)


def _close(task: asyncio.Task[Connection]) -> None:
    if not task.cancelled() and task.exception() is None:
        task.result().close()
