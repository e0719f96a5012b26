"""`Tail` on a real Valkey: entering it, its forms, leaving it early; and `stream`, which submits first."""

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator
from typing import Any

import pytest
from redis.asyncio import Redis

from tailrace import (
    Client,
    ClientOptions,
    CursorInvalid,
    GenerationRequest,
    RequestConflict,
    RequestFailed,
    RequestRejected,
    Snapshot,
    Tailed,
    TextDiscarded,
    UnknownRequest,
)
from tailrace.broker.keys import log_key
from tailrace.producers.store import LogBounds, RawEntry
from tailrace.producers.tail.log_tail import Opening
from tailrace.producers.tail.text import text_items
from tailrace.schemas.deltas import AssistantDelta, Completed, ErrorInfo, RetryScheduled
from tailrace.schemas.ids import BEGINNING
from tailrace.schemas.outcome import UNFILLED, Outcome
from tests.scribe import ANSWER, Scribe
from tests.until import until

ID = "one"
HELLO: list[dict[str, Any]] = [{"role": "user", "content": "hello"}]
CURSORS = ["0-1", *(f"1-{seq}" for seq in range(len(ANSWER) + 2))]


@pytest.fixture
async def client(redis_url: str) -> AsyncIterator[Client]:
    async with Client(redis_url, ClientOptions(quiet_log_s=0.2)) as connected:
        await connected.submit(id=ID, model="m", messages=HELLO)
        yield connected


def texts(*pieces: str) -> list[AssistantDelta]:
    return [AssistantDelta(0, number, piece) for number, piece in enumerate(pieces)]


async def text_of(client: Client, after: str | None = None) -> list[str]:
    async with asyncio.timeout(20):
        return [piece async for piece in client.tail(ID, after).text()]


async def test_entering_raises_for_an_unknown_request_and_a_wrong_cursor(client: Client, redis: Redis) -> None:
    with pytest.raises(UnknownRequest):
        async with client.tail("nobody"):
            pytest.fail("entered")
    await Scribe(redis, ID).answer()
    for cursor in ("x", "1-99", "2-0"):
        with pytest.raises(CursorInvalid):
            async with client.tail(ID, after=cursor):
                pytest.fail("entered")


async def test_entered_or_not_a_tail_gives_the_same(client: Client, redis: Redis) -> None:
    await Scribe(redis, ID).answer()
    assert [item.cursor async for item in client.tail(ID)] == CURSORS
    async with client.tail(ID, after="1-3") as tail:
        assert tail.request_id == ID
        assert [item.cursor async for item in tail] == CURSORS[5:]


@pytest.mark.parametrize(("after", "is_finished"), [(None, False), ("1-9", False), (CURSORS[-1], True)])
async def test_an_entered_tail_knows_whether_anything_is_left(
    after: str | None, is_finished: bool, client: Client, redis: Redis
) -> None:
    async with client.tail(ID) as tail:
        assert not tail.is_finished
    await Scribe(redis, ID).answer()
    async with client.tail(ID, after) as tail:
        assert tail.is_finished == is_finished
        assert ([item async for item in tail] == []) == is_finished


async def test_whether_anything_is_left_is_not_known_before_it_is_entered(client: Client) -> None:
    with pytest.raises(RuntimeError, match="enter the tail first"):
        _ = client.tail(ID).is_finished


async def test_an_item_has_the_name_of_its_entry(client: Client, redis: Redis) -> None:
    await Scribe(redis, ID).answer()
    names = [item.name async for item in client.tail(ID)]
    assert names[:3] == ["accepted", "attempt_started", "reasoning_message"]
    assert names[-2:] == ["assistant_message", "completed"]


async def test_iterating_again_goes_on_where_it_was_left(client: Client, redis: Redis) -> None:
    await Scribe(redis, ID).answer()
    async with client.tail(ID) as tail:
        async for item in tail:
            if item.cursor == "1-2":
                break
        assert [item.cursor async for item in tail] == CURSORS[4:]


