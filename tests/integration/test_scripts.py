"""The scripts of a request's life on a real Valkey: what each answers, changes and leaves alone, sent once or twice."""

import asyncio
import json
import re
from datetime import datetime
from typing import TypeVar

import pytest
from redis.asyncio import Redis
from redis.exceptions import OutOfMemoryError

from tailrace.broker import keys
from tailrace.broker.script import Argument, Script, Verdict
from tailrace.broker.script_runner import run_script
from tailrace.broker.scripts import (
    BEGIN,
    CANCEL,
    FINISH,
    RELEASE,
    SUBMIT,
    BeginStatus,
    CancelStatus,
    FinishStatus,
    ReleaseStatus,
    SubmitStatus,
)
from tailrace.demo.valkey import EmbeddedValkey
from tailrace.schemas.codec import encode_entry, encode_outcome
from tailrace.schemas.deltas import FORMAT_VERSION, Accepted, AttemptStarted, Cancelled, MessageIds
from tailrace.schemas.outcome import UNFILLED, Outcome, Status, terminal_of
from tailrace.schemas.times import iso_of_ms

_Reply = TypeVar("_Reply")

ID = "r1"
REC, LOG = keys.rec_key(ID), keys.log_key(ID)
OWNER, OTHER = "t1", "t2"
TIMEOUT_MS, RETENTION_MS = 60_000, 30_000
ISO = re.compile(r"20\d\d-\d\d-\d\dT\d\d:\d\d:\d\d\.\d\d\dZ\Z")
ACCEPTED = encode_entry(Accepted(FORMAT_VERSION, UNFILLED, "chat", "m"))
OUTCOME = Outcome(
    status="completed",
    request_id=ID,
    submitted_at="x",
    started_at="y",
    finished_at=UNFILLED,
    # Texts that look like what a script fills in are not touched.
    content='"finished_at":"" "attempt":null',
    metadata={"finished_at": "", "attempt": None},
)


class Verbs:
    """Each script with the arguments these tests do not care about filled in."""

    def __init__(self, redis: Redis) -> None:
        self.redis = redis

    async def run(self, script: Script[_Reply], **given: Argument) -> _Reply:
        return await run_script(self.redis, script, ID, **given)

    async def submit(self, digest: str = "d", timeout_ms: int = TIMEOUT_MS) -> Verdict[SubmitStatus]:
        return await self.run(
            SUBMIT,
            request=b"\x81\xff",
            digest=digest,
            api="chat",
            model="m",
            timeout_ms=timeout_ms,
            retention_ms=RETENTION_MS,
            accepted=ACCEPTED,
        )

    async def begin(self, attempt: int = 1, token: str = OWNER) -> Verdict[BeginStatus]:
        started = AttemptStarted(FORMAT_VERSION, attempt, UNFILLED, "first", MessageIds("a", "t"))
        return await self.run(BEGIN, attempt=attempt, token=token, attempt_started=encode_entry(started))

    async def finish(
        self,
        terminal_id: str = "1-1",
        token: str = OWNER,
        outcome: Outcome = OUTCOME,
        status: Status | None = None,
    ) -> Verdict[FinishStatus]:
        return await self.run(
            FINISH,
            attempt=terminal_id.split("-")[0],
            token=token,
            terminal_id=terminal_id,
            terminal=encode_entry(terminal_of(outcome, 5)),
            outcome=encode_outcome(outcome),
            status=status or outcome.status,
        )

    async def cancel(self) -> Verdict[CancelStatus]:
        outcome = Outcome(status="cancelled", request_id=ID, submitted_at=UNFILLED, finished_at=UNFILLED)
        return await self.run(
            CANCEL,
            terminal=encode_entry(Cancelled(0)),
            outcome=encode_outcome(outcome),
        )

    async def release(self, attempt: int = 1, token: str = OWNER) -> Verdict[ReleaseStatus]:
        return await self.run(RELEASE, attempt=attempt, token=token)

    async def delta(self, entry_id: str) -> None:
        await self.redis.xadd(LOG, {"e": "{}"}, id=entry_id)

    async def rec(self, field: str) -> str | None:
        value = await self.redis.hget(REC, field)
        return None if value is None else value.decode()

    async def log(self) -> list[tuple[str, dict[str, object]]]:
        entries = await self.redis.xrange(LOG)
        return [(entry_id.decode(), json.loads(fields[b"e"])) for entry_id, fields in entries]

    async def ids(self) -> list[str]:
        return [entry_id for entry_id, _ in await self.log()]

    async def state(self) -> object:
        """All that stands, but for lifetimes."""
        return await self.redis.hgetall(REC), await self.redis.xrange(LOG)

    async def outcome(self) -> dict[str, object]:
        return json.loads(await self.rec("outcome") or "null")

    async def lives_ms(self) -> tuple[int, int]:
        return await self.redis.pttl(REC), await self.redis.pttl(LOG)


