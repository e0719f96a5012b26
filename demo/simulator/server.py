"""The running simulator: its listening socket, its requests, and how to stop it."""

from __future__ import annotations

import asyncio
from typing import Self

from tailrace.demo.simulator.app import App
from tailrace.demo.simulator.connection import Connection, OnEnd
from tailrace.demo.simulator.ledger import Entry, Ledger


def _quiet(entry: Entry) -> None:
    """Ignores the end of a request."""


class Simulator:
    """A running simulator: `async with Simulator() as simulator`, then `simulator.url` is an OpenAI base URL.

    Args:
        host: address to listen on.
        port: 0 chooses a free one.
        key: the required API key; by default any key is accepted, but one must be sent.
        chunks_per_s: pace of streams whose scenario has none; 0 is as fast as the client reads.
        on_end: called with the entry of each request that has ended.

    Raises:
        OSError: on entry, if it cannot listen on the address.
    """

    def __init__(
        self,
        host: str = "127.0.0.1",
        port: int = 0,
        *,
        key: str | None = None,
        chunks_per_s: float = 0.0,
        on_end: OnEnd = _quiet,
    ) -> None:
        self._host, self._port, self._on_end = host, port, on_end
        self.ledger = Ledger()
        self._app = App(self.ledger, key=key, chunks_per_s=chunks_per_s)
        self._connections: set[Connection] = set()
        self._server: asyncio.Server | None = None

    async def __aenter__(self) -> Self:
        loop = asyncio.get_running_loop()
        self._server = await loop.create_server(
            lambda: Connection(self._app, self._connections, self._on_end), self._host, self._port, backlog=1024
        )
        self._port = self._server.sockets[0].getsockname()[1]
        return self

    async def __aexit__(self, *_: object) -> None:
        assert self._server is not None  # noqa: S101 -- entered before it is left
        self._server.close()
        for connection in tuple(self._connections):
            connection.stop()
        await self._server.wait_closed()

    @property
    def root(self) -> str:
        """Address of the simulator itself, for `/__sim/requests`."""
        host = f"[{self._host}]" if ":" in self._host else self._host
        return f"http://{host}:{self._port}"

    @property
    def url(self) -> str:
        """The base URL for an OpenAI client."""
        return f"{self.root}/v1"

    @property
    def open_connections(self) -> int:
        return self._app.open_connections
