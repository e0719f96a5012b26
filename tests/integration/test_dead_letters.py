"""Dead letters on the whole path: a request that cannot be run ends as failed, is listed, and can be retried."""

import asyncio
import json
import os
import subprocess
import sys
from collections.abc import AsyncGenerator, Mapping
from contextlib import aclosing, asynccontextmanager
from typing import Any

import msgspec
import pytest
from arq.connections import ArqRedis
from redis.asyncio import Redis

from tailrace.broker import keys
from tailrace.demo.simulator import Simulator
from tailrace.producers.client import Client
from tailrace.producers.queue.dead_letters import DeadLetter
from tailrace.schemas.codec import decode_job, encode_job
from tailrace.schemas.deltas import ErrorInfo, Failed
from tailrace.schemas.errors import RequestRejected, UnknownRequest
from tailrace.schemas.outcome import Outcome
from tailrace.worker.attempt.dead_letters import DeadLetterWriter
from tailrace.worker.attempt.request_store import Store
from tailrace.worker.attempt.services import Services
from tailrace.worker.publish.commit_line import CommitLine
from tailrace.worker.publish.publisher import Publisher
from tailrace.worker.queue.leases import Lease
from tailrace.worker.upstream.response_body import UpstreamTimeouts
from tailrace.worker.upstream.upstream_client import UpstreamClient
from tailrace.worker.wiring import redis_client
from tests.rig import KEY, request_for, worker_task
from tests.scribe import ANSWER, Scribe
from tests.until import until

TEXT = "The wheel turns."
SCENARIO = {"steps": [{"kind": "text", "text": TEXT}]}
TAILRACE = [sys.executable, "-m", "tailrace"]


class Site:
    """A Redis, a client and a simulator; workers when a test starts them."""

    def __init__(self, url: str, redis: Redis, client: Client, simulator: Simulator) -> None:
        self.url, self.redis, self.client, self.simulator = url, redis, client, simulator
        self.arq = ArqRedis(redis.connection_pool, job_serializer=encode_job, job_deserializer=decode_job)

    async def submit(self, request_id: str | None = None, **more: Any) -> str:
        return (await self.client.submit(request_for(SCENARIO, id=request_id, **more))).id

    @asynccontextmanager
    async def worker(self, **settings: Any) -> AsyncGenerator[None]:
        worker = worker_task(self.url, self.simulator, KEY, {}, **settings)
        try:
            await worker.ready
            yield
        finally:
            await worker.stop()

    async def run(self, **settings: Any) -> None:
        """Runs a worker until the queue is empty."""

        async def empty() -> bool:
            return not await self.redis.keys(f"{keys.job_key('')}*") and await self.redis.zcard(keys.QUEUE) == 0

        async with self.worker(**settings):
            await until(empty)

    async def outcome(self, request_id: str) -> Outcome:
        outcome = await self.client.result(request_id, wait_s=10)
        assert outcome is not None
        return outcome

    async def dead_letters(self) -> dict[str, DeadLetter]:
        listed = await self.client.dead.list()
        assert len({letter.id for letter in listed}) == len(listed)
        return {letter.id: letter for letter in listed}

    async def codes(self) -> dict[str, str]:
        return {job_id: letter.error.code for job_id, letter in (await self.dead_letters()).items()}


@pytest.fixture
async def site(redis_url: str) -> AsyncGenerator[Site]:
    async with (
        Simulator(key=KEY) as simulator,
        Redis.from_url(redis_url) as redis,
        Client(redis_url) as client,
    ):
        yield Site(redis_url, redis, client, simulator)


async def break_request(site: Site, request_id: str, code: str) -> None:
    """Changes a waiting request so that it cannot be run."""
    job = keys.job_key(request_id)
    match code:
        case "job_expired":
            await site.redis.delete(job)
        case "job_unreadable":
            await site.redis.set(job, b"\x80\x04N.", ex=60)
        case "job_unknown":
            envelope = decode_job(await site.redis.get(job) or b"")
            await site.redis.set(job, encode_job({**envelope, "f": "no_such"}), ex=60)
        case "worker_crashed":
            state = {"attempt": 3, "crashes": 2, "held": 1, "quarantine": "alone"}
            await site.redis.hset(keys.queue_state_key(request_id), mapping=state)
        case "deadline_exceeded":
            await site.redis.hset(keys.rec_key(request_id), "deadline_ms", 1)
        case _:
            await site.redis.hset(keys.rec_key(request_id), "request", b"\xc1")


# What becomes a dead letter


