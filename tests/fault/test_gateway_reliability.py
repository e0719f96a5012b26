"""Many SSE clients, resumed at random, while gateways, workers and Valkey are restarted.

The test suite runs it with few clients. `SSE_CLIENTS=1000` sets their number, `SSE_SEED=n` the random seed.
"""

import asyncio
import json
import os
import secrets
import signal
from collections import Counter
from collections.abc import AsyncGenerator, Awaitable, Callable, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from functools import partial
from pathlib import Path
from random import Random
from typing import Any, NamedTuple

import httpx2
import pytest
from redis.asyncio import Redis

from tailrace.broker.keys import log_key
from tailrace.demo.simulator import Simulator
from tailrace.demo.valkey import EmbeddedValkey
from tailrace.producers.gateway.access.api_keys import new_key
from tests.fault.campaign.answers import Limits, draw
from tests.fault.places import Place
from tests.rig import KEY
from tests.sse_client import SseClient
from tests.until import until

GATEWAYS, WORKERS = 2, 3
CLIENTS_A_REQUEST = 10
AWAY_S = 0.5  # the longest that Valkey is down
PAUSE_S = 2.0  # the longest pause between two faults of one kind, so that requests make progress
LEAVES_AFTER = 40  # the most frames before a client disconnects
LIMIT_S = 600.0


class Size(NamedTuple):
    """The size of a run."""

    clients: int
    requests: int
    jobs: int  # of one worker at once; queued requests have readers too
    answers: Limits


