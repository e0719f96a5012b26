"""The clients of a campaign: they submit until they get an answer, cancel, and read with interruptions.

They record the answers. Whether an answer was right is decided by the checker.
"""

import asyncio
import time
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import aclosing, asynccontextmanager
from typing import Literal, NamedTuple, TypeVar

from arq.connections import ArqRedis
from redis.asyncio import BlockingConnectionPool
from redis.exceptions import RedisError

from tailrace.broker import keys
from tailrace.producers.client import Client
from tailrace.producers.options import ClientOptions
from tailrace.schemas.codec import decode_job, encode_job
from tailrace.schemas.deltas import TERMINALS
from tailrace.schemas.errors import RequestConflict, StoreError, StoreUnavailable, TailraceError, UnknownRequest
from tests.fault.campaign.history import CancelCall, Reading, Seen, Segment, SubmitAnswer
from tests.fault.campaign.plan import PlannedPoison, PlannedReader, PlannedRequest, Via

PAUSE_S = 0.05
TIMEOUT_S = 3.0
GARBAGE_LIFE_MS = 3_600_000

_T = TypeVar("_T")

SubmitResult = Literal["accepted", "existing", "conflict"]


class Clients(NamedTuple):
    """Our client and arq's, each directly and through the proxy."""

    ours: dict[Via, Client]
    arq: dict[Via, ArqRedis]


@asynccontextmanager
async def connected(direct: str, proxied: str) -> AsyncGenerator[Clients, None]:
    """Connects clients to the URLs of the server and of the proxy before it."""
    urls: dict[Via, str] = {"direct": direct, "proxy": proxied}
    ours: dict[Via, Client] = {via: Client(url, ClientOptions(timeout_s=TIMEOUT_S)) for via, url in urls.items()}
    arq: dict[Via, ArqRedis] = {via: _plain(url) for via, url in urls.items()}
    try:
        yield Clients(ours, arq)
    finally:
        for client in ours.values():
            await client.aclose()
        for plain in arq.values():
            await plain.aclose(close_connection_pool=True)


def _plain(url: str) -> ArqRedis:
    pool = BlockingConnectionPool.from_url(
        url, max_connections=8, timeout=TIMEOUT_S, socket_timeout=TIMEOUT_S, socket_connect_timeout=TIMEOUT_S
    )
    return ArqRedis(pool, job_serializer=encode_job, job_deserializer=decode_job)


async def submit(clients: Clients, planned: PlannedRequest, *, first: bool, conflicting: bool = False) -> SubmitAnswer:
    """Submits until it gets an answer."""

    async def by_client() -> SubmitResult:
        changed = {"temperature": 0.5} if conflicting else {}
        try:
            submitted = await clients.ours[planned.via].submit({**planned.request, **changed})
        except RequestConflict:
            return "conflict"
        return "existing" if submitted.already_exists else "accepted"

    async def by_arq() -> SubmitResult:
        arq = clients.arq[planned.via]
        content = {name: value for name, value in planned.request.items() if name != "id"}
        while True:
            if await arq.enqueue_job(keys.JOB_FUNCTION, planned.id, content, _job_id=planned.id):
                return "accepted"
            if await arq.exists(keys.job_key(planned.id), keys.rec_key(planned.id)):
                return "existing"
            await asyncio.sleep(PAUSE_S)  # the connection broke in a transaction, for which arq returns the same

    asked = time.time()
    result, failed = await _until_answered(by_client if planned.how == "submit" else by_arq)
    return SubmitAnswer(id=planned.id, asked=asked, answered=time.time(), result=result, first=first, failed=failed)