@pytest.mark.parametrize(
    "code", ["job_expired", "job_unreadable", "job_unknown", "worker_crashed", "deadline_exceeded", "request_invalid"]
)
async def test_a_request_that_cannot_be_run_fails_and_is_listed(site: Site, code: str) -> None:
    # given a request that cannot be run, if a worker claims it, expect a terminal, a dead letter, the model not asked
    request_id = await site.submit(tenant="acme")
    await site.redis.zadd(keys.QUEUE, {request_id: 1})  # outside its lane, so that the queue can count a crash
    await break_request(site, request_id, code)
    await site.run()
    outcome = await site.outcome(request_id)
    async with aclosing(site.client.tail(request_id)) as items:
        last = [item.entry async for item in items][-1]
    assert isinstance(last, Failed)
    assert (outcome.status, last.error.code, outcome.error) == ("failed", code, last.error)
    (letter,) = await site.client.dead.list()
    assert (letter.id, letter.error, letter.tenant) == (request_id, last.error, "acme")
    assert letter.died_at == outcome.finished_at
    assert letter.crashes == outcome.crashes == (3 if code == "worker_crashed" else 0)
    assert (await site.client.status(request_id)).error == last.error
    assert site.simulator.ledger.entries() == []


@pytest.mark.parametrize("job_id", ["plain", "no id at all", "a}:b{", "schön\n", "x" * 300, "-"])
@pytest.mark.parametrize(
    "args",
    [(), ("other",), (None,), ("{id}",), ("{id}", {"model": "m", "n": 3}), ("{id}", "text"), ("{id}", [1]), (b"\xff",)],
    ids=repr,
)
async def test_garbage_in_the_queue_is_listed_and_harms_nothing(site: Site, job_id: str, args: tuple[Any, ...]) -> None:
    # given a job with any id and any arguments that no client submitted, expect a dead letter, the next request run
    given = [job_id if value == "{id}" else value for value in args]
    await site.arq.enqueue_job(keys.JOB_FUNCTION, *given, _job_id=job_id)
    good = await site.submit("good")
    await site.run()
    assert (await site.outcome(good)).status == "completed"
    assert list(await site.dead_letters()) == [job_id]
    _, content = await site.client.dead.show(job_id)
    assert content.envelope
    assert decode_job(content.envelope)["a"] == given
    with pytest.raises(RequestRejected):
        await site.client.dead.retry(job_id)
    await site.client.dead.drop(job_id)
    assert await site.dead_letters() == {}


@pytest.mark.parametrize(
    "envelope",
    [b"", b"\x00", b"\x93\x01\x02\x03", msgspec.msgpack.encode({"f": ["generate"], "a": [], "k": {}, "t": 1, "et": 1})],
)
async def test_an_envelope_of_any_bytes_harms_nothing(site: Site, envelope: bytes) -> None:
    await site.redis.set(keys.job_key("odd"), envelope, ex=60)
    await site.redis.zadd(keys.QUEUE, {"odd": 1})
    await site.run()
    assert list(await site.dead_letters()) == ["odd"]


@pytest.mark.parametrize(("job_id", "score"), [(b"\xff\xfe", 1.0), (b"odd", float("-inf"))])
async def test_a_queue_entry_that_arq_cannot_have_made_stops_no_worker(site: Site, job_id: bytes, score: float) -> None:
    await site.redis.zadd(keys.QUEUE, {job_id: score})
    good = await site.submit()
    async with site.worker():
        assert (await site.outcome(good)).status == "completed"


async def test_a_request_that_a_job_carried_under_an_impossible_id_can_be_retried(site: Site) -> None:
    await site.arq.enqueue_job(keys.JOB_FUNCTION, "no id", request_for(SCENARIO), _job_id="no id")
    await site.run()
    assert await site.codes() == {"no id": "request_invalid"}
    again = await site.client.dead.retry("no id")
    await site.run()
    outcome = await site.outcome(again.id)
    assert (outcome.content, outcome.retry_of) == (TEXT, "no id")


@pytest.mark.parametrize(("setting", "listed"), [("poison", []), ("failed", ["refused"])])
async def test_what_the_model_refuses_is_listed_only_if_the_settings_ask_for_it(
    site: Site, setting: str, listed: list[str]
) -> None:
    refused = {"faults": [{"kind": "status", "status": 400}]}
    await site.client.submit(request_for(refused, id="refused"))
    await site.submit("good")
    await site.run(dead_letters=setting)
    assert (await site.outcome("refused")).status == "failed"
    assert list(await site.dead_letters()) == listed


# Once, even if its worker dies


@pytest.fixture
async def store(redis_url: str) -> AsyncGenerator[Store]:
    redis = redis_client(redis_url)
    yield Store(redis)
    await redis.aclose(close_connection_pool=True)


@pytest.fixture
async def writer(redis_url: str, store: Store) -> AsyncGenerator[DeadLetterWriter]:
    """The worker's part, without the queue."""
    upstream = UpstreamClient.from_environment({"OPENAI_API_KEY": KEY}, UpstreamTimeouts(1, 1, 1), 1)
    publisher = Publisher(CommitLine(redis_url), buffer_bytes=1024, max_entries=10, max_bytes=1024)
    yield DeadLetterWriter(Services(store, publisher, upstream))
    await upstream.close()


