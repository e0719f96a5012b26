"""`bench decode`: what reading the model's stream costs, before anything is written.

Measures the CPU of this process for the SDK's objects, for the worker's reader (`worker/upstream/` and the interface's
decoder, including deltas) over each transport, and for the floor. The feeder is another process.
"""

import asyncio
from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from functools import cache, partial
from time import process_time
from typing import NamedTuple, get_args

import msgspec
import uvloop
from openai import AsyncOpenAI, AsyncStream
from openai.types.chat import ChatCompletionChunk

from bench import floor
from bench.feeder import FeederState, Plan
from bench.figures import BenchError, Report
from bench.programs import Fleet, Program
from bench.statistics import interleaved, median
from tailrace.demo.parts import clean_environment
from tailrace.schemas.interface_options import InterfaceOptions
from tailrace.schemas.request import GenerationRequest, parse_request
from tailrace.schemas.settings import Settings
from tailrace.worker.interface.stream_decoder import StreamDecoder
from tailrace.worker.upstream.sdk_client import TransportName
from tailrace.worker.wiring import make_upstream

SDK, FLOOR = "SDK, async for chunk", "the floor"
OURS = "the worker's reading"
PACED_STREAMS, PACE = 100, 20.0
BURST_STREAMS = 10
AT_ONCE = 20
CONNECTIONS = 1_000
_WITHIN_S = 30.0
_MESSAGES = [{"role": "user", "content": "What is a tailrace?"}]


class Effort(NamedTuple):
    """How much is measured: `--quick` or not."""

    rounds: int
    requests: int
    burst_chunks: int
    window_s: float


FULL = Effort(rounds=3, requests=200, burst_chunks=1_000, window_s=2.0)
QUICK = Effort(rounds=1, requests=40, burst_chunks=200, window_s=0.5)


class Count:
    """How many chunks of text have been read."""

    def __init__(self) -> None:
        self.chunks = 0


Read = Callable[[Plan, Count], Awaitable[None]]
Way = Callable[[str], AbstractAsyncContextManager[Read]]


@asynccontextmanager
async def _sdk(url: str) -> AsyncGenerator[Read]:
    async with AsyncOpenAI(api_key="none", base_url=url, max_retries=0) as client:

        async def read(feed: Plan, count: Count) -> None:
            stream: AsyncStream[ChatCompletionChunk] = await client.chat.completions.create(
                model="m",
                messages=[{"role": "user", "content": "What is a tailrace?"}],
                stream=True,
                extra_body={"feed": msgspec.to_builtins(feed)},
            )
            async with stream:
                async for chunk in stream:
                    if chunk.choices[0].delta.content:
                        count.chunks += 1

        yield read


@asynccontextmanager
async def _ours(transport: TransportName, url: str) -> AsyncGenerator[Read]:
    settings = Settings(max_jobs=CONNECTIONS, upstream_transport=transport)
    upstream = make_upstream(settings, {"OPENAI_API_KEY": "none", "OPENAI_BASE_URL": url})

    async def read(feed: Plan, count: Count) -> None:
        reader = StreamDecoder("chat", InterfaceOptions())
        async with upstream.open_response(_request(feed)) as answer:
            while not reader.done and (piece := await answer.read()):
                count.chunks += len(reader.feed(piece))
        if reader.failure is not None:
            raise reader.failure

    try:
        yield read
    finally:
        await upstream.close()


@cache
def _request(feed: Plan) -> GenerationRequest:
    return parse_request({"model": "m", "messages": _MESSAGES, "extra_body": {"feed": msgspec.to_builtins(feed)}})


@asynccontextmanager
async def _floor(url: str) -> AsyncGenerator[Read]:
    port = int(url.split(":")[2].split("/")[0])
    loop = asyncio.get_running_loop()

    async def read(feed: Plan, count: Count) -> None:
        def took(texts: list[str], _source: asyncio.Transport) -> None:
            count.chunks += len(texts)

        transport, answer = await loop.create_connection(
            partial(floor.Answer, floor.request(feed), took), floor.HOST, port
        )
        try:
            await answer.ended
        finally:
            transport.close()

    yield read


