"""Attempts without a queue: every way an attempt can begin and end, and what is in Redis afterwards."""

import asyncio
from collections.abc import AsyncGenerator, Mapping
from contextlib import asynccontextmanager
from dataclasses import replace
from math import inf
from typing import Any, cast

import pytest
from arq.worker import Retry, RetryJob
from redis.asyncio import Redis

from tailrace.broker.keys import log_key, rec_key
from tailrace.broker.script import Verdict
from tailrace.broker.scripts import FinishStatus
from tailrace.demo.simulator import Simulator
from tailrace.producers.client import Client
from tailrace.schemas.deltas import AttemptStarted
from tailrace.schemas.ids import EntryId
from tailrace.schemas.outcome import Outcome
from tailrace.worker.attempt.job import Runner
from tailrace.worker.attempt.request_store import Store
from tailrace.worker.attempt.services import Services
from tailrace.worker.publish.commit_line import CommitLine
from tailrace.worker.publish.publisher import Publisher
from tailrace.worker.queue.leases import Lease, Stop
from tailrace.worker.upstream.response_body import UpstreamTimeouts
from tailrace.worker.upstream.upstream_client import UpstreamClient
from tailrace.worker.wiring import redis_client
from tests.proxy import Proxy
from tests.rig import KEY, request_for, shown
from tests.scribe import Scribe
from tests.until import until

OWNER = "owner"
TEXT = "A text that is long enough to be interrupted before it ends."
QUICK: Mapping[str, Any] = {"steps": [{"kind": "text", "text": TEXT}]}
SLOW: Mapping[str, Any] = {**QUICK, "pace": {"chunks_per_s": 40}}


class Owner:
    """A runner with real services, and leases that the test makes."""

    def __init__(self, redis: Redis, client: Client, simulator: Simulator, services: Services) -> None:
        self.redis, self.client, self.simulator, self.services = redis, client, simulator, services
        self.runner = Runner(services, max_attempts=3, run_limit_s=60, retention_s=60)

    async def submit(self, scenario: Mapping[str, Any], **more: Any) -> str:
        return (await self.client.submit(request_for(scenario, **more))).id

    def lease(self, request_id: str, attempt: int = 1, ends_at: float = inf) -> Lease:
        async def mint(lease: Lease, above: int) -> int:
            return max(lease.attempt, above) + 1

        return Lease(request_id, attempt=attempt, token=OWNER, why="first", crashes=0, ends_at=ends_at, mint=mint)

    @asynccontextmanager
    async def running(self, lease: Lease, entries: int = 3) -> AsyncGenerator[asyncio.Task[None]]:
        """Runs the request; in the context its log has at least so many entries."""
        task = asyncio.create_task(self.runner.run(lease))

        async def written() -> bool:
            return await self.redis.xlen(log_key(lease.request_id)) >= entries

        await until(written)
        try:
            yield task
        finally:
            task.cancel()
            await asyncio.wait({task})

    async def outcome(self, request_id: str) -> Outcome:
        outcome = await self.client.result(request_id)
        assert outcome is not None
        return outcome

    async def status(self, request_id: str) -> str:
        return (await self.client.status(request_id)).status

    @property
    def calls(self) -> int:
        """How many times the model's server was asked."""
        return len(self.simulator.ledger.entries())


@asynccontextmanager
async def owning(
    url: str, *, worker_url: str | None = None, patience_s: float = 10.0, buffer_bytes: int = 1 << 20
) -> AsyncGenerator[Owner]:
    limits = UpstreamTimeouts(2.0, 10.0, 10.0)
    async with Simulator() as simulator, Redis.from_url(url) as redis, Client(url) as client:
        upstream = UpstreamClient.from_environment(
            {"OPENAI_API_KEY": KEY, "OPENAI_BASE_URL": simulator.url}, limits, 10
        )
        worker_redis = redis_client(worker_url or url)
        publisher = Publisher(
            CommitLine(worker_url or url),
            buffer_bytes=buffer_bytes,
            max_entries=10_000,
            max_bytes=1 << 20,
            patience_s=patience_s,
        )
        try:
            async with publisher:
                yield Owner(
                    redis,
                    client,
                    simulator,
                    Services(Store(worker_redis, patience_s=patience_s), publisher, upstream),
                )
                assert (publisher.buffered_bytes, publisher.writers) == (0, 0)
        finally:
            await upstream.close()
            await worker_redis.aclose(close_connection_pool=True)


