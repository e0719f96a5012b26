"""Tails on a real Valkey: every entry once, in order, from every cursor, to the end; errors come at once."""

import asyncio
import random
from collections.abc import AsyncIterator
from contextlib import aclosing

import pytest
from redis.asyncio import Redis

from tailrace.broker.keys import log_key, rec_key
from tailrace.producers.client import Client
from tailrace.producers.options import ClientOptions
from tailrace.producers.store import PAGE_ENTRIES
from tailrace.producers.tail.log_tail import Tailed
from tailrace.schemas.codec import encode_entry
from tailrace.schemas.deltas import AssistantDelta, AttemptStarted, Completed, Delta, Gap, ReasoningDelta
from tailrace.schemas.errors import CursorInvalid, TailError, UnknownRequest
from tailrace.schemas.outcome import UNFILLED, Outcome
from tests.scribe import ANSWER, Scribe
from tests.until import until

ID = "one"


@pytest.fixture
async def client(redis_url: str) -> AsyncIterator[Client]:
    # given a store whose reads wait shortly, so that a test sees what happens when nothing comes
    async with Client(redis_url, ClientOptions(quiet_log_s=0.05)) as connected:
        await connected.submit(id=ID, model="m", messages=[{"role": "user", "content": "hello"}])
        yield connected


async def all_of(client: Client, after: str | None = None, request_id: str = ID) -> list[Tailed]:
    async with asyncio.timeout(20):
        return [item async for item in client.tail(request_id, after)]


def cursors(items: list[Tailed]) -> list[str | None]:
    return [item.cursor for item in items]


async def test_a_tail_resumed_from_any_cursor_gives_exactly_the_rest(client: Client, redis: Redis) -> None:
    # given an attempt that was lost, one that answered, and numbers that skip
    first = Scribe(redis, ID, attempt=1)
    await first.begin()
    await first.write(ANSWER[:4])
    second = Scribe(redis, ID, attempt=3)
    await second.begin("lease_expired")
    await second.write(ANSWER)
    await second.finish()

    whole = await all_of(client)
    assert cursors(whole)[:3] == ["0-1", "1-0", "1-1"]
    assert cursors(whole)[-1] == "3-10"
    assert len(whole) == 1 + 5 + 11
    assert isinstance(whole[-1].entry, Completed)
    assert [item.raw for item in whole] == [fields[b"e"] for _, fields in await redis.xrange(log_key(ID))]
    # if it is resumed after each entry / expect what follows, nothing twice, nothing left out
    for position, item in enumerate(whole):
        assert await all_of(client, after=item.cursor) == whole[position + 1 :]
    assert await all_of(client, after="0-0") == whole


async def test_a_live_tail_gives_the_entries_of_a_new_attempt(client: Client, redis: Redis) -> None:
    # given a tail that waits on a request that nobody has begun
    following = asyncio.create_task(all_of(client))
    first, second = Scribe(redis, ID, 1), Scribe(redis, ID, 2)
    # if entries come one by one, and another attempt takes over
    await first.begin()
    for entry in ANSWER[:3]:
        await first.write([entry])
    await second.begin("lease_expired")
    for entry in ANSWER:
        await second.write([entry])
    await second.finish()
    # expect all of it in order, and the log's own words about the attempts
    items = await following
    assert items == await all_of(client)
    attempts = [item.entry for item in items if isinstance(item.entry, AttemptStarted)]
    assert [(entry.attempt, entry.why) for entry in attempts] == [(1, "first"), (2, "lease_expired")]


async def test_a_log_longer_than_a_page_comes_whole(client: Client, redis: Redis) -> None:
    scribe = Scribe(redis, ID)
    await scribe.begin()
    await scribe.write([AssistantDelta(0, n, f"{n} ") for n in range(2 * PAGE_ENTRIES + 7)])
    await scribe.finish()
    items = await all_of(client)
    assert len(items) == 2 * PAGE_ENTRIES + 7 + 3
    texts = [item.entry.content for item in items if isinstance(item.entry, AssistantDelta)]
    assert texts == [f"{n} " for n in range(2 * PAGE_ENTRIES + 7)]


async def test_many_tails_that_leave_and_come_back_add_up_to_the_log(client: Client, redis: Redis) -> None:
    chance = random.Random(7)  # noqa: S311 - a seeded choice of where to leave, not a secret

    async def restless() -> list[Tailed]:
        seen: list[Tailed] = []
        while not (seen and isinstance(seen[-1].entry, Completed)):
            stay = chance.randrange(1, 6)
            async with aclosing(client.tail(ID, after=seen[-1].cursor if seen else None)) as items:
                async for item in items:
                    seen.append(item)
                    stay -= 1
                    if stay == 0:
                        break
        return seen

    async with asyncio.timeout(20), asyncio.TaskGroup() as group:
        readers = [group.create_task(restless()) for _ in range(20)]
        scribe = Scribe(redis, ID)
        await scribe.begin()
        for entry in ANSWER:
            await scribe.write([entry])
            await asyncio.sleep(0)
        await scribe.finish()
    whole = await all_of(client)
    assert all(reader.result() == whole for reader in readers)


