"""Snapshots: the merged state and the deltas after its cursor are together the answer."""

import asyncio
from collections.abc import AsyncIterator, Iterable

import msgspec
import pytest
from redis.asyncio import Redis

from tailrace.broker.keys import push_channel, push_shard
from tailrace.producers.client import Client
from tailrace.producers.sync.client import SyncClient
from tailrace.producers.tail.log_tail import Tailed
from tailrace.producers.tail.snapshot import Snapshot
from tailrace.schemas.codec import decode_outcome
from tailrace.schemas.deltas import AssistantDelta, AttemptStarted, Completed, Delta, ReasoningDelta, ToolCallDelta
from tailrace.schemas.errors import UnknownRequest
from tests.scribe import ANSWER, Scribe
from tests.until import until

ID = "one"
WHOLE = ("Hello", "I should look.Then say so. Now.", "search", '{"q":"x"}')


@pytest.fixture
async def client(redis_url: str) -> AsyncIterator[Client]:
    async with Client(redis_url) as client:
        await client.submit(id=ID, model="m", messages=[{"role": "user", "content": "hello"}])
        yield client


def added_up(deltas: Iterable[object]) -> tuple[str, str, str, str]:
    """Text, reasoning, the tool's name and its arguments."""
    text = reasoning = name = arguments = ""
    for delta in deltas:
        match delta:
            case AssistantDelta(content=str(piece)):
                text += piece
            case ReasoningDelta(reasoning=piece):
                reasoning += piece
            case ToolCallDelta(tool_call=part):
                name += part.name or ""
                arguments += part.arguments or ""
            case _:
                pass
    return text, reasoning, name, arguments


async def joined(client: Client) -> tuple[Snapshot, list[Tailed]]:
    """What a tail with a snapshot gives, to the end."""
    async with asyncio.timeout(20):
        first, *rest = [item async for item in client.tail(ID).with_snapshot()]
    assert isinstance(first, Snapshot)
    return first, [item for item in rest if isinstance(item, Tailed)]


async def test_joined_at_every_moment_state_and_deltas_are_the_answer(client: Client, redis: Redis) -> None:
    # given an attempt that is discarded, and one that answers / if somebody joins after each of its entries
    lost = Scribe(redis, ID, attempt=1)
    await lost.begin()
    await lost.write(ANSWER[:5])
    scribe = Scribe(redis, ID, attempt=2)
    await scribe.begin("lease_expired")
    states: list[Snapshot] = []
    readers: list[asyncio.Task[tuple[Snapshot, list[Tailed]]]] = []
    for entry in ANSWER:
        states.append(await client.snapshot(ID))
        readers.append(asyncio.create_task(joined(client)))
        await asyncio.sleep(0.01)
        await scribe.write([entry])
    await scribe.finish()
    # expect of the last attempt alone: what there was, merged, then the rest, one by one
    for reader in readers:
        state, rest = await reader
        deltas: list[Delta] = [*state.deltas]
        assert added_up([*deltas, *(item.entry for item in rest)]) == WHOLE
        assert state.attempt == 2
        assert isinstance(state.started, AttemptStarted)
        assert isinstance(rest[-1].entry, Completed)
    # the cursor of an older state stays good
    for state in states:
        rest = [item.entry async for item in client.tail(ID, after=state.cursor)]
        assert added_up([*state.deltas, *rest]) == WHOLE


async def test_the_snapshot_of_a_finished_request_is_its_outcome(client: Client, redis: Redis) -> None:
    await Scribe(redis, ID).answer()
    state, rest = await joined(client)
    assert isinstance(state.outcome, msgspec.Raw)
    assert decode_outcome(bytes(state.outcome)) == await client.result(ID)
    assert [type(item.entry) for item in rest] == [Completed]


async def test_with_a_cursor_it_is_an_ordinary_tail(client: Client, redis: Redis) -> None:
    await Scribe(redis, ID).answer()
    items = [item async for item in client.tail(ID, after="1-3").with_snapshot()]
    assert items == [item async for item in client.tail(ID, after="1-3")]


async def test_an_unknown_request_has_no_snapshot(client: Client) -> None:
    with pytest.raises(UnknownRequest):
        await anext(client.tail("nobody").with_snapshot())


async def test_for_synchronous_code_too(client: Client, redis: Redis, redis_url: str) -> None:
    scribe = Scribe(redis, ID)
    await scribe.begin()
    await scribe.write(ANSWER[:6])

    def follow() -> list[Snapshot | Tailed]:
        with SyncClient(redis_url) as sync:
            return list(sync.tail(ID).with_snapshot())

    following = asyncio.create_task(asyncio.to_thread(follow))

    async def is_followed() -> bool:
        ((_, followers),) = await redis.pubsub_numsub(push_channel(push_shard(ID)))
        return followers == 1

    await until(is_followed)  # so the snapshot has been taken
    await scribe.write(ANSWER[6:])
    await scribe.finish()
    first, *rest = await following
    assert isinstance(first, Snapshot)
    assert added_up([*first.deltas, *(item.entry for item in rest if isinstance(item, Tailed))]) == WHOLE