def lease_of(request_id: str, attempt: int = 1) -> Lease:
    async def mint(lease: Lease, above: int) -> int:
        return max(lease.attempt, above) + 1

    token = f"token-{attempt}"
    return Lease(request_id, attempt=attempt, token=token, why="first", crashes=0, ends_at=float("inf"), mint=mint)


async def test_ending_a_dead_request_is_idempotent(site: Site, writer: DeadLetterWriter) -> None:
    # given a job that died, if it is ended again, as after a crash in between, expect one dead letter and one terminal
    request_id = await site.submit()
    await writer.end_dead(lease_of(request_id), "job_failed", "a bug")
    before = await site.dead_letters()
    await site.redis.delete(
        keys.DEAD, keys.dead_letter_key(request_id)
    )  # the worker died before it added the dead letter
    for _ in range(2):
        await writer.end_dead(lease_of(request_id, 2), "job_crashed", "it was the worker")
    assert await site.dead_letters() == before
    assert before[request_id].error == ErrorInfo("internal", "a bug", "operator")
    assert await site.redis.xlen(keys.log_key(request_id)) == 3


async def test_a_job_claimed_again_is_listed_if_its_first_worker_died_before(site: Site) -> None:
    request_id = await site.submit()
    await break_request(site, request_id, "deadline_exceeded")
    await site.run()
    before = await site.dead_letters()
    await site.client.dead.drop(request_id)
    await site.arq.enqueue_job(keys.JOB_FUNCTION, request_id, _job_id=request_id)
    await site.run()
    assert await site.dead_letters() == before != {}


async def test_a_dead_request_ends_in_an_attempt_of_its_own(site: Site, writer: DeadLetterWriter) -> None:
    # given an attempt that has published, if its job fails, expect the terminal in the next one, without its text
    request_id = await site.submit()
    scribe = Scribe(site.redis, request_id)
    await scribe.begin()
    await scribe.write(ANSWER)
    await writer.end_dead(lease_of(request_id), "job_failed", "a bug")
    outcome = await site.outcome(request_id)
    assert (outcome.status, outcome.attempt, outcome.content) == ("failed", 2, None)
    assert await site.codes() == {request_id: "internal"}


@pytest.mark.parametrize("status", ["cancelled", "completed", "failed"])
async def test_an_ended_request_is_no_dead_letter(site: Site, writer: DeadLetterWriter, status: Any) -> None:
    request_id = await site.submit()
    scribe = Scribe(site.redis, request_id)
    await scribe.begin()
    await scribe.finish(status)
    await writer.end_dead(lease_of(request_id, 2), "job_crashed", "after its end")
    assert await site.dead_letters() == {}


# Lifetimes and limits