@pytest.fixture
def verbs(redis: Redis) -> Verbs:
    return Verbs(redis)


def within(lives: tuple[int, int], most_ms: int) -> bool:
    return all(most_ms - 5000 < life <= most_ms for life in lives)


# submit


async def test_submit_writes_record_and_first_entry_with_a_lifetime(verbs: Verbs) -> None:
    assert (await verbs.submit()).status == "accepted"
    [(entry_id, entry)] = await verbs.log()
    assert entry_id == "0-1"
    assert entry["message_type"] == "accepted"
    assert ISO.match(str(entry["at"]))
    assert await verbs.rec("status") == "queued"
    assert await verbs.rec("attempt") == "0"
    submitted, deadline = int(await verbs.rec("submitted_ms") or 0), int(await verbs.rec("deadline_ms") or 0)
    assert deadline - submitted == TIMEOUT_MS
    assert within(await verbs.lives_ms(), TIMEOUT_MS + RETENTION_MS)


async def test_submit_again_changes_nothing(verbs: Verbs) -> None:
    await verbs.submit()
    await verbs.begin()
    before = await verbs.state()
    verdict = await verbs.submit()
    assert (verdict.status, verdict.text("status")) == ("exists", "running")
    assert (await verbs.submit(digest="other")).status == "conflict"
    assert await verbs.state() == before


async def test_submit_under_out_of_memory_leaves_nothing_behind(verbs: Verbs, valkey: EmbeddedValkey) -> None:
    valkey.ask("CONFIG SET maxmemory 1")
    try:
        with pytest.raises(OutOfMemoryError):
            await verbs.submit()
        assert not await verbs.redis.exists(REC, LOG)
    finally:
        valkey.ask("CONFIG SET maxmemory 0")


async def test_the_times_of_a_log_are_those_of_the_server(verbs: Verbs) -> None:
    await verbs.submit()
    seconds, _ = await verbs.redis.time()
    [(_, entry)] = await verbs.log()
    stamp = str(entry["at"])
    assert abs(datetime.fromisoformat(stamp).timestamp() - seconds) < 5
    at_ms = int(await verbs.rec("submitted_ms") or 0)
    assert round(datetime.fromisoformat(stamp).timestamp() * 1000) == at_ms


# begin


async def test_begin_takes_the_log_over(verbs: Verbs) -> None:
    await verbs.submit()
    verdict = await verbs.begin()
    assert verdict.status == "begun"
    assert verdict.fields["request"] == b"\x81\xff"
    assert verdict.text("cancel") == "0"
    assert verdict.number("deadline_ms") - verdict.number("submitted_ms") == TIMEOUT_MS
    entry_id, entry = (await verbs.log())[-1]
    assert (entry_id, entry["at"]) == ("1-0", iso_of_ms(verdict.number("started_ms")))
    assert (await verbs.rec("status"), await verbs.rec("attempt")) == ("running", "1")
    assert within(await verbs.lives_ms(), TIMEOUT_MS + RETENTION_MS)


async def test_begin_again_with_the_same_token_says_the_same_and_writes_nothing(verbs: Verbs) -> None:
    await verbs.submit()
    first = await verbs.begin()
    before = await verbs.state()
    again = await verbs.begin()
    assert again.status == "resumed"
    assert again.fields == first.fields
    assert await verbs.state() == before


@pytest.mark.parametrize(("attempt", "token"), [(2, "other"), (1, "t2"), (0, "t2")])
async def test_begin_is_refused_at_or_below_the_attempt_recorded(verbs: Verbs, attempt: int, token: str) -> None:
    await verbs.submit()
    await verbs.begin(2, "t2")
    before = await verbs.state()
    verdict = await verbs.begin(attempt, token)
    assert (verdict.status, verdict.text("attempt")) == ("stale", "2")
    assert await verbs.state() == before


async def test_begin_fences_the_attempt_before(verbs: Verbs) -> None:
    await verbs.submit()
    await verbs.begin(1, "t1")
    await verbs.delta("1-1")
    assert (await verbs.begin(5, "t5")).status == "begun"
    with pytest.raises(Exception, match="equal or smaller"):
        await verbs.delta("1-2")
    assert (await verbs.finish("1-2", "t1")).status == "stale"
    assert await verbs.ids() == ["0-1", "1-0", "1-1", "5-0"]


async def test_begin_of_what_has_ended_or_never_was(verbs: Verbs) -> None:
    assert (await verbs.begin()).status == "unknown"
    assert not await verbs.redis.exists(REC, LOG)
    await verbs.submit()
    await verbs.begin()
    await verbs.finish()
    verdict = await verbs.begin(2, "t2")
    assert (verdict.status, verdict.text("status")) == ("ended", "completed")