async def test_a_cancel_at_any_moment_ends_a_tail(client: Client, redis: Redis) -> None:
    # given a log that grows all the time, so that its tails are busy
    scribe = Scribe(redis, ID)
    await scribe.begin()

    async def write() -> None:
        while True:
            await scribe.write([AssistantDelta(0, 0, "x")])

    writing = asyncio.create_task(write())
    # if a tail is cancelled a step earlier or later each time / expect it to be over
    for step in range(300):
        items = client.tail(ID, after=str(scribe.last))
        reading = asyncio.create_task(_exhaust(items))
        for _ in range(step % 60):
            await asyncio.sleep(0)
        reading.cancel()
        async with asyncio.timeout(5):
            await asyncio.wait([reading])
        assert reading.cancelled()
    writing.cancel()


async def _exhaust(items: AsyncIterator[Tailed]) -> None:
    async for _ in items:
        pass


async def test_a_terminal_is_never_seen_without_its_outcome(client: Client, redis: Redis) -> None:
    # given many requests that finish while their readers wait / if a reader sees the terminal
    async def read(request_id: str) -> None:
        async for item in client.tail(request_id):
            if isinstance(item.entry, Completed):
                # expect the outcome at that very moment
                assert (await redis.hget(rec_key(request_id), "status")) == b"completed"
                assert (await redis.hget(rec_key(request_id), "outcome")) is not None
                outcome = await client.result(request_id)
                assert outcome is not None
                assert (outcome.status, outcome.finished_at != UNFILLED) == ("completed", True)

    async with asyncio.timeout(20), asyncio.TaskGroup() as group:
        for number in range(30):
            submitted = await client.submit(id=f"r{number}", model="m", messages=[{"role": "user", "content": "hello"}])
            group.create_task(read(submitted.id))
            group.create_task(Scribe(redis, submitted.id).answer())


async def test_an_outcome_is_never_seen_without_its_terminal(client: Client, redis: Redis) -> None:
    async def ask(request_id: str) -> None:
        async def has_ended() -> bool:
            return await client.result(request_id) is not None

        await until(has_ended)
        items = await all_of(client, request_id=request_id)
        assert isinstance(items[-1].entry, Completed)

    async with asyncio.timeout(20), asyncio.TaskGroup() as group:
        group.create_task(ask(ID))
        await Scribe(redis, ID).answer()


@pytest.mark.parametrize("unknown", ["nobody", "", "x" * 65, "a}b", "ä", "one\n"])
async def test_an_unknown_id_is_an_error_at_once(unknown: str, client: Client) -> None:
    async with asyncio.timeout(2):
        with pytest.raises(UnknownRequest, match="no request has the id"):
            await anext(client.tail(unknown))
        with pytest.raises(UnknownRequest):
            await client.tail(unknown).__aenter__()
        with pytest.raises(UnknownRequest):
            await client.result(unknown, wait_s=0 if unknown == "nobody" else 5)
        with pytest.raises(UnknownRequest):
            await client.result(unknown, wait_s=None)
        with pytest.raises(UnknownRequest):
            await client.status(unknown)
        with pytest.raises(UnknownRequest):
            await client.cancel(unknown)


@pytest.mark.parametrize(
    "garbage", ["", "x", "1", "1-", "-1", "1-2-3", "1-x", " 1-0", "1-0 ", "$", "0", "1.0", "\u0661-\u0661"]
)
async def test_a_malformed_cursor_is_an_error(garbage: str, client: Client) -> None:
    with pytest.raises(CursorInvalid, match="is not a cursor"):
        await anext(client.tail(ID, after=garbage))


@pytest.mark.parametrize("cursor", ["1-11", "1-10000", "2-0", "9-9", "9999999999999999999-0", "0-2", "0-7"])
async def test_a_cursor_that_the_log_cannot_have_is_refused(cursor: str, client: Client, redis: Redis) -> None:
    await Scribe(redis, ID).answer()
    async with asyncio.timeout(2):
        with pytest.raises(CursorInvalid, match="is not a cursor of this log"):
            await anext(client.tail(ID, after=cursor))


async def test_nothing_comes_after_the_terminal(client: Client, redis: Redis) -> None:
    await Scribe(redis, ID).answer()
    async with asyncio.timeout(2):
        assert await all_of(client, after="1-10") == []


async def test_a_log_whose_lifetime_ends_ends_its_tails(client: Client, redis: Redis) -> None:
    items = client.tail(ID)
    assert (await anext(items)).cursor == "0-1"
    await redis.delete(log_key(ID), rec_key(ID))
    async with asyncio.timeout(5):
        with pytest.raises(UnknownRequest, match="its lifetime is over"):
            await anext(items)


