"""The Redis users of docker-compose.yml on a server that enforces them: each may do its work and nothing else."""

import asyncio
import re
from collections.abc import AsyncGenerator, Iterator
from contextlib import aclosing, asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
import yaml
from redis.asyncio import Redis
from redis.exceptions import NoPermissionError

from tailrace.broker.keys import OUTBOX, log_key, rec_key
from tailrace.demo.simulator import Simulator
from tailrace.demo.valkey import EmbeddedValkey
from tailrace.producers.client import Client
from tailrace.producers.options import ClientOptions
from tailrace.producers.tail.log_tail import Tailed
from tailrace.producers.tail.snapshot import Snapshot
from tailrace.schemas.deltas import Accepted, AssistantDelta, Completed, Stalled
from tailrace.telemetry.metrics import QUEUE_UP, REDIS_MEMORY
from tailrace.worker.observe.queue_metrics import QueueMetrics
from tailrace.worker.results.outbox import OutcomeOutbox
from tailrace.worker.results.sink import Sink
from tests.gateway_rig import events, gateway, reading
from tests.results_rig import engine_of, migrated_database, stored_outcomes
from tests.rig import KEY, WAIT_S, request_for, worker_task
from tests.until import until

ROOT = Path(__file__).parents[2]
ADMIN = "user admin on >admin ~* &* +@all\n"
SLOW = {"steps": [{"kind": "text", "chunks": 200}], "pace": {"chunks_per_s": 50}}


def users() -> str:
    """The ACL file as compose writes it with the default passwords."""
    compose: dict[str, Any] = yaml.safe_load((ROOT / "docker-compose.yml").read_text())
    return re.sub(r"\$\{\w+:-(\w+)\}", r"\1", compose["configs"]["users"]["content"])


@pytest.fixture
def guarded(tmp_path: Path) -> Iterator[EmbeddedValkey]:
    """A server with exactly these users."""
    (tmp_path / "users.acl").write_text(users() + ADMIN)
    with EmbeddedValkey(options={"aclfile": str(tmp_path / "users.acl")}) as valkey:
        yield valkey


def as_user(valkey: EmbeddedValkey, user: str) -> str:
    return f"redis://{user}:{user}@127.0.0.1:{valkey.port}/0"


@asynccontextmanager
async def no_denials(valkey: EmbeddedValkey) -> AsyncGenerator[None]:
    """Checks that the server denied no command inside the block."""
    async with Redis.from_url(as_user(valkey, "admin")) as admin:
        yield
        denied: list[Any] = await admin.execute_command("ACL LOG")
        assert [(entry[b"username"], entry[b"reason"], entry[b"object"]) for entry in map(_pairs, denied)] == []


def _pairs(entry: Any) -> dict[bytes, Any]:
    return entry if isinstance(entry, dict) else dict(zip(entry[::2], entry[1::2], strict=True))  # pyright: ignore[reportUnknownVariableType] - a reply has no type


@pytest.mark.parametrize("writer", ["worker", "sink"])
async def test_a_worker_or_a_sink_may_write_outcomes(guarded: EmbeddedValkey, tmp_path: Path, writer: str) -> None:
    # One request is cancelled while queued, one runs, and one has an outcome that the database must reject.
    url = f"sqlite+aiosqlite:///{tmp_path}/results.db"
    async with (
        no_denials(guarded),
        Simulator(key=KEY) as simulator,
        migrated_database(url) as database,
        engine_of(url) as engine,
        Client(as_user(guarded, "gateway")) as client,
        Redis.from_url(as_user(guarded, writer)) as redis,
    ):
        outbox = OutcomeOutbox(redis, redis, claim_s=1)
        await outbox.open()
        waiting = await client.submit(request_for())
        assert (await client.cancel(waiting.id)).verdict == "ended"
        settings: dict[str, Any] = {"results_url": url} if writer == "worker" else {}
        worker = worker_task(as_user(guarded, "worker"), simulator, KEY, {}, **settings)
        try:
            await worker.ready
            runs = await client.submit(request_for())
            assert await client.result(runs.id, wait_s=WAIT_S)
            async with Redis.from_url(as_user(guarded, "admin")) as admin:
                await admin.hset(rec_key("odd"), mapping={"status": "completed", "outcome": "{"})
                await admin.xadd(OUTBOX, {"id": "odd"})
            sink = Sink(outbox, database, unsettled_s=1)
            sinking = asyncio.create_task(sink.run() if writer == "sink" else asyncio.sleep(0))

            async def settled() -> bool:
                return await outbox.waiting() == (0, 0.0, 1)

            await until(settled)
            sink.stop()
            await sinking
            await outbox.put_back(list(await outbox.refused()))
        finally:
            await worker.stop()
        assert set(await stored_outcomes(engine)) == {waiting.id, runs.id}


async def test_a_worker_may_read_the_queue_metrics(guarded: EmbeddedValkey) -> None:

    async with no_denials(guarded), Redis.from_url(as_user(guarded, "worker")) as redis:
        values = {sample.name: sample.value for sample in await QueueMetrics(redis).metric_samples()}
    assert values[QUEUE_UP.name] == 1
    assert values[REDIS_MEMORY.name] > 0