async def test_begin_says_that_a_cancel_came_before(verbs: Verbs) -> None:
    await verbs.submit()
    await verbs.begin()
    await verbs.cancel()
    assert (await verbs.begin(2, "t2")).text("cancel") == "1"


async def test_a_run_that_begins_after_its_deadline_still_has_its_retention(verbs: Verbs) -> None:
    await verbs.submit(timeout_ms=1)
    await asyncio.sleep(0.005)  # the server's clock must pass the deadline: nothing else can make it do so
    verdict = await verbs.begin()
    assert verdict.number("deadline_ms") < verdict.number("started_ms")
    assert within(await verbs.lives_ms(), RETENTION_MS)


@pytest.mark.parametrize("gone", [REC, LOG])
async def test_half_a_request_is_unknown_to_every_verb(verbs: Verbs, gone: str) -> None:
    """given: one of the two keys was deleted or evicted / expect: no verb revives it."""
    await verbs.submit()
    await verbs.begin()
    await verbs.redis.delete(gone)
    assert (await verbs.begin(2, "t2")).status == "unknown"
    assert (await verbs.finish()).status == "unknown"
    assert (await verbs.cancel()).status == "unknown"
    assert not await verbs.redis.exists(gone)


# finish


async def test_finish_writes_terminal_outcome_status_and_lifetime(verbs: Verbs) -> None:
    await verbs.submit()
    await verbs.begin()
    await verbs.delta("1-1")
    assert (await verbs.finish("1-2")).status == "finished"
    entry_id, entry = (await verbs.log())[-1]
    assert (entry_id, entry["message_type"]) == ("1-2", "completed")
    outcome = await verbs.outcome()
    assert ISO.match(str(outcome["finished_at"]))
    assert outcome["content"] == OUTCOME.content
    assert outcome["metadata"] == OUTCOME.metadata
    assert await verbs.rec("status") == "completed"
    assert within(await verbs.lives_ms(), RETENTION_MS)


async def test_finish_again_changes_nothing(verbs: Verbs) -> None:
    await verbs.submit()
    await verbs.begin()
    await verbs.finish()
    before = await verbs.state()
    assert (await verbs.finish()).status == "already_done"
    assert (await verbs.finish(outcome=Outcome(status="cancelled"))).status == "ended"
    assert (await verbs.finish(token=OTHER)).status == "ended"
    assert await verbs.state() == before


@pytest.mark.parametrize(("terminal_id", "token"), [("1-1", "t1"), ("2-1", "t1"), ("3-1", "t2")])
async def test_only_the_owner_of_the_attempt_finishes(verbs: Verbs, terminal_id: str, token: str) -> None:
    await verbs.submit()
    await verbs.begin(1, "t1")
    await verbs.begin(2, "t2")
    before = await verbs.state()
    assert (await verbs.finish(terminal_id, token)).status == "stale"
    assert await verbs.state() == before


@pytest.mark.parametrize("terminal_id", ["1-1", "1-3", "1-9"])
async def test_finish_never_leaves_a_hole(verbs: Verbs, terminal_id: str) -> None:
    await verbs.submit()
    await verbs.begin()
    await verbs.delta("1-1")
    before = await verbs.state()
    verdict = await verbs.finish(terminal_id)
    assert (verdict.status, verdict.text("last_id")) == ("gap", "1-1")
    assert await verbs.state() == before


async def test_finish_of_a_log_emptied_by_trimming(verbs: Verbs) -> None:
    await verbs.submit()
    await verbs.begin()
    await verbs.redis.xtrim(LOG, maxlen=0)
    assert (await verbs.finish()).status == "gap"


async def test_out_of_memory_lets_nothing_begin_and_everything_end(verbs: Verbs, valkey: EmbeddedValkey) -> None:
    await verbs.submit()
    await verbs.begin()
    before = await verbs.state()
    valkey.ask("CONFIG SET maxmemory 1")
    try:
        with pytest.raises(OutOfMemoryError):
            await verbs.begin(2, "t2")
        assert await verbs.state() == before
        assert (await verbs.cancel()).status == "signalled"
        assert (await verbs.finish()).status == "finished"
    finally:
        valkey.ask("CONFIG SET maxmemory 0")
    assert await verbs.rec("status") == (await verbs.outcome())["status"]


async def test_out_of_memory_does_not_keep_what_waits_from_being_cancelled(
    verbs: Verbs, valkey: EmbeddedValkey
) -> None:
    await verbs.submit()
    await verbs.begin()
    valkey.ask("CONFIG SET maxmemory 1")
    try:
        assert (await verbs.release()).status == "released"
        assert (await verbs.cancel()).status == "ended"
    finally:
        valkey.ask("CONFIG SET maxmemory 0")
    assert await verbs.rec("status") == "cancelled"