@pytest.fixture
async def owner(redis_url: str) -> AsyncGenerator[Owner]:
    async with owning(redis_url) as parts:
        yield parts


# The start of an attempt


async def test_a_request_cancelled_under_another_owner_ends_at_once(owner: Owner) -> None:
    """given: a cancel after the owner died / expect: the next owner ends the request without asking the model."""
    request_id = await owner.submit(QUICK)
    await Scribe(owner.redis, request_id).begin()
    assert (await owner.client.cancel(request_id)).verdict == "signalled"
    await owner.runner.run(owner.lease(request_id, 2))
    assert (await owner.outcome(request_id)).status == "cancelled"
    assert owner.calls == 0


async def test_an_expired_request_is_never_started(owner: Owner) -> None:
    request_id = await owner.submit(QUICK)
    await owner.redis.hset(rec_key(request_id), "deadline_ms", 1)
    await owner.runner.run(owner.lease(request_id))
    outcome = await owner.outcome(request_id)
    assert outcome.error is not None
    assert (outcome.status, outcome.error.code) == ("failed", "deadline_exceeded")
    assert owner.calls == 0


async def test_a_stored_request_that_cannot_be_decoded_fails(owner: Owner) -> None:
    request_id = await owner.submit(QUICK)
    await owner.redis.hset(rec_key(request_id), "request", b"\xc1 no msgpack")
    await owner.runner.run(owner.lease(request_id))
    outcome = await owner.outcome(request_id)
    assert outcome.error is not None
    assert (outcome.status, outcome.error.code, outcome.error.whose) == ("failed", "request_invalid", "caller")
    assert owner.calls == 0


async def test_a_job_of_an_ended_request_changes_nothing(owner: Owner) -> None:
    """given: the job is claimed again, since its acknowledgement was lost / expect: nothing changes."""
    request_id = await owner.submit(QUICK)
    await owner.runner.run(owner.lease(request_id))
    before = await owner.redis.hgetall(rec_key(request_id)), await owner.redis.xrange(log_key(request_id))
    await owner.runner.run(owner.lease(request_id, 2))
    assert (await owner.redis.hgetall(rec_key(request_id)), await owner.redis.xrange(log_key(request_id))) == before
    assert owner.calls == 1


async def test_a_job_without_a_record_writes_nothing(owner: Owner) -> None:
    await owner.runner.run(owner.lease("never-was"))
    assert not await owner.redis.exists(rec_key("never-was"), log_key("never-was"))


async def test_an_attempt_number_that_is_too_low_is_replaced_by_a_higher_one(owner: Owner) -> None:
    request_id = await owner.submit(QUICK)
    await Scribe(owner.redis, request_id, attempt=7).begin()
    await owner.runner.run(owner.lease(request_id, 7))
    assert (await owner.outcome(request_id)).attempt == 8


# The end of an attempt


async def test_a_lost_lease_stops_the_attempt_and_writes_nothing(owner: Owner) -> None:
    request_id = await owner.submit(SLOW)
    lease = owner.lease(request_id)
    async with owner.running(lease) as task:
        lease.stop(Stop.LEASE_LOST)
        with pytest.raises(RetryJob):  # this changes nothing if another worker has the job by now
            await task
        before = await owner.redis.xrange(log_key(request_id))
        await until(lambda: owner.simulator.ledger.entries()[0].ended == "client_closed")
    assert await owner.redis.xrange(log_key(request_id)) == before
    assert await owner.status(request_id) == "running"