async def test_gateway_worker_and_tail_may_do_their_work(guarded: EmbeddedValkey, tmp_path: Path) -> None:

    async with (
        no_denials(guarded),
        Simulator(key=KEY) as simulator,
        gateway(as_user(guarded, "gateway"), tmp_path) as served,
        Client(as_user(guarded, "tail")) as tail,
    ):
        waiting = await served.submit(request_for(priority="low"))
        options = ClientOptions(timeout_s=WAIT_S, stalled_after_s=0.1)
        async with Client(as_user(guarded, "gateway"), options) as impatient:
            async with aclosing(impatient.tail(waiting["id"])) as items:
                assert [type((await anext(items)).entry) for _ in range(2)] == [Accepted, Stalled]
            plain = await impatient.submit(request_for())  # without a tenant it goes into arq's own queue
            assert (await impatient.cancel(plain.id)).verdict == "ended"
            assert await impatient.result(plain.id)
        answer = await served.http.post(waiting["links"]["cancel"])
        assert answer.json()["verdict"] == "ended"
        worker = worker_task(as_user(guarded, "worker"), simulator, KEY, {}, tenant_limit=1)
        try:
            await worker.ready
            several = [await served.submit(request_for(SLOW), **{"idempotency-key": str(key)}) for key in range(3)]
            await served.submit(request_for(SLOW), **{"idempotency-key": "0"})
            async with reading(served.http, several[0]["links"]["events"]) as reader:
                async for event in reader:
                    if event.id == "1-3":
                        break
            for query in ("?snapshot=1", "?format=letta"):
                assert (await events(served.http, several[0]["links"]["events"] + query))[-1].name == "completed"
            last = None
            async with aclosing(tail.tail(several[1]["id"])) as items:
                async for item in items:
                    last = item.cursor
                    if last == "1-5":
                        answer = await served.http.post(several[1]["links"]["cancel"])
                        assert answer.json()["verdict"] == "signalled"
            whole = await events(served.http, several[1]["links"]["events"])
            assert (whole[-1].name, whole[-1].id) == ("cancelled", last)
            refused = await served.submit(request_for({"faults": [{"kind": "error", "status": 400}]}))
            assert (await events(served.http, refused["links"]["events"]))[-1].name == "failed"
            assert (await served.http.get(refused["links"]["self"])).json()["outcome"]["error"]
            async with Client(as_user(guarded, "worker")) as operator:
                assert [letter.id for letter in await operator.dead.list()] == []
            async with Redis.from_url(as_user(guarded, "tail")) as plain_reader:
                ((_, entries),) = await plain_reader.xread({log_key(several[1]["id"]): "0-0"})
                assert len(entries) == len(whole)

            async def is_ready() -> bool:
                return (await served.http.get("/readyz")).status_code == 200

            await until(is_ready, WAIT_S)
        finally:
            await worker.stop()


async def test_a_tail_user_gets_a_snapshot_of_an_ended_request(guarded: EmbeddedValkey) -> None:
    # The user may not read records and thus no outcomes, so the snapshot has the log's deltas.
    async with (
        Simulator(key=KEY) as simulator,
        Client(as_user(guarded, "gateway")) as client,
        Client(as_user(guarded, "tail")) as tail,
    ):
        worker = worker_task(as_user(guarded, "worker"), simulator, KEY, {})
        try:
            await worker.ready
            submitted = await client.submit(request_for())
            outcome = await client.result(submitted.id, wait_s=WAIT_S)
        finally:
            await worker.stop()
        state, *rest = [item async for item in tail.tail(submitted.id).with_snapshot()]
    assert outcome is not None
    assert isinstance(state, Snapshot)
    assert [delta.content for delta in state.deltas if isinstance(delta, AssistantDelta)] == [outcome.content]
    assert [type(item.entry) for item in rest if isinstance(item, Tailed)] == [Completed]


@pytest.mark.parametrize(
    ("user", "command"),
    [
        ("default", "GET x"),
        *(
            (user, command)
            for user in ("tail", "gateway", "worker", "sink")
            for command in (
                "KEYS *",
                "FLUSHALL",
                "SCAN 0",
                "ACL LIST",
                "CONFIG SET maxmemory 1",
                "GET other",
                "PUBLISH other x",
                "SHUTDOWN",
                "CLIENT LIST",
                "MONITOR",
                "SAVE",
            )
        ),
        *(
            ("tail", command)
            for command in (
                "XADD tr:{one}:log * e x",
                "HGETALL tr:{one}:rec",
                "DEL tr:{one}:log",
                "PUBLISH tr:push:0 x",
                "PUBLISH tr:cancel one",
                "EVAL return 0",
            )
        ),
        *(
            ("sink", command)
            for command in (
                "SET tr:{one}:rec x",
                "XADD tr:{one}:log * e x",
                "ZADD arq:queue 1 one",
                "HGETALL tr:dead:one",
            )
        ),
        *(
            ("gateway", command)
            for command in ("SET arq:result:one x", "HGETALL tr:dead:one", "BLPOP tr:queue:wake 1", "ZPOPMIN arq:queue")
        ),
    ],
)
async def test_other_commands_are_denied(guarded: EmbeddedValkey, user: str, command: str) -> None:
    url = f"redis://127.0.0.1:{guarded.port}" if user == "default" else as_user(guarded, user)
    async with Redis.from_url(url) as redis:
        with pytest.raises(NoPermissionError):
            await redis.execute_command(*command.split())


def test_the_page_on_redis_users_has_the_same_rules() -> None:
    page = (ROOT / "docs/redis-users.md").read_text()
    rules = [line for line in users().splitlines() if line]
    shown = re.findall(r"^user .*$", page, re.MULTILINE)
    assert [re.sub(r">\S+", ">...", rule) for rule in rules] == shown
