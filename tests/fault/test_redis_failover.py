"""A failover to a replica that lacks the last writes: real servers, a worker process, readers attached all the time."""

from collections.abc import AsyncIterator
from typing import Any

import pytest

from tailrace.broker.keys import QUEUE, log_key
from tailrace.demo.simulator import Simulator
from tailrace.producers.client import Client
from tailrace.schemas.deltas import Completed
from tailrace.schemas.errors import CursorInvalid, UnknownRequest
from tests.fault.pair import Pair, pair
from tests.fault.workers import WAIT_S, Attached, client_of, worker_process
from tests.rig import request_for
from tests.until import until

TEXT = "The water that has driven the wheel runs off below the mill, through the tailrace, back into the river."
SLOW = {"steps": [{"kind": "text", "text": TEXT}], "pace": {"chunks_per_s": 40}, "chunking": {"chars": 2}}


@pytest.fixture
async def both() -> AsyncIterator[Pair]:
    async with pair() as servers:
        yield servers


@pytest.fixture
async def client(both: Pair) -> AsyncIterator[Client]:
    async with client_of(both.door.url) as connected:
        yield connected


async def submitted(client: Client, scenario: dict[str, Any]) -> str:
    return (await client.submit(request_for(scenario))).id


async def check_outcome(client: Client, request_id: str) -> int:
    """The outcome is whole; the attempt it came from."""
    outcome = await client.result(request_id, wait_s=WAIT_S)
    assert outcome is not None
    assert (outcome.status, outcome.content) == ("completed", TEXT)
    assert outcome.attempt is not None
    return outcome.attempt


async def test_entries_that_are_lost_cost_an_attached_reader_nothing(
    both: Pair, client: Client, simulator: Simulator
) -> None:
    # given a reader in the middle of an answer, if a failover loses entries that it has seen, expect every entry once,
    # and one attempt; a reader that comes later is told of the gap, and the outcome is whole
    async with worker_process(both.door.url, simulator, TAILRACE_LEASE_S="6") as worker:
        request_id = await submitted(client, SLOW)
        reader = Attached(client, request_id)
        await until(reader.has_read(6))
        await both.part()
        parted_at = len(reader.items)
        await until(reader.has_read(parted_at + 5))
        await both.fail_over()
        await reader.to_its_end()
        assert (reader.text, reader.gaps, reader.attempts) == (TEXT, 0, [1])
        assert await check_outcome(client, request_id) == 1
        late = Attached(client, request_id)
        await late.to_its_end()
        assert (late.gaps, late.attempts) == (1, [1])
        assert isinstance(late.items[-1].entry, Completed)
        assert "not renewed" in worker.said or "cannot" in worker.said
    assert len(simulator.ledger.entries()) == 1


async def test_a_beginning_that_is_lost_voids_what_was_seen(both: Pair, client: Client, simulator: Simulator) -> None:
    # given a request that was claimed, begun and half answered after the replica was cut off, if a failover forgets all
    # that, expect the reader to see another attempt begin, under whatever number, and the whole of it
    request_id = await submitted(client, SLOW)
    await both.part()
    async with worker_process(both.door.url, simulator):
        reader = Attached(client, request_id)
        await until(reader.has_read(8))
        await both.fail_over()
        await reader.to_its_end()
        assert (reader.text, reader.gaps, len(reader.attempts)) == (TEXT, 0, 2)
        assert await check_outcome(client, request_id) == reader.attempts[-1]
        begun = max(place for place, item in enumerate(reader.items) if item.cursor and item.cursor.endswith("-0"))
        stands = [entry_id.decode() for entry_id, _ in await both.heir.xrange(log_key(request_id), "1-0")]
        assert [item.cursor for item in reader.items[begun:]] == stands
    await until(lambda: simulator.ledger.entries()[0].ended == "client_closed")


async def test_an_end_that_is_lost_comes_again(both: Pair, client: Client, simulator: Simulator) -> None:
    # given a request that ended after the replica was cut off, if a failover forgets its end, expect another attempt to
    # end it: readers, also those with an old cursor, come to a terminal, and nothing stays in the queue
    async with worker_process(both.door.url, simulator):
        request_id = await submitted(client, SLOW)
        reader = Attached(client, request_id)
        await until(reader.has_read(4))
        await both.part()
        cursor = reader.items[-1].cursor
        await reader.to_its_end()
        await both.fail_over()
        again = Attached(client, request_id, after=cursor)
        await again.to_its_end()
        assert (again.text, again.attempts) == (TEXT, [2])
        assert await check_outcome(client, request_id) == 2

        async def empty() -> bool:
            return not await both.heir.exists(QUEUE)

        await until(empty)


async def test_a_cursor_that_the_log_lost_is_refused_at_the_start_alone(both: Pair, client: Client) -> None:
    # given entries that a failover lost, if a reader comes with a cursor among them, expect it told; without one
    # it reads what there is
    request_id = await submitted(client, SLOW)
    await both.part()
    await both.redis.xadd(log_key(request_id), {"e": "lost"}, id="1-0")
    await both.fail_over()
    with pytest.raises(CursorInvalid, match="it ends at 0-1"):
        await anext(client.tail(request_id, after="1-0"))
    assert (await anext(client.tail(request_id))).cursor == "0-1"


async def test_a_submit_that_is_lost_is_told(both: Pair, client: Client, simulator: Simulator) -> None:
    # given a request accepted after the replica was cut off, if a failover forgets it, expect its reader told that it
    # is unknown, and the same submit to be as good as new
    await both.part()
    request = request_for(SLOW, id="mine")
    await client.submit(request)
    reader = Attached(client, "mine")
    await until(reader.has_read(1))
    await both.fail_over()
    with pytest.raises(UnknownRequest):
        await reader.to_its_end()
    assert (await client.submit(request)).status == "queued"
    async with worker_process(both.door.url, simulator):
        await check_outcome(client, "mine")