async def test_an_attempt_that_was_taken_over_writes_nothing_more(owner: Owner) -> None:
    """given: another attempt has begun, unknown to this owner / expect: its next entry is refused, and it ends."""
    request_id = await owner.submit(SLOW)
    async with owner.running(owner.lease(request_id)) as task:
        await Scribe(owner.redis, request_id, attempt=2).begin("lease_expired")
        async with asyncio.timeout(10):
            with pytest.raises(RetryJob):
                await task
        await until(lambda: owner.simulator.ledger.entries()[0].ended == "client_closed")
    assert (await owner.redis.xrevrange(log_key(request_id), count=1))[0][0] == b"2-0"


async def test_an_error_after_the_lease_ran_out_fails_nothing(owner: Owner) -> None:
    # given an owner that hung until its lease ran out, if its answer fails, which its own hanging may have caused,
    # expect the request not to fail, and nothing written
    request_id = await owner.submit({"faults": [{"kind": "status", "status": 401}]})
    with pytest.raises(RetryJob):
        await owner.runner.run(owner.lease(request_id, ends_at=-inf))
    assert owner.calls == 1
    assert (await owner.status(request_id), await owner.redis.xlen(log_key(request_id))) == ("running", 2)


async def test_a_log_that_was_deleted_ends_the_attempt(owner: Owner) -> None:
    request_id = await owner.submit(SLOW)
    async with owner.running(owner.lease(request_id)) as task:
        await owner.redis.delete(log_key(request_id))
        async with asyncio.timeout(10):
            with pytest.raises(RetryJob):
                await task
    await owner.runner.run(owner.lease(request_id, 2))  # there is no request any more: the job is acknowledged
    assert not await owner.redis.exists(log_key(request_id))


async def test_a_drain_hands_the_request_back_and_the_next_attempt_completes_it(owner: Owner) -> None:
    request_id = await owner.submit(SLOW)
    lease = owner.lease(request_id)
    async with owner.running(lease) as task:
        lease.stop(Stop.DRAINED)
        with pytest.raises(RetryJob):
            await task
    assert await owner.status(request_id) == "queued"
    await owner.runner.run(owner.lease(request_id, 2))
    outcome = await owner.outcome(request_id)
    assert (outcome.status, outcome.content, outcome.attempt) == ("completed", TEXT, 2)


@pytest.mark.parametrize("stop", [Stop.DRAINED, Stop.LEASE_LOST])
async def test_a_stop_during_the_wait_for_a_retry(owner: Owner, stop: Stop) -> None:
    """given: a server that asks for 50 s, a stop / expect: a drain keeps the rest of the wait; the failure counts."""
    request_id = await owner.submit({"faults": [{"kind": "status", "status": 429, "retry_after_s": 50}]})
    lease = owner.lease(request_id)
    async with owner.running(lease, entries=3) as task:
        lease.stop(stop)
        with pytest.raises(Retry if stop is Stop.DRAINED else RetryJob) as raised:
            await task
    assert isinstance(raised.value, RetryJob) or (raised.value.defer_score or 0) > 20_000
    status = await owner.client.status(request_id)
    assert (status.failures, status.drains) == (1, int(stop is Stop.DRAINED))
    assert await owner.status(request_id) == ("queued" if stop is Stop.DRAINED else "running")
    assert owner.calls == 1


async def test_failures_of_all_owners_count(owner: Owner) -> None:
    """given: an owner that failed once and crashed / expect: the next one has one attempt less; both are counted."""
    request_id = await owner.submit({"faults": [{"kind": "status", "status": 500}]})
    await Scribe(owner.redis, request_id).begin()
    for _ in range(2):  # the script is idempotent
        assert (await owner.services.store.fail(request_id, 1, "token-1", 1)).status == "counted"
    lease = owner.lease(request_id, 2)
    lease.crashes = 1
    await owner.runner.run(lease)
    outcome, status = await owner.outcome(request_id), await owner.client.status(request_id)
    assert (outcome.status, outcome.failures, outcome.crashes, outcome.drains) == ("failed", 3, 1, 0)
    assert (status.failures, status.crashes, status.drains) == (3, 1, 0)
    assert owner.calls == 2