async def test_an_expired_request_is_unknown(redis_url: str, redis: Redis) -> None:
    # given a retention of next to nothing / if the request has ended and that time is over
    async with Client(redis_url, ClientOptions(retention_s=0.05)) as client:
        await client.submit(id="brief", model="m", messages=[{"role": "user", "content": "hello"}])
        await Scribe(redis, "brief").answer()

        async def gone() -> bool:
            return not await redis.exists(rec_key("brief"), log_key("brief"))

        await until(gone)
        with pytest.raises(UnknownRequest):
            await client.result("brief")
        with pytest.raises(UnknownRequest):
            await anext(client.tail("brief"))


async def test_missing_entries_are_reported_as_a_gap(client: Client, redis: Redis) -> None:
    # given a log that lost two entries of an attempt
    await Scribe(redis, ID).answer()
    await redis.xdel(log_key(ID), "1-3", "1-4")
    items = await all_of(client)
    # expect a gap in their place, without a cursor of its own, and the rest after it
    assert cursors(items) == ["0-1", "1-0", "1-1", "1-2", None, "1-5", "1-6", "1-7", "1-8", "1-9", "1-10"]
    gap = items[4]
    assert gap.entry == Gap(after="1-2", before="1-5")
    assert gap.raw == encode_entry(Gap(after="1-2", before="1-5"))
    # also for a reader that comes back from before or from inside the hole
    assert cursors(await all_of(client, after="1-2"))[:2] == [None, "1-5"]
    assert (await all_of(client, after="1-3"))[0].entry == Gap(after="1-3", before="1-5")
    # and none for one that has seen what stood right before the rest
    assert cursors(await all_of(client, after="1-4"))[:1] == ["1-5"]


async def test_a_trimmed_log_is_reported_as_a_gap(client: Client, redis: Redis) -> None:
    await Scribe(redis, ID).answer()
    await redis.xtrim(log_key(ID), minid="1-5", approximate=False)
    for after, known in ((None, "0-0"), ("0-1", "0-1"), ("1-2", "1-2")):
        items = await all_of(client, after=after)
        assert items[0].entry == Gap(after=known, before="1-5")
        assert cursors(items)[1:] == ["1-5", "1-6", "1-7", "1-8", "1-9", "1-10"]


async def test_a_lost_beginning_of_an_attempt_is_reported_as_a_gap(client: Client, redis: Redis) -> None:
    first, second = Scribe(redis, ID, 1), Scribe(redis, ID, 2)
    await first.begin()
    await first.write(ANSWER[:2])
    await second.begin("lease_expired")
    await second.write(ANSWER[:2])
    await second.finish()
    await redis.xdel(log_key(ID), "2-0")
    items = await all_of(client, after="1-2")
    assert items[0].entry == Gap(after="1-2", before="2-1")


async def test_an_entry_of_a_newer_format_is_refused_by_name(client: Client, redis: Redis) -> None:
    await redis.xadd(log_key(ID), {"e": b'{"message_type":"attempt_started","v":99}'}, id="1-0")
    with pytest.raises(TailError, match="cannot be read"):
        await all_of(client)
    raw = b'{"message_type":"accepted","v":2,"at":"","api":"chat","model":"m"}'
    await redis.xadd(log_key(ID), {"e": raw}, id="1-1")
    with pytest.raises(TailError, match="format version 2 is newer"):
        await all_of(client, after="1-0")


async def test_what_a_tail_adds_up_to_is_the_outcome(client: Client, redis: Redis) -> None:
    # given many requests at once, each with a text of its own
    async def one(number: int) -> None:
        request_id = f"r{number}"
        await client.submit(id=request_id, model="m", messages=[{"role": "user", "content": "hello"}])
        text = [f"{number}:{piece}é𝄞\n" for piece in range(number % 7 + 1)]
        deltas: list[Delta] = [ReasoningDelta(0, 1, f"about {number}", source="reasoner_model")]
        deltas += [AssistantDelta(1, 2, piece) for piece in text]

        async def work() -> None:
            scribe = Scribe(redis, request_id)
            await scribe.begin()
            for delta in deltas:
                await scribe.write([delta])
            await scribe.finish(
                outcome=Outcome(status="completed", request_id=request_id, finished_at=UNFILLED, content="".join(text))
            )

        work_task = asyncio.create_task(work())
        items = await all_of(client, request_id=request_id)
        await work_task
        outcome = await client.result(request_id)
        shown = "".join(item.entry.content or "" for item in items if isinstance(item.entry, AssistantDelta))
        assert outcome is not None
        assert shown == outcome.content == "".join(text)

    async with asyncio.TaskGroup() as group:
        for number in range(40):
            group.create_task(one(number))