async def test_no_reader_sees_a_terminal_without_its_outcome(verbs: Verbs, redis_url: str) -> None:
    """given: a reader that takes log and record in one transaction, all the while / expect: both ended or neither."""
    done = False
    seen: set[tuple[bool, bool, bool]] = set()

    async def read() -> None:
        async with Redis.from_url(redis_url) as reader:
            while not done:
                async with reader.pipeline(transaction=True) as both:
                    both.xrange(LOG)
                    both.hmget(REC, ["status", "outcome"])
                    log, (status, outcome) = await both.execute()
                ended = any(b'"completed"' in fields[b"e"] for _, fields in log)
                seen.add((ended, status == b"completed", outcome is not None))

    reading = asyncio.create_task(read())
    for _ in range(50):
        await verbs.submit()
        await verbs.begin()
        await verbs.finish()
        async with verbs.redis.pipeline(transaction=True) as clear:
            clear.delete(REC, LOG)
            await clear.execute()
    done = True
    await reading
    assert seen <= {(False, False, False), (True, True, True)}


# cancel


async def test_cancel_ends_a_request_that_waits_in_an_attempt_of_its_own(verbs: Verbs) -> None:
    await verbs.submit()
    assert (await verbs.cancel()).status == "ended"
    assert (await verbs.log())[-1] == ("1-0", {"message_type": "cancelled", "ms": 0})
    outcome = await verbs.outcome()
    assert (outcome["status"], outcome["attempt"]) == ("cancelled", 1)
    assert ISO.match(str(outcome["submitted_at"]))
    assert ISO.match(str(outcome["finished_at"]))
    assert await verbs.rec("status") == "cancelled"
    assert within(await verbs.lives_ms(), RETENTION_MS)
    assert (await verbs.begin(1, "t1")).status == "ended"


async def test_cancel_of_what_runs_is_heard_by_its_owner_who_ends_it(verbs: Verbs) -> None:
    await verbs.submit()
    await verbs.begin()
    before = await verbs.redis.xrange(LOG)
    async with verbs.redis.pubsub() as channel:
        await channel.subscribe(keys.CANCEL_CHANNEL)
        await channel.get_message(timeout=5)
        assert (await verbs.cancel()).status == "signalled"
        message = await channel.get_message(timeout=5)
    assert message is not None
    assert message["data"] == ID.encode()
    assert await verbs.redis.xrange(LOG) == before
    assert await verbs.rec("cancel") == "1"
    assert (await verbs.finish(outcome=Outcome(status="cancelled"))).status == "finished"


async def test_cancel_of_what_has_ended_is_a_no_op_that_says_so(verbs: Verbs) -> None:
    assert (await verbs.cancel()).status == "unknown"
    await verbs.submit()
    await verbs.begin()
    await verbs.finish()
    before = await verbs.state()
    verdict = await verbs.cancel()
    assert (verdict.status, verdict.text("status")) == ("finished", "completed")
    assert await verbs.state() == before


async def test_cancel_again_says_that_it_has_ended(verbs: Verbs) -> None:
    await verbs.submit()
    await verbs.cancel()
    before = await verbs.state()
    assert (await verbs.cancel()).status == "finished"
    assert await verbs.state() == before


async def test_after_a_cancel_the_former_owner_cannot_finish(verbs: Verbs) -> None:
    """given: handed back, then cancelled while it waits / if the old owner comes late / expect: refused."""
    await verbs.submit()
    await verbs.begin()
    await verbs.delta("1-1")
    await verbs.release()
    assert (await verbs.cancel()).status == "ended"
    assert await verbs.ids() == ["0-1", "1-0", "1-1", "2-0"]
    assert (await verbs.finish("1-2")).status == "ended"
    assert (await verbs.release()).status == "stale"


# release


async def test_release_gives_back_what_the_owner_runs(verbs: Verbs) -> None:
    await verbs.submit()
    await verbs.begin()
    assert (await verbs.release(token=OTHER)).status == "stale"
    assert (await verbs.release(attempt=2)).status == "stale"
    assert (await verbs.release()).status == "released"
    assert await verbs.rec("status") == "queued"
    assert (await verbs.release()).status == "stale"
    assert (await verbs.begin(2, "t2")).status == "begun"
    assert (await verbs.release()).status == "stale"
    assert await verbs.rec("status") == "running"


async def test_release_of_what_has_ended_changes_nothing(verbs: Verbs) -> None:
    assert (await verbs.release()).status == "stale"
    await verbs.submit()
    await verbs.begin()
    await verbs.finish()
    before = await verbs.state()
    assert (await verbs.release()).status == "stale"
    assert await verbs.state() == before
    assert not await verbs.redis.exists(keys.rec_key("other"))