async def test_only_the_owner_of_the_attempt_counts_failures(owner: Owner) -> None:
    request_id = await owner.submit(QUICK)
    await Scribe(owner.redis, request_id).begin()
    for attempt, token in ((1, "another"), (2, "token-1")):
        assert (await owner.services.store.fail(request_id, attempt, token, 1)).status == "stale"
    assert (await owner.client.status(request_id)).failures == 0


async def test_the_counts_of_earlier_attempts_are_in_the_outcome(owner: Owner) -> None:
    """given: a drain, then an answer / expect: no failure counted, and one drain."""
    request_id = await owner.submit(SLOW)
    lease = owner.lease(request_id)
    async with owner.running(lease, entries=4) as task:
        lease.stop(Stop.DRAINED)
        with pytest.raises(RetryJob):
            await task
    await owner.runner.run(owner.lease(request_id, 2))
    outcome = await owner.outcome(request_id)
    assert (outcome.status, outcome.attempt) == ("completed", 2)
    assert (outcome.failures, outcome.crashes, outcome.drains) == (0, 0, 1)


class LossyStore(Store):
    """The real store; before the end of a request Redis loses the last entry, as in a failover."""

    async def finish(self, token: str, terminal_id: EntryId, outcome: Outcome, **given: Any) -> Verdict[FinishStatus]:
        """Deletes the last entry, then finishes."""
        log = log_key(outcome.request_id or "")
        last = (await self._redis.xrevrange(log, count=1))[0][0]
        await self._redis.xdel(log, last)
        return await super().finish(token, terminal_id, outcome, **given)


async def test_a_request_whose_entries_redis_lost_is_run_again(owner: Owner) -> None:
    """given: a failover lost the last entry / expect: no terminal after a gap, the request is run again."""
    request_id = await owner.submit(QUICK)
    services = replace(owner.services, store=LossyStore(owner.redis))
    with pytest.raises(RetryJob):
        await Runner(services, max_attempts=3, run_limit_s=60, retention_s=60).run(owner.lease(request_id))
    await owner.runner.run(owner.lease(request_id, 2))
    outcome = await owner.outcome(request_id)
    assert (outcome.status, outcome.content, outcome.attempt) == ("completed", TEXT, 2)


async def test_a_request_goes_back_to_the_queue_if_redis_is_away_for_too_long(redis_url: str) -> None:
    async with Proxy(redis_url) as proxy, owning(redis_url, worker_url=proxy.url, patience_s=0.1) as owner:
        request_id = await owner.submit(SLOW)
        async with owner.running(owner.lease(request_id)) as task:
            proxy.refusing = True
            proxy.cut()
            with pytest.raises(Retry):
                await task
            await until(lambda: owner.simulator.open_connections == 0)


async def test_back_pressure_limits_how_far_the_answer_is_read_while_redis_stalls(redis_url: str) -> None:
    """given: an answer far larger than the buffer, a Redis that does not answer / expect: reading pauses."""
    limit = 20_000
    async with (
        Proxy(redis_url) as proxy,
        owning(redis_url, worker_url=proxy.url, buffer_bytes=limit) as owner,
    ):
        request_id = await owner.submit({"steps": [{"kind": "text", "text": TEXT * 300}], "chunking": {"chars": 4}})
        publisher = owner.services.publisher
        async with owner.running(owner.lease(request_id), entries=3) as task:
            proxy.stall()
            await until(lambda: publisher.buffered_bytes >= limit)
            with pytest.raises(TimeoutError):  # what is read at once may exceed the limit, but not by much
                await until(lambda: publisher.buffered_bytes > 10 * limit, within_s=0.5)
            proxy.resume()
            await task
        assert (await owner.outcome(request_id)).content == TEXT * 300
        assert shown([item async for item in owner.client.tail(request_id)])[0] == TEXT * 300