def size_of_run() -> Size:
    """The size that the environment sets."""
    clients = int(os.environ.get("SSE_CLIENTS") or 60)
    if clients <= 60:
        return Size(clients, 20, 4, Limits(0.8, 2.0, (25.0, 35.0)))
    return Size(clients, clients // CLIENTS_A_REQUEST, 6, Limits(2.0, 6.0, (20.0, 30.0)))


class Site(NamedTuple):
    """The processes that are restarted, and the current ports of the gateways."""

    valkey: EmbeddedValkey
    gateways: Sequence[Place]
    workers: Sequence[Place]
    ports: list[int]
    key: str


@asynccontextmanager
async def site(folder: Path, jobs: int) -> AsyncGenerator[Site]:
    """Starts a Valkey that writes to disk before it answers, gateways and workers; the simulator runs in-process."""
    shown, kept = new_key("acme")
    (folder / "keys").write_text(kept.line)
    ports = [0] * GATEWAYS
    async with AsyncExitStack() as stack:
        valkey = stack.enter_context(EmbeddedValkey(appendonly=True, options={"appendfsync": "always"}))
        simulator = await stack.enter_async_context(Simulator(key=KEY))
        redis = {"TAILRACE_REDIS_URL": valkey.url}
        worker = {
            **redis,
            "OPENAI_API_KEY": KEY,
            "OPENAI_BASE_URL": simulator.url,
            "TAILRACE_LEASE_S": "1.5",
            "TAILRACE_POLL_S": "0.2",
            "TAILRACE_DRAIN_S": "0",
            "TAILRACE_MAX_JOBS": str(jobs),
            "TAILRACE_MAX_CRASHES": "100",  # workers crash here because of the test, not because of requests
        }

        def listens(number: int) -> Callable[[str], None]:
            return lambda line: ports.__setitem__(number, int(line.rpartition(":")[2]))

        gateways = [
            Place(
                ("gateway", "--port", "0"),
                redis | {"TAILRACE_GATEWAY_KEYS_FILE": str(folder / "keys")},
                "tailrace gateway listens on ",
                folder / f"gateway-{number}.log",
                listens(number),
            )
            for number in range(GATEWAYS)
        ]
        workers = [Place(("worker",), worker, "ready: ", folder / f"worker-{number}.log") for number in range(WORKERS)]
        async with asyncio.TaskGroup() as starts:
            for place in (*gateways, *workers):
                starts.create_task(stack.enter_async_context(place))
        yield Site(valkey, gateways, workers, ports, shown)


async def disturb(at: Site, dice: Random, is_over: Callable[[], bool]) -> Counter[str]:
    """Restarts gateways, workers and Valkey concurrently until the run is over; returns how often each."""
    done: Counter[str] = Counter()
    one_ends = asyncio.Lock()  # so that no process is stopped while Valkey is down

    async def restart(places: Sequence[Place], by: signal.Signals) -> None:
        place = dice.choice(places)
        async with one_ends:
            code = await place.ends(by)
        assert code == (0 if by is signal.SIGTERM else -by)
        await place.start()

    async def restart_valkey(by: signal.Signals) -> None:
        async with one_ends:
            await asyncio.to_thread(at.valkey.stop if by is signal.SIGTERM else at.valkey.kill)
            await asyncio.sleep(dice.random() * AWAY_S)
            await asyncio.to_thread(at.valkey.start)

    async def repeat(what: str, act: Callable[[signal.Signals], Awaitable[None]]) -> None:
        while not is_over():
            for by in dice.sample((signal.SIGKILL, signal.SIGTERM), 2):
                await act(by)  # the first faults at once, while every worker is busy
                done[f"{what} {by.name}"] += 1
                await asyncio.sleep(dice.random() * PAUSE_S)

    async with asyncio.TaskGroup() as loops:
        loops.create_task(repeat("gateway", partial(restart, at.gateways)))
        loops.create_task(repeat("worker", partial(restart, at.workers)))
        loops.create_task(repeat("Valkey", restart_valkey))
    return done


async def submit(http: httpx2.AsyncClient, number: int, dice: Random, answers: Limits) -> dict[str, Any]:
    """Submits a random request without faults and returns its links."""
    request, _, _ = draw(dice, f"request-{number}", answers)
    request["extra_body"]["simulator"]["faults"] = []
    del request["id"]
    request.pop("timeout_s", None)
    answer = await http.post("/v1/streams", json=request, headers={"idempotency-key": f"request-{number}"})
    assert answer.status_code == 202, answer.text
    return answer.json()["links"]


def plain(arguments: str) -> dict[str, Any]:
    """Arguments as deltas show them: without the inner thoughts."""
    return {name: value for name, value in json.loads(arguments or "{}").items() if name != "inner_thoughts"}


def check(client: SseClient, outcome: dict[str, Any], log: list[str]) -> None:
    """Checks that a client has seen each entry once and that its text is exactly the outcome."""
    assert client.ids == log
    assert client.end == outcome["status"] == "completed"
    assert client.shown.reasoning == (outcome["reasoning"] or "")
    calls = {number: call for number, call in enumerate(outcome["tool_calls"]) if number in client.shown.calls}
    hidden = [call["name"] for number, call in enumerate(outcome["tool_calls"]) if number not in calls]
    assert set(hidden) <= {"send_message"}  # it is shown as the assistant's message
    assert client.shown.content == (outcome["content"] or "")
    for number, shown in client.shown.calls.items():
        assert (shown.name, shown.call_id) == (calls[number]["name"], calls[number]["id"])
        assert json.loads(shown.arguments) == plain(calls[number]["arguments"])


async def test_every_client_gets_the_exact_outcome(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    # Many clients disconnect and resume at random while gateways, workers and Valkey are killed and stopped. Each
    # client sees every entry once and has the outcome's text, reasoning and arguments at the end.
    seed = int(os.environ.get("SSE_SEED") or secrets.randbelow(1_000_000))
    dice, size = Random(seed), size_of_run()  # noqa: S311 - reproducible, not a secret
    with capsys.disabled():
        print(f"\n{size.clients} SSE clients of {size.requests} requests; to repeat: SSE_SEED={seed}", flush=True)
    async with site(tmp_path, size.jobs) as at, asyncio.timeout(LIMIT_S):
        async with httpx2.AsyncClient(
            base_url=f"http://127.0.0.1:{at.ports[0]}", headers={"authorization": f"Bearer {at.key}"}, timeout=30.0
        ) as http:
            links = [await submit(http, number, dice, size.answers) for number in range(size.requests)]
        paths = [links[number % size.requests]["events"] for number in range(size.clients)]
        clients = [SseClient(at.ports, path, at.key, dice, LEAVES_AFTER) for path in paths]
        readers = asyncio.gather(*(client.read_to_end() for client in clients))
        await until(lambda: readers.done() or any(len(client.ids) > 5 for client in clients))
        done = await disturb(at, dice, readers.done)
        await readers
        outcomes, logs = await final_state(at, links)
    crashed = sum(outcome["crashes"] + outcome["drains"] for outcome in outcomes)
    opened = sum(client.opened for client in clients)
    with capsys.disabled():
        frames = sum(len(client.ids) for client in clients)
        faults = ", ".join(f"{name} {count}" for name, count in sorted(done.items()))
        print(f"  {opened} streams opened, {frames} frames, {crashed} takeovers; {faults}", flush=True)
    for number, client in enumerate(clients):
        check(client, outcomes[number % size.requests], logs[number % size.requests])
    assert crashed, "no worker died with a request: the run was too short"
    assert opened > 1.5 * size.clients, "too few clients reconnected"


async def final_state(at: Site, links: list[dict[str, Any]]) -> tuple[list[dict[str, Any]], list[list[str]]]:
    """The outcome of each request, read from a gateway, and the ids of its log, read from Valkey."""
    headers = {"authorization": f"Bearer {at.key}"}
    async with (
        httpx2.AsyncClient(base_url=f"http://127.0.0.1:{at.ports[0]}", headers=headers, timeout=30.0) as http,
        Redis.from_url(at.valkey.url, decode_responses=True) as redis,
    ):
        streams = [(await http.get(link["self"])).json() for link in links]
        logs = [[str(entry_id) for entry_id, _ in await redis.xrange(log_key(stream["id"]))] for stream in streams]
    return [stream["outcome"] for stream in streams], logs
