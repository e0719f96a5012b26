"""`bench cancel`: the time from a cancel to the closed connection of the model's server, next to a bare PUBLISH.

Runs an ordinary `tailrace worker`, a `Client`, and the simulator, which records when its client closes a connection, by
the monotonic clock that all processes share.
"""

import asyncio
from collections.abc import Callable, Sequence
from functools import partial
from random import Random
from time import monotonic
from typing import Any

from redis.asyncio import Redis
from redis.asyncio.client import PubSub

from bench.figures import BenchError, Report
from bench.programs import Fleet
from bench.statistics import median, percentile
from tailrace.demo.parts import clean_environment
from tailrace.demo.simulator import Simulator
from tailrace.demo.simulator.ledger import Entry
from tailrace.demo.valkey import EmbeddedValkey
from tailrace.producers.client import Client

LIMIT_MS = 50.0
OTHERS = 200
FLOOR = "PUBLISH to a subscriber"
_WITHIN_S = 20.0
_CHANNEL = "bench:floor"
_PAUSE_S = 0.05
_DICE = Random(3)  # noqa: S311 -- pauses, no secrets


def run(report: Report, *, quick: bool) -> None:
    """Measures and prints the results."""
    asyncio.run(_run(report, 20 if quick else 200))


async def _run(report: Report, samples: int) -> None:
    with EmbeddedValkey() as valkey, Fleet() as workers:
        async with (
            Simulator() as simulator,
            Redis.from_url(valkey.url) as redis,
            redis.pubsub() as channel,
            Client(valkey.url) as client,
        ):
            await channel.subscribe(_CHANNEL)
            await channel.get_message(timeout=_WITHIN_S)
            report.progress("cancel of waiting requests")
            waiting = [await _waiting_ms(client) for _ in range(samples)]
            environment = {"OPENAI_API_KEY": "none", "OPENAI_BASE_URL": simulator.url, "TAILRACE_REDIS_URL": valkey.url}
            arguments = ["-m", "tailrace", "worker", "--max-jobs", str(OTHERS + 10)]
            workers.start("tailrace worker", arguments, clean_environment(environment))
            await asyncio.to_thread(workers.wait_for_lines, 1, _WITHIN_S, "workers ready")
            await _running_ms(client, simulator)  # warm-up; also connects
            floor = [await _floor_ms(redis, channel) for _ in range(samples)]
            _figure(report, "waiting", "cancel, call to its answer", waiting, floor)
            for others in (0, OTHERS):
                for _ in range(others):
                    await client.submit(_request(1))
                await _until(simulator, partial(_runs, others))
                report.progress(f"cancel with {others} others running")
                values, floor = list[float](), list[float]()
                for _ in range(samples):
                    values.append(await _running_ms(client, simulator))
                    floor.append(await _floor_ms(redis, channel))
                what = "cancel, call to closed connection of the model's server"
                _figure(report, f"{others} others running", what, values, floor)


def _figure(report: Report, case: str, what: str, values: Sequence[float], floor: Sequence[float]) -> None:
    report.figure(case, what, median(values), "ms", beside={FLOOR: median(floor)}, at_most=LIMIT_MS)
    report.figure(case, f"{what}, 99th percentile", percentile(values, 99), "ms")


async def _waiting_ms(client: Client) -> float:
    request_id = (await client.submit(_request(1))).id
    began = monotonic()
    verdict = await client.cancel(request_id)
    took_s = monotonic() - began
    if verdict.verdict != "ended":
        raise BenchError(f"a waiting request was cancelled with the answer {verdict.verdict}")
    return took_s * 1000


async def _running_ms(client: Client, simulator: Simulator) -> float:
    before = len(simulator.ledger.entries())
    request_id = (await client.submit(_request(50))).id
    await _until(simulator, lambda entries: len(entries) > before and entries[-1].chunks_sent > 1)
    await asyncio.sleep(_DICE.uniform(0, _PAUSE_S))  # a random moment between two chunks
    call = simulator.ledger.entries()[-1]
    began = monotonic()
    await client.cancel(request_id)
    await _until(simulator, lambda _: call.ended_s is not None)
    if call.ended_s is None or call.ended != "client_closed":
        raise BenchError(f"the call of a cancelled request ended unexpectedly: {call.ended}")
    return (call.ended_s - began) * 1000


async def _floor_ms(redis: Redis, channel: PubSub) -> float:
    began = monotonic()
    receiving = asyncio.create_task(channel.get_message(timeout=_WITHIN_S))
    await redis.publish(_CHANNEL, b"1")
    await receiving
    return (monotonic() - began) * 1000


async def _until(simulator: Simulator, met: Callable[[list[Entry]], bool]) -> None:
    try:
        async with asyncio.timeout(_WITHIN_S):
            while not met(simulator.ledger.entries()):  # noqa: ASYNC110 -- the ledger has no event
                await asyncio.sleep(0.001)
    except TimeoutError as error:
        raise BenchError(f"the simulator's calls did not reach the expected state within {_WITHIN_S:g} s") from error


def _runs(count: int, entries: list[Entry]) -> bool:
    return sum(entry.ended == "open" for entry in entries) == count


def _request(chunks_per_s: int) -> dict[str, Any]:
    scenario = {"name": "long-3600", "pace": {"chunks_per_s": chunks_per_s}}
    return {
        "model": "sim",
        "messages": [{"role": "user", "content": "What is a tailrace?"}],
        "extra_body": {"simulator": scenario},
    }