async def test_a_lost_reply_to_begin_or_finish_changes_nothing(redis_url: str) -> None:
    async with Proxy(redis_url) as proxy, owning(redis_url, worker_url=proxy.url) as owner:
        for number, entry in enumerate((b"attempt_started", b'"completed"')):
            request_id = await owner.submit(QUICK, metadata={"number": number})
            proxy.lose_reply(entry)
            await owner.runner.run(owner.lease(request_id))
            assert not proxy.fault_pending
            outcome = await owner.outcome(request_id)
            assert (outcome.status, outcome.content, outcome.attempt) == ("completed", TEXT, 1)


async def test_scripts_are_loaded_again_after_a_script_flush(owner: Owner) -> None:
    for _ in range(2):
        request_id = await owner.submit(QUICK)
        await owner.redis.script_flush()
        await owner.runner.run(owner.lease(request_id))
        assert await owner.status(request_id) == "completed"


async def test_a_connection_lost_after_the_end_of_the_answer_loses_nothing(owner: Owner) -> None:
    """given: the connection breaks between finish_reason and [DONE] / expect: completed, not asked again."""
    faults = [{"kind": "cut", "after": 3}]
    request_id = await owner.submit({**QUICK, "chunking": {"chars": 1000}, "faults": faults, "usage": "never"})
    await owner.runner.run(owner.lease(request_id))
    outcome = await owner.outcome(request_id)
    assert (outcome.status, outcome.content, outcome.attempt) == ("completed", TEXT, 1)
    assert owner.calls == 1


class BrokenUpstream:
    """Fails with a bug in the middle of an attempt."""

    def open_response(self, request: object) -> None:
        """Raises an error whose message must not be logged or published."""
        raise LookupError("a private text")


async def test_a_bug_ends_the_request_with_an_error(owner: Owner, caplog: pytest.LogCaptureFixture) -> None:
    request_id = await owner.submit(QUICK)
    services = replace(owner.services, upstream=cast(UpstreamClient, BrokenUpstream()))
    await Runner(services, max_attempts=3, run_limit_s=60, retention_s=60).run(owner.lease(request_id))
    outcome = await owner.outcome(request_id)
    assert outcome.error is not None
    assert (outcome.status, outcome.error.code, outcome.error.whose) == ("failed", "internal", "operator")
    assert "LookupError" in caplog.text
    assert "private" not in caplog.text + outcome.error.message


# Jobs that the queue gives up


@pytest.mark.parametrize(
    ("code", "error_code", "whose"),
    [
        ("job_crashed", "worker_crashed", "operator"),
        ("job_unreadable", "job_unreadable", "caller"),
        ("job_expired", "job_expired", "operator"),
        ("job_failed", "internal", "operator"),
    ],
)
async def test_a_dead_job_ends_its_request(owner: Owner, code: str, error_code: str, whose: str) -> None:
    request_id = await owner.submit(QUICK)
    for _ in range(2):  # the second time as after a lost reply
        await owner.runner.end_dead(request_id, owner.lease(request_id, 3), code, "why it died")
    outcome = await owner.outcome(request_id)
    assert outcome.error is not None
    assert (outcome.status, outcome.attempt) == ("failed", 3)
    assert (outcome.error.code, outcome.error.message, outcome.error.whose) == (error_code, "why it died", whose)
    entries = [item async for item in owner.client.tail(request_id)]
    started = entries[-2].entry
    assert isinstance(started, AttemptStarted)
    assert started.why == error_code
    assert shown(entries) == ("", "", {})


async def test_a_dead_job_of_an_ended_request_changes_nothing(owner: Owner) -> None:
    request_id = await owner.submit(QUICK)
    await owner.runner.run(owner.lease(request_id))
    await owner.runner.end_dead(request_id, owner.lease(request_id, 2), "job_crashed", "why it died")
    assert await owner.status(request_id) == "completed"
    await owner.runner.end_dead("never-was", owner.lease("never-was"), "job_crashed", "why it died")
    assert not await owner.redis.exists(rec_key("never-was"))