async def test_a_tail_is_read_in_one_form(client: Client, redis: Redis) -> None:
    await Scribe(redis, ID).answer()
    async with client.tail(ID) as tail:
        assert "".join([piece async for piece in tail.text()]) == "Hello"
        with pytest.raises(RuntimeError, match="read once, in one form"):
            aiter(tail)
        with pytest.raises(RuntimeError, match="read once, in one form"):
            tail.letta()


@pytest.mark.parametrize("form", ["entries", "text", "collapsed", "letta", "with_snapshot"])
async def test_leaving_a_tail_early_frees_what_it_used(form: str, client: Client, redis: Redis) -> None:
    # given a tail that waits for the next entry, if its block is left, expect nothing followed any more
    scribe = Scribe(redis, ID)
    await scribe.begin()
    await scribe.write(ANSWER)
    async with asyncio.timeout(20), client.tail(ID) as tail:
        items: AsyncIterator[Any] = aiter(tail) if form == "entries" else getattr(tail, form)()
        await anext(items)
        reading = asyncio.ensure_future(_exhaust(items))
        await until(lambda: client.following.tails == 1)
        reading.cancel()
        await asyncio.wait({reading})
    assert client.following == (0, 0, 0)


async def _exhaust(items: AsyncIterator[Any]) -> None:
    async for _ in items:
        pass


async def test_leaving_the_block_by_an_error_frees_it_too(client: Client) -> None:
    async def leave_by_an_error() -> None:
        async with client.tail(ID) as tail:
            await anext(tail)
            raise LookupError

    with pytest.raises(LookupError):
        await leave_by_an_error()
    assert client.following.tails == 0


async def test_text_is_the_text_alone(client: Client, redis: Redis) -> None:
    await Scribe(redis, ID).answer()
    assert await text_of(client) == ["Hel", "lo"]
    assert await text_of(client, after="1-8") == ["lo"]


async def test_a_refusal_is_text(client: Client, redis: Redis) -> None:
    scribe = Scribe(redis, ID)
    await scribe.begin()
    await scribe.write([AssistantDelta(0, 1, refusal="I will not.")])
    await scribe.finish()
    assert await text_of(client) == ["I will not."]


@pytest.mark.parametrize("status", ["completed", "incomplete", "cancelled"])
async def test_text_ends_when_the_request_has_ended(status: Any, client: Client, redis: Redis) -> None:
    scribe = Scribe(redis, ID)
    await scribe.begin()
    await scribe.write(texts("Hel"))
    await scribe.finish(status)
    assert await text_of(client) == ["Hel"]


async def test_text_of_a_failed_request_raises_what_it_failed_with(client: Client, redis: Redis) -> None:
    scribe = Scribe(redis, ID)
    await scribe.begin()
    await scribe.write(texts("Hel"))
    error = ErrorInfo("upstream_429", "too many requests", "provider")
    await scribe.finish(outcome=Outcome(status="failed", request_id=ID, finished_at=UNFILLED, error=error))
    items = client.tail(ID).text()
    assert await anext(items) == "Hel"
    with pytest.raises(RequestFailed, match="too many requests") as raised:
        await anext(items)
    assert (raised.value.code, raised.value.whose) == ("upstream_429", "provider")


async def test_text_that_is_discarded_is_an_error_and_begins_anew_after_its_cursor(
    client: Client, redis: Redis
) -> None:
    first, second = Scribe(redis, ID, 1), Scribe(redis, ID, 2)
    await first.begin()
    await first.write([*texts("wrong"), RetryScheduled(1, 1, "upstream_500", "2026-01-01T00:00:00.000Z")])
    await second.begin("upstream_500")
    await second.write(texts("right"))
    await second.finish()
    items = client.tail(ID).text()
    assert await anext(items) == "wrong"
    with pytest.raises(TextDiscarded, match="attempt 2 has begun") as raised:
        await anext(items)
    assert raised.value.cursor == "2-0"
    assert await text_of(client, after=raised.value.cursor) == ["right"]
    # a reader that comes back may have shown text of that attempt before
    with pytest.raises(TextDiscarded):
        await text_of(client, after="1-1")