async def test_the_list_is_bounded_and_every_key_has_a_lifetime(
    site: Site, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(keys, "DEAD_MAX", 3)
    for number in range(6):
        error = ErrorInfo("job_expired", str(number), "operator")
        await store.add_dead_letter(f"j{number}", error, crashes=0, with_envelope=False)
        await asyncio.sleep(0.002)  # so that each has a time of its own by the server's clock
    assert list(await site.dead_letters()) == ["j5", "j4", "j3"]
    left = sorted(await site.redis.keys())
    assert left == [b"tr:dead", b"tr:dead:j3", b"tr:dead:j4", b"tr:dead:j5"]
    assert [await site.redis.pttl(key) > 0 for key in left] == [True] * 4


async def test_a_dead_letter_older_than_its_lifetime_is_removed_with_the_next(site: Site, store: Store) -> None:
    error = ErrorInfo("job_expired", "", "operator")
    await store.add_dead_letter("old", error, crashes=0, with_envelope=False)
    await site.redis.zadd(keys.DEAD, {"old": 1})
    await store.add_dead_letter("new", error, crashes=0, with_envelope=False)
    assert list(await site.dead_letters()) == ["new"]
    assert not await site.redis.exists(keys.dead_letter_key("old"))


async def test_a_large_request_is_retried_from_its_record(site: Site) -> None:
    request = request_for(SCENARIO, id="large", metadata={"x": "y"})
    request["messages"] = [{"role": "user", "content": "x" * (keys.DEAD_BYTES_MAX + 1)}]
    await site.client.submit(request)
    await break_request(site, "large", "job_expired")
    await site.run()
    assert await site.redis.hget(keys.dead_letter_key("large"), "request") is None
    again = await site.client.dead.retry("large")
    await site.run()
    assert (await site.outcome(again.id)).content == TEXT


# Retrying


async def test_a_retry_is_a_new_request_with_retry_of(site: Site) -> None:
    request_id = await site.submit("first", metadata={"a": 1}, tenant="acme", priority="high")
    await break_request(site, request_id, "deadline_exceeded")
    await site.run()
    await site.redis.delete(keys.rec_key(request_id), keys.log_key(request_id))  # its retention is over
    again = await site.client.dead.retry(request_id)
    assert again.id != request_id
    await site.run()
    outcome, status = await site.outcome(again.id), await site.client.status(again.id)
    assert (outcome.content, outcome.metadata, outcome.retry_of) == (TEXT, {"a": 1}, request_id)
    assert (status.retry_of, status.tenant, status.priority) == (request_id, "acme", "high")
    assert await site.dead_letters() == {}
    with pytest.raises(UnknownRequest):
        await site.client.dead.retry(request_id)


async def test_concurrent_retries_run_the_request_once(site: Site) -> None:
    await break_request(site, await site.submit("one"), "deadline_exceeded")
    await site.run()
    answers = await asyncio.gather(*(site.client.dead.retry("one") for _ in range(5)), return_exceptions=True)
    ids = {answer.id for answer in answers if not isinstance(answer, BaseException)}
    assert len(ids) == 1
    assert all(isinstance(answer, UnknownRequest) for answer in answers if isinstance(answer, BaseException))
    await site.run()
    assert len(site.simulator.ledger.entries()) == 1


async def test_a_retry_interrupted_before_the_dead_letter_was_removed_runs_nothing_twice(site: Site) -> None:
    await break_request(site, await site.submit("one"), "deadline_exceeded")
    await site.run()
    letter = await site.redis.hgetall(keys.dead_letter_key("one"))
    first = await site.client.dead.retry("one")
    await site.redis.hset(keys.dead_letter_key("one"), mapping=letter)
    await site.redis.zadd(keys.DEAD, {"one": int(letter[b"died_ms"])})
    assert (await site.client.dead.retry("one")).id == first.id
    await site.run()
    assert len(site.simulator.ledger.entries()) == 1


# On the command line


def tailrace(url: str, *arguments: str) -> tuple[int, str, str]:
    environment: Mapping[str, str] = {**os.environ, "TAILRACE_REDIS_URL": url}
    done = subprocess.run(
        [*TAILRACE, "dead", *arguments], env=environment, capture_output=True, text=True, timeout=60, check=False
    )
    return done.returncode, done.stdout, done.stderr


async def test_the_command_lists_shows_retries_and_drops(site: Site) -> None:
    for name in ("one", "two", "three"):
        await break_request(site, await site.submit(name), "deadline_exceeded")
        await site.run()
    await site.arq.enqueue_job("no\x1b[31m", _job_id="odd\x1b[2J")
    await site.run()

    async def dead(*arguments: str) -> tuple[int, str, str]:
        return await asyncio.to_thread(tailrace, site.url, *arguments)

    code, out, _ = await dead("list")
    assert code == 0
    assert [line.split()[1] for line in out.splitlines()] == ["odd\\x1b[2J", "three", "two", "one"]
    assert "\x1b" not in out
    assert "deadline_exceeded" in out
    code, out, _ = await dead("list", "--json")
    assert [json.loads(line)["id"] for line in out.splitlines()] == ["odd\x1b[2J", "three", "two", "one"]
    code, out, _ = await dead("show", "one")
    assert (code, TEXT in out, "deadline_exceeded" in out) == (0, True, True)
    code, out, _ = await dead("show", "one", "--json")
    shown = json.loads(out)
    assert (shown["id"], shown["request"]["model"], shown["error"]["code"]) == ("one", "sim", "deadline_exceeded")
    code, out, _ = await dead("retry", "one")
    assert code == 0
    await site.run()
    assert (await site.outcome(out.strip())).retry_of == "one"
    assert await dead("drop", "two") == (0, "", "")
    code, out, err = await dead("drop", "two")
    assert (code, out, err.count("\n")) == (1, "", 1)
    code, out, err = await dead("retry", "--all")  # retries those that can be retried
    assert (code, len(out.splitlines()), err.count("\n")) == (1, 1, 1)
    assert list(await site.dead_letters()) == ["odd\x1b[2J"]
    assert await dead("drop", "--all") == (0, "", "")
    assert await dead("list") == (0, "", "")


@pytest.mark.parametrize(
    "wrong", [("list", "x"), ("list", "--all"), ("show",), ("retry",), ("drop", "x", "--all"), ("bury", "x"), ()]
)
def test_wrong_usage_is_reported_in_one_line(wrong: tuple[str, ...]) -> None:
    code, out, err = tailrace("redis://127.0.0.1:1/0", *wrong)
    assert (code, out, err.count("\n")) == (2, "", 1)