class Model:
    """The feeder process."""

    def __init__(self, fleet: Fleet) -> None:
        self._fleet = fleet
        self._feeder: Program = fleet.start("the feeder", ["-m", "bench.feeder"], clean_environment({}))
        self.url = f"http://{floor.HOST}:{self._heard()}/v1"

    def hold(self) -> None:
        """Holds back answers from now on."""
        self._feeder.send_line("hold")

    def go(self) -> None:
        """Lets the held answers begin."""
        self._feeder.send_line("go")

    async def until_running(self, count: int) -> None:
        """Waits until so many answers are requested."""
        async with asyncio.timeout(_WITHIN_S):
            while True:
                self._feeder.send_line("tell")
                if msgspec.json.decode(await asyncio.to_thread(self._heard), type=FeederState).running == count:
                    return
                await asyncio.sleep(0.05)

    def _heard(self) -> str:
        ((_, line),) = self._fleet.wait_for_lines(1, _WITHIN_S, "answers of the feeder")
        return line


def run(report: Report, *, quick: bool) -> None:
    """Measures all ways and prints the results."""
    effort = QUICK if quick else FULL
    ours = {f"{OURS}, transport {name}": partial(_ours, name) for name in get_args(TransportName)}
    ways: dict[str, Way] = {SDK: _sdk, **ours, FLOOR: _floor}
    with Fleet() as fleet:
        model = Model(fleet)

        def measured(measure: Callable[[Read, Model, Effort], Awaitable[float]]) -> dict[str, float]:
            costs = interleaved(
                {name: partial(_measured, way, measure, model, effort) for name, way in ways.items()}, effort.rounds
            )
            return {name: median(values) for name, values in costs.items()}

        report.progress("requests")
        requests = measured(_request_us)
        report.progress(f"{BURST_STREAMS} answers at once")
        burst = measured(_burst_us)
        report.progress(f"{PACED_STREAMS} answers, {PACE:g}/s each")
        paced = measured(_paced_us)
    chunks = effort.burst_chunks
    _report(report, f"{BURST_STREAMS} answers of {chunks:,} chunks at once", "us/chunk",
          {way: us - requests[way] / chunks for way, us in burst.items()})  # fmt: skip
    _report(report, f"{PACED_STREAMS} answers, {PACE:g}/s each", "us/chunk", paced)
    _report(report, f"requests, {AT_ONCE} at once", "us/request", requests)


def _report(report: Report, case: str, unit: str, costs: Mapping[str, float]) -> None:
    for way, cost in costs.items():
        if way not in (SDK, FLOOR):
            report.figure(case, way, cost, unit, beside={SDK: costs[SDK], FLOOR: costs[FLOOR]})


def _measured(
    way: Way, measure: Callable[[Read, Model, Effort], Awaitable[float]], model: Model, effort: Effort
) -> float:
    async def run() -> float:
        async with way(model.url) as read:
            await read(Plan(chunks=1), Count())  # warm-up; also connects
            return await measure(read, model, effort)

    return uvloop.run(run())


async def _request_us(read: Read, _model: Model, effort: Effort) -> float:
    """The cost of a request whose answer has one chunk."""
    await _all(read, Plan(chunks=1), AT_ONCE)
    began = process_time()
    for _ in range(effort.requests // AT_ONCE):
        await _all(read, Plan(chunks=1), AT_ONCE)
    return (process_time() - began) / effort.requests * 1e6


async def _burst_us(read: Read, _model: Model, effort: Effort) -> float:
    """The cost of a chunk, including its share of the request."""
    began = process_time()
    await _all(read, Plan(chunks=effort.burst_chunks), BURST_STREAMS)
    return (process_time() - began) / (BURST_STREAMS * effort.burst_chunks) * 1e6


async def _all(read: Read, feed: Plan, answers: int) -> None:
    count = Count()
    await asyncio.gather(*(read(feed, count) for _ in range(answers)))
    if count.chunks != answers * feed.chunks:
        raise BenchError(f"{count.chunks} chunks were read and {answers * feed.chunks} were sent")


async def _paced_us(read: Read, model: Model, effort: Effort) -> float:
    """The cost of a chunk of answers that are running already."""
    count = Count()
    model.hold()
    reading = [asyncio.ensure_future(read(Plan(per_s=PACE), count)) for _ in range(PACED_STREAMS)]
    try:
        await model.until_running(PACED_STREAMS)
        model.go()
        await asyncio.sleep(0.5)
        began, before = process_time(), count.chunks
        await asyncio.sleep(effort.window_s)
        return (process_time() - began) / (count.chunks - before) * 1e6
    finally:
        for one in reading:
            one.cancel()
        await asyncio.wait(reading)
        await model.until_running(0)