async def test_an_attempt_without_text_is_replaced_without_an_error(client: Client, redis: Redis) -> None:
    first, second = Scribe(redis, ID, 1), Scribe(redis, ID, 2)
    await first.begin()
    await first.write(ANSWER[:6])
    await second.begin("lease_expired")
    await second.write(texts("right"))
    await second.finish()
    assert await text_of(client) == ["right"]
    assert await text_of(client, after="1-0") == ["right"]


async def test_text_with_lost_entries_is_an_error(client: Client, redis: Redis) -> None:
    await Scribe(redis, ID).answer()
    await redis.xdel(log_key(ID), "1-8")
    with pytest.raises(TextDiscarded, match="are lost") as raised:
        await text_of(client)
    assert raised.value.cursor is None


async def test_entries_that_a_tail_repeats_after_a_failover_give_their_text_once() -> None:
    async def items() -> AsyncGenerator[Tailed, None]:
        for cursor, text in (("1-1", "Hel"), ("1-2", "l"), ("1-1", "Hel"), ("1-2", "l"), ("1-3", "o")):
            yield Tailed(cursor, AssistantDelta(0, 0, text), b"")

    async def opening() -> Opening:
        entry = RawEntry(BEGINNING, b"")
        return Opening(BEGINNING, LogBounds(entry, entry, None, None, None))

    assert [piece async for piece in text_items(opening, items())] == ["Hel", "l", "o"]


async def test_the_snapshot_comes_first_and_the_rest_after_it(client: Client, redis: Redis) -> None:
    scribe = Scribe(redis, ID)
    await scribe.begin()
    await scribe.write(ANSWER)
    async with client.tail(ID) as tail:
        items = tail.with_snapshot()
        state = await anext(items)
        assert isinstance(state, Snapshot)
        assert state.cursor == "1-9"
        await scribe.finish()
        rest = [item async for item in items]
    assert [item.cursor for item in rest if isinstance(item, Tailed)] == ["1-10"]


async def test_stream_submits_and_tails(client: Client, redis: Redis) -> None:
    request = GenerationRequest(model="m", messages=HELLO)
    async with client.stream(request) as stream:
        assert stream.submission == (stream.request_id, False, "queued")
        await Scribe(redis, stream.request_id).answer()
        assert [item.cursor async for item in stream] == CURSORS
    assert (await client.status(stream.request_id)).status == "completed"


async def test_a_stream_that_is_not_entered_submits_before_its_first_item(client: Client, redis: Redis) -> None:
    stream = client.stream(id="two", model="m", messages=HELLO)
    assert (stream.request_id, stream.submission) == ("two", None)
    with pytest.raises(UnknownRequest):
        await client.status("two")
    assert (await anext(stream)).name == "accepted"
    await Scribe(redis, "two").answer()
    *_, last = [item async for item in stream]
    assert isinstance(last.entry, Completed)


async def test_the_same_stream_again_gives_all_of_it_again(client: Client, redis: Redis) -> None:
    await Scribe(redis, ID).answer()
    async with client.stream(id=ID, model="m", messages=HELLO) as stream:
        assert stream.submission == (ID, True, "completed")
        assert "".join([piece async for piece in stream.text()]) == "Hello"


async def test_a_stream_raises_for_an_invalid_request(client: Client) -> None:
    with pytest.raises(RequestRejected, match="messages"):
        client.stream(model="m")
    with pytest.raises(RequestConflict):
        async with client.stream(id=ID, model="other", messages=HELLO):
            pytest.fail("entered")


async def test_a_client_that_is_not_entered_connects_when_it_is_used(redis_url: str, redis: Redis) -> None:
    client = Client(redis_url)
    assert client.following == (0, 0, 0)
    await client.submit(id=ID, model="m", messages=HELLO)
    await client.aclose()
    # after that a later call connects again
    assert (await client.status(ID)).status == "queued"
    await client.aclose()
    await client.aclose()

    async def nobody_is_connected() -> bool:
        return len(await redis.client_list()) == 1

    await until(nobody_is_connected)