async def cancel(clients: Clients, planned: PlannedRequest, *, late: bool) -> CancelCall:
    """Cancels until it gets an answer. `late`: through the other connection than the submit."""
    via: Via = planned.via if not late else "proxy" if planned.via == "direct" else "direct"
    asked = time.time()
    # A request that is enqueued with its job is unknown until a worker has claimed it.
    retried = (UnknownRequest,) if planned.how == "enqueue" else ()
    try:
        answer, _ = await _until_answered(lambda: clients.ours[via].cancel(planned.id), *retried)
    except UnknownRequest:
        result, status = "unknown", ""
    else:
        result, status = answer.verdict, answer.status
    return CancelCall(id=planned.id, asked=asked, answered=time.time(), result=result, status=status)


async def poison(clients: Clients, planned: PlannedPoison) -> None:
    """Enqueues a job that no worker can run."""
    arq = clients.arq["proxy"]

    async def put() -> None:
        match planned.kind:
            case "unknown_function":
                await arq.enqueue_job("nobody_has_it", planned.id, _job_id=planned.id)
            case "no_request":
                await arq.enqueue_job(keys.JOB_FUNCTION, planned.id, {"model": 5}, _job_id=planned.id)
            case "garbage":
                await arq.set(keys.job_key(planned.id), b"\xc1", px=GARBAGE_LIFE_MS)
                await arq.execute_command("ZADD", keys.QUEUE, round(time.time() * 1000), planned.id)
        # arq does not report a connection that broke in its transaction.
        if not await arq.exists(keys.job_key(planned.id), keys.dead_letter_key(planned.id)):
            raise ConnectionError("the job is not in the queue")

    await _until_answered(put)


async def _until_answered(call: Callable[[], Awaitable[_T]], *also: type[Exception]) -> tuple[_T, int]:
    """Returns the answer, and how many calls failed before it."""
    failed = 0
    while True:
        try:
            return await call(), failed
        except (StoreError, RedisError, OSError, *also):
            failed += 1
            await asyncio.sleep(PAUSE_S)


class Reader:
    """One reader of one request. What it saw is kept when `read` is cancelled."""

    def __init__(self, clients: Clients, planned: PlannedRequest, number: int) -> None:
        self.reading = Reading(planned.id, number, [])
        self._client = clients.ours[planned.readers[number].via]
        self._planned: PlannedReader = planned.readers[number]
        self._may_be_unknown = planned.how == "enqueue"
        self._cursor: str | None = None

    async def read(self) -> None:
        """Reads to the terminal, and disconnects and resumes as planned."""
        leaves = list(self._planned.leaves)
        while True:
            entries, pause_s = leaves.pop(0) if leaves else (None, 0.0)
            ended = await self._segment(entries)
            match ended:
                case "left":
                    await asyncio.sleep(pause_s)
                case "UnknownRequest" if self._may_be_unknown and self._cursor is None:
                    self.reading.segments.pop()
                    await asyncio.sleep(PAUSE_S)
                case "StoreUnavailable":  # at the start; a running tail survives every fault of the campaign
                    await asyncio.sleep(PAUSE_S)
                case _:
                    return

    async def _segment(self, entries: int | None) -> str:
        items: list[Seen] = []
        after = self._cursor
        ended = "unfinished"
        try:
            async with aclosing(self._client.tail(self.reading.id, after=after)) as tailed:
                async for cursor, entry, raw in tailed:
                    items.append(Seen(cursor, raw) if cursor else Seen(cursor, raw, time.time()))
                    self._cursor = cursor or self._cursor
                    if isinstance(entry, TERMINALS):
                        ended = "terminal"
                    elif entries is not None and len(items) >= entries:
                        ended = "left"
                        break
                else:
                    ended = "terminal" if ended == "terminal" else "ended without a terminal"
        except StoreUnavailable as error:
            ended = f"StoreUnavailable after {len(items)}: {error}" if items else "StoreUnavailable"
        except TailraceError as error:
            ended = type(error).__name__ if isinstance(error, UnknownRequest) else f"{type(error).__name__}: {error}"
        finally:
            self.reading.segments.append(Segment(after, items, ended))
        return ended
