"""Many SSE clients, resumed at random, while gateways, workers and Valkey are restarted under them.

A short form runs in the suite. `SSE_CLIENTS=1000` runs it with as many clients, `SSE_SEED=n` with the choices
of a seed.
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
AWAY_S = 0.5  # Valkey, at most
PAUSE_S = 2.0  # between two faults of one kind, at most: long enough for all to get somewhere
ONE_LEAVES_AFTER = 40  # frames, at most
LIMIT_S = 600.0


class Form(NamedTuple):
    """How much of it."""

    clients: int
    requests: int
    jobs: int  # of one worker at once: what waits in the queue has readers all the same
    answers: Limits


def form() -> Form:
    """As the environment asks."""
    clients = int(os.environ.get("SSE_CLIENTS") or 60)
    if clients <= 60:
        return Form(clients, 20, 4, Limits(0.8, 2.0, (25.0, 35.0)))
    return Form(clients, clients // CLIENTS_A_REQUEST, 6, Limits(2.0, 6.0, (20.0, 30.0)))


class Site(NamedTuple):
    """What is restarted, and where the gateways listen just now."""

    valkey: EmbeddedValkey
    gateways: Sequence[Place]
    workers: Sequence[Place]
    ports: list[int]
    key: str


@asynccontextmanager
async def site(folder: Path, jobs: int) -> AsyncGenerator[Site]:
    """Real processes: Valkey that writes to disk before it answers, gateways, workers; the simulator in this one."""
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
            "TAILRACE_MAX_CRASHES": "100",  # the workers are to blame here, not the requests
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
    """Restarts gateways, workers and Valkey, all three at once, until it is over; what was done, and how often."""
    done: Counter[str] = Counter()
    one_ends = asyncio.Lock()  # so that no process is told to go while Valkey is away

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

    async def again_and_again(what: str, act: Callable[[signal.Signals], Awaitable[None]]) -> None:
        while not is_over():
            for by in dice.sample((signal.SIGKILL, signal.SIGTERM), 2):
                await act(by)  # the first ones at once: then every worker has its hands full
                done[f"{what} {by.name}"] += 1
                await asyncio.sleep(dice.random() * PAUSE_S)

    async with asyncio.TaskGroup() as loops:
        loops.create_task(again_and_again("gateway", partial(restart, at.gateways)))
        loops.create_task(again_and_again("worker", partial(restart, at.workers)))
        loops.create_task(again_and_again("Valkey", restart_valkey))
    return done


async def submit(http: httpx2.AsyncClient, number: int, dice: Random, answers: Limits) -> dict[str, Any]:
    """Submits a request of any kind that answers well; its links."""
    request, _, _ = draw(dice, f"request-{number}", answers)
    request["extra_body"]["simulator"]["faults"] = []
    del request["id"]
    request.pop("timeout_s", None)
    answer = await http.post("/v1/streams", json=request, headers={"idempotency-key": f"request-{number}"})
    assert answer.status_code == 202, answer.text
    return answer.json()["links"]


def plain(arguments: str) -> dict[str, Any]:
    """Arguments as deltas show them: less the inner thoughts."""
    return {name: value for name, value in json.loads(arguments or "{}").items() if name != "inner_thoughts"}


def check(client: SseClient, outcome: dict[str, Any], log: list[str]) -> None:
    """A client has seen each entry once, and what it put together is the outcome, to the letter."""
    assert client.ids == log
    assert client.end == outcome["status"] == "completed"
    assert client.shown.reasoning == (outcome["reasoning"] or "")
    calls = {number: call for number, call in enumerate(outcome["tool_calls"]) if number in client.shown.calls}
    hidden = [call["name"] for number, call in enumerate(outcome["tool_calls"]) if number not in calls]
    assert set(hidden) <= {"send_message"}  # shown as the assistant's message
    assert client.shown.content == (outcome["content"] or "")
    for number, shown in client.shown.calls.items():
        assert (shown.name, shown.call_id) == (calls[number]["name"], calls[number]["id"])
        assert json.loads(shown.arguments) == plain(calls[number]["arguments"])


async def test_every_client_ends_with_the_exact_outcome(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    # given many clients that leave and resume at random, if gateways, workers and Valkey are killed and stopped all the
    # while, expect each to have seen every entry once and to end with the outcome's text, reasoning and arguments
    seed = int(os.environ.get("SSE_SEED") or secrets.randbelow(1_000_000))
    dice, asked = Random(seed), form()  # noqa: S311 - it is to be the same again
    with capsys.disabled():
        print(f"\n{asked.clients} SSE clients of {asked.requests} requests; again with SSE_SEED={seed}", flush=True)
    async with site(tmp_path, asked.jobs) as at, asyncio.timeout(LIMIT_S):
        async with httpx2.AsyncClient(
            base_url=f"http://127.0.0.1:{at.ports[0]}", headers={"authorization": f"Bearer {at.key}"}, timeout=30.0
        ) as http:
            links = [await submit(http, number, dice, asked.answers) for number in range(asked.requests)]
        paths = [links[number % asked.requests]["events"] for number in range(asked.clients)]
        clients = [SseClient(at.ports, path, at.key, dice, ONE_LEAVES_AFTER) for path in paths]
        readers = asyncio.gather(*(client.to_its_end() for client in clients))
        await until(lambda: readers.done() or any(len(client.ids) > 5 for client in clients))
        done = await disturb(at, dice, readers.done)
        await readers
        outcomes, logs = await stands(at, links)
    crashed = sum(outcome["crashes"] + outcome["drains"] for outcome in outcomes)
    opened = sum(client.opened for client in clients)
    with capsys.disabled():
        frames = sum(len(client.ids) for client in clients)
        faults = ", ".join(f"{name} {count}" for name, count in sorted(done.items()))
        print(f"  {opened} streams opened, {frames} frames, {crashed} takeovers; {faults}", flush=True)
    for number, client in enumerate(clients):
        check(client, outcomes[number % asked.requests], logs[number % asked.requests])
    assert crashed, "no worker died with a request: too short a run"
    assert opened > 1.5 * asked.clients, "hardly anybody came back"


async def stands(at: Site, links: list[dict[str, Any]]) -> tuple[list[dict[str, Any]], list[list[str]]]:
    """The outcome of each request by a gateway, and the ids of its log by Valkey."""
    headers = {"authorization": f"Bearer {at.key}"}
    async with (
        httpx2.AsyncClient(base_url=f"http://127.0.0.1:{at.ports[0]}", headers=headers, timeout=30.0) as http,
        Redis.from_url(at.valkey.url, decode_responses=True) as redis,
    ):
        streams = [(await http.get(link["self"])).json() for link in links]
        logs = [[str(entry_id) for entry_id, _ in await redis.xrange(log_key(stream["id"]))] for stream in streams]
    return [stream["outcome"] for stream in streams], logs
