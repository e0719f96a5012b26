"""Tailrace in one process, except for Redis: the simulator over real HTTP, a worker and a client."""

import asyncio
from collections.abc import AsyncGenerator, Mapping
from contextlib import aclosing, asynccontextmanager
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

from redis.asyncio import Redis

from tailrace.broker.keys import log_key, rec_key
from tailrace.demo.simulator import Simulator
from tailrace.producers.client import Client
from tailrace.producers.options import ClientOptions
from tailrace.producers.tail.log_tail import Tailed
from tailrace.schemas.deltas import AssistantDelta, AttemptStarted, ReasoningDelta, ToolCallDelta
from tailrace.schemas.outcome import Outcome
from tailrace.schemas.settings import Settings
from tailrace.worker.app import run_worker

KEY = "a.key:that-must-not-appear-0123456789"
"""Not in the form of usual keys, so that a filter by form does not remove it."""
WAIT_S = 20.0


@dataclass
class Rig:
    """The parts that a test uses."""

    url: str
    simulator: Simulator
    client: Client
    redis: Redis
    worker: "InProcessWorker"

    async def submit(self, scenario: Mapping[str, Any] | None = None, **more: Any) -> str:
        """Submits a request that the simulator answers by this scenario; returns its id."""
        return (await self.client.submit(request_for(scenario, **more))).id

    async def outcome(self, request_id: str) -> Outcome:
        """The outcome, as soon as there is one."""
        outcome = await self.client.result(request_id, wait_s=WAIT_S)
        assert outcome is not None, "no outcome in time"
        return outcome

    async def entries(self, request_id: str) -> list[Tailed]:
        """All entries of the request, up to its terminal."""
        async with asyncio.timeout(WAIT_S), aclosing(self.client.tail(request_id)) as items:
            return [item async for item in items]

    async def ids(self, request_id: str) -> list[str]:
        """The ids of the entries in the log."""
        return [entry_id.decode() for entry_id, _ in await self.redis.xrange(log_key(request_id))]

    async def rec(self, request_id: str, field: str) -> str | None:
        """A field of the record."""
        value = await self.redis.hget(rec_key(request_id), field)
        return None if value is None else value.decode()


def request_for(scenario: Mapping[str, Any] | None = None, **more: Any) -> dict[str, Any]:
    """A chat request for the simulator."""
    request: dict[str, Any] = {"model": "sim", "messages": [{"role": "user", "content": "hello"}], **more}
    if scenario is not None:
        request["extra_body"] = {"simulator": dict(scenario)}
    return request


@asynccontextmanager
async def rig(
    url: str,
    *,
    worker_url: str | None = None,
    queue_url: str | None = None,
    key: str = KEY,
    environment: Mapping[str, str] = MappingProxyType({}),
    **settings: Any,
) -> AsyncGenerator[Rig]:
    """Simulator, worker and client on the Redis at `url`.

    Args:
        url: the server.
        worker_url: its URL for the worker, such as that of a proxy.
        queue_url: the server with the queue, if it is another one.
        key: the worker's API key; the simulator accepts only `KEY`.
        environment: further variables for the worker.
        settings: the worker's settings, by name.
    """
    async with (
        Simulator(key=KEY) as simulator,
        Redis.from_url(url) as redis,
        Client(url, ClientOptions(queue_url=queue_url)) as client,
    ):
        worker = worker_task(worker_url or url, simulator, key, environment, queue_url=queue_url or "", **settings)
        try:
            await worker.ready
            yield Rig(url, simulator, client, redis, worker)
            assert worker.stopped or not worker.task.done(), "the worker ended by itself"
        finally:
            await worker.stop()


class InProcessWorker:
    """A worker that runs in this process, as a task."""

    def __init__(self, settings: Settings, environment: Mapping[str, str]) -> None:
        self.stopped = False
        self.ready = asyncio.get_running_loop().create_future()
        self.task = asyncio.create_task(run_worker(settings, environment, self._is_ready, handle_signals=False))
        self.task.add_done_callback(self._ended)

    async def stop(self) -> None:
        """Cancels it; running requests are handed back."""
        self.stopped = True
        self.task.cancel()
        await asyncio.wait({self.task})
        if not self.task.cancelled() and (error := self.task.exception()):
            raise error

    def _is_ready(self, settings: Settings) -> None:
        self.ready.set_result(None)

    def _ended(self, task: asyncio.Task[None]) -> None:
        if not self.ready.done() and not task.cancelled() and (error := task.exception()):
            self.ready.set_exception(error)


def worker_task(
    url: str, simulator: Simulator, key: str, environment: Mapping[str, str], **settings: Any
) -> InProcessWorker:
    """A worker for this simulator and server."""
    return InProcessWorker(
        Settings(redis_url=url, **settings),
        {"OPENAI_API_KEY": key, "OPENAI_BASE_URL": simulator.url, **environment},
    )


def shown(entries: list[Tailed]) -> tuple[str, str, dict[int, str]]:
    """The deltas of the last attempt, joined: text, reasoning, arguments by call."""
    text, reasoning, arguments = dict[int, str](), dict[int, str](), dict[int, str]()
    for item in entries:
        match item.entry:
            case AttemptStarted():
                text, reasoning, arguments = dict[int, str](), dict[int, str](), dict[int, str]()
            case AssistantDelta(content=content, refusal=refusal, call=call):
                text[call or 0] = text.get(call or 0, "") + (content or refusal or "")
            case ReasoningDelta(reasoning=piece, call=call):
                reasoning[call or 0] = reasoning.get(call or 0, "") + piece
            case ToolCallDelta(call=call, tool_call=part):
                arguments[call] = arguments.get(call, "") + (part.arguments or "")
            case _:
                pass
    return _by_call(text), _by_call(reasoning), arguments


def _by_call(texts: Mapping[int, str]) -> str:
    return "".join(texts[call] for call in sorted(texts))
