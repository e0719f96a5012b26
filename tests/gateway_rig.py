"""A gateway on a real socket, and readers of its event streams over HTTP."""

import asyncio
import json
from collections.abc import AsyncGenerator, Mapping
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType
from typing import Any

import httpx2

from tailrace.producers.gateway.access.api_keys import new_key
from tailrace.producers.gateway.app import Gateway
from tailrace.producers.gateway.server import GatewayServer, listen
from tailrace.schemas.settings import Settings

WAIT_S = 20.0
SECRET = "a secret for tests alone and of enough characters"  # noqa: S105 - it guards nothing


@dataclass
class Served:
    """A running gateway."""

    gateway: Gateway
    settings: Settings
    server: GatewayServer
    url: str
    key: str
    keys_file: Path
    http: httpx2.AsyncClient

    @property
    def port(self) -> int:
        """The port that it listens on."""
        return int(self.url.rpartition(":")[2])

    async def submit(self, request: Mapping[str, Any], **headers: str) -> dict[str, Any]:
        """Submits over HTTP and returns the body of the response."""
        answer = await self.http.post("/v1/streams", json=dict(request), headers=headers)
        assert answer.status_code == 202, answer.text
        return answer.json()


@asynccontextmanager
async def gateway(
    url: str, folder: Path, *, is_open: bool = False, tenant: str = "acme", **settings: Any
) -> AsyncGenerator[Served]:
    """Runs a gateway for the Redis at `url`, with one API key, which `http` sends.

    Args:
        url: of the Redis.
        folder: where to write the file of keys.
        is_open: calls need no API key.
        tenant: the tenant of the key.
        settings: more settings of the gateway, by name.
    """
    shown, kept = new_key(tenant)
    keys_file = folder / "keys"
    keys_file.write_text(kept.line + "\n")
    made = Settings.model_validate(
        {"redis_url": url, "gateway_keys_file": str(keys_file), "token_secrets": SECRET, **settings}
    )
    served = Gateway(made, is_open=is_open)
    server = GatewayServer(served)
    with listen("127.0.0.1", 0) as listener:
        at = f"http://127.0.0.1:{listener.getsockname()[1]}"
        task = asyncio.create_task(server.serve([listener]))
        async with httpx2.AsyncClient(
            base_url=at, headers={"authorization": f"Bearer {shown}"}, timeout=WAIT_S
        ) as http:
            try:
                yield Served(served, made, server, at, shown, keys_file, http)
            finally:
                server.should_exit = True
                async with asyncio.timeout(WAIT_S):
                    await task


@dataclass
class Event:
    """An event as a browser would deliver it; `id` is None if the frame had none."""

    name: str
    id: str | None
    text: str

    @property
    def entry(self) -> dict[str, Any]:
        """Its JSON."""
        return json.loads(self.text)


@dataclass
class Reader:
    """One event stream: iterates over its events, counts comments and collects the retry hints."""

    status: int
    headers: httpx2.Headers
    _lines: AsyncGenerator[str, None]
    comments: int = 0
    retries: list[int] = field(default_factory=list[int])

    async def __aiter__(self) -> AsyncGenerator[Event, None]:
        name, event_id, data = "message", None, list[str]()
        async for line in self._lines:
            field_name, _, value = line.partition(":")
            value = value.removeprefix(" ")
            match field_name:
                case "" if line:
                    self.comments += 1
                case "event":
                    name = value
                case "id":
                    event_id = value
                case "data":
                    data.append(value)
                case "retry":
                    self.retries.append(int(value))
                case _:
                    if data:
                        yield Event(name, event_id, "\n".join(data))
                    name, event_id, data = "message", None, list[str]()

    async def all(self) -> list[Event]:
        """All events up to the end of the stream."""
        async with asyncio.timeout(WAIT_S):
            return [event async for event in self]


@asynccontextmanager
async def reading(
    http: httpx2.AsyncClient, path: str, headers: Mapping[str, str] = MappingProxyType({})
) -> AsyncGenerator[Reader]:
    """Opens an event stream."""
    async with http.stream("GET", path, headers={"accept": "text/event-stream", **headers}) as answer:
        lines = _lines(answer)
        try:
            yield Reader(answer.status_code, answer.headers, lines)
        finally:
            with suppress(RuntimeError):  # a cancelled task is still reading it
                await lines.aclose()


async def _lines(answer: httpx2.Response) -> AsyncGenerator[str, None]:
    async for line in answer.aiter_lines():
        yield line


async def events(http: httpx2.AsyncClient, path: str, headers: Mapping[str, str] = MappingProxyType({})) -> list[Event]:
    """All events of a stream, up to its end."""
    async with reading(http, path, headers) as reader:
        assert reader.status == 200, reader.status
        return await reader.all()
