"""Event streams of the gateway over real HTTP: every entry once, from every cursor, in every format."""

import asyncio
import json
from pathlib import Path
from typing import Any

import pytest
from redis.asyncio import Redis

from tailrace.broker.keys import log_key
from tailrace.schemas.deltas import FORMAT_VERSION
from tests.gateway_rig import Event, events, gateway, reading
from tests.rig import request_for, rig
from tests.until import until

TEXT = "The water comes back to the river below the mill."
SCENARIO: dict[str, Any] = {
    "steps": [
        {"kind": "reasoning", "text": "Where does it go?"},
        {"kind": "tool_call", "name": "look", "arguments": '{"inner_thoughts": "I look.", "place": "mill"}'},
        {"kind": "text", "text": TEXT},
    ]
}
SLOW = {"steps": [{"kind": "text", "text": TEXT}], "pace": {"chunks_per_s": 20}}


async def test_a_stream_contains_the_log_and_ends_with_the_terminal(redis_url: str, tmp_path: Path) -> None:

    async with rig(redis_url) as tailrace, gateway(redis_url, tmp_path) as served:
        submitted = await served.submit(request_for(SCENARIO))
        async with reading(served.http, submitted["links"]["events"]) as reader:
            assert reader.headers["content-type"] == "text/event-stream; charset=utf-8"
            assert "no-transform" in reader.headers["cache-control"]
            assert reader.headers["x-accel-buffering"] == "no"
            received = await reader.all()
        entries = await tailrace.entries(submitted["id"])
    assert [(event.id, event.text.encode()) for event in received] == [(item.cursor, item.raw) for item in entries]
    assert [event.name for event in received] == [event.entry["message_type"] for event in received]
    assert received[-1].name == "completed"
    assert len(reader.retries) == 1


async def test_a_stream_resumes_after_every_cursor_and_is_204_after_the_terminal(
    redis_url: str, tmp_path: Path
) -> None:
    async with rig(redis_url) as tailrace, gateway(redis_url, tmp_path) as served:
        submitted = await served.submit(request_for(SCENARIO))
        path = submitted["links"]["events"]
        whole = await events(served.http, path)
        for position, event in enumerate(whole[:-1]):
            assert event.id is not None
            # an EventSource that reconnects sends both; the header takes precedence
            resumed = await events(served.http, f"{path}?after=-1", {"last-event-id": event.id})
            assert resumed == whole[position + 1 :]
            assert await events(served.http, f"{path}?after={event.id}") == whole[position + 1 :]
        assert await events(served.http, f"{path}?after=-1") == whole
        last = whole[-1].id
        for headers, query in (({"last-event-id": last or ""}, "?after=-1"), ({}, f"?after={last}")):
            async with reading(served.http, path + query, headers) as reader:
                assert reader.status == 204
        assert (await tailrace.outcome(submitted["id"])).status == "completed"


@pytest.mark.parametrize("query", ["?after=one", "?after=1-", "?format=xml"])
async def test_invalid_parameters_are_a_400(redis_url: str, tmp_path: Path, query: str) -> None:
    async with gateway(redis_url, tmp_path) as served:
        submitted = await served.submit(request_for())
        answer = await served.http.get(submitted["links"]["events"] + query)
    assert answer.status_code == 400
    assert answer.json()["error"]["whose"] == "caller"


async def test_a_lost_cursor_gives_a_gap_and_the_rest(redis_url: str, tmp_path: Path) -> None:
    async with rig(redis_url) as tailrace, gateway(redis_url, tmp_path) as served:
        request_id = (await served.submit(request_for(SCENARIO)))["id"]
        path = f"/v1/streams/{request_id}/events"
        whole = await events(served.http, path)
        # the beginning of the log was trimmed: a gap leads to the rest
        await tailrace.redis.execute_command("XTRIM", f"tr:{{{request_id}}}:log", "MINID", "1-4")
        gap, *rest = await events(served.http, path, {"last-event-id": "1-2"})
        assert (gap.name, gap.id, gap.entry["after"], gap.entry["before"]) == ("gap", None, "1-2", "1-4")
        assert rest == [event for event in whole if event.id not in ("0-1", "1-0", "1-1", "1-2", "1-3")]
        # the log does not have the cursor, as after a failover: a gap leads back to the beginning
        gap, *rest = await events(served.http, path, {"last-event-id": "1-900"})
        assert (gap.name, gap.entry["after"], gap.entry["before"]) == ("gap", "1-900", "0-1")
        assert rest[-1] == whole[-1]


async def test_heartbeats_are_comments_without_an_id(redis_url: str, tmp_path: Path) -> None:
    # No worker runs, so the stream has one event and then only comments.
    async with gateway(redis_url, tmp_path, gateway_heartbeat_s=0.05) as served:
        submitted = await served.submit(request_for())
        async with reading(served.http, submitted["links"]["events"]) as reader:
            seen: list[Event] = []

            async def read() -> None:
                async for event in reader:
                    seen.append(event)

            task = asyncio.create_task(read())
            await until(lambda: reader.comments >= 3)
            task.cancel()
            await asyncio.wait({task})
    assert [event.id for event in seen] == ["0-1"]


async def test_a_snapshot_and_the_entries_after_it_are_the_whole_answer(redis_url: str, tmp_path: Path) -> None:
    async with rig(redis_url) as tailrace, gateway(redis_url, tmp_path) as served:
        submitted = await served.submit(request_for(SLOW))
        path = submitted["links"]["events"]
        async with reading(served.http, path) as reader:
            async for event in reader:
                if event.name == "assistant_message" and event.id == "1-3":
                    break
        first, *rest = await events(served.http, f"{path}?snapshot=1")
        whole = await events(served.http, path)
        assert (await tailrace.outcome(submitted["id"])).content == TEXT
    state = first.entry
    assert (first.name, first.id, state["attempt"]) == ("snapshot", state["cursor"], 1)
    assert state["v"] == FORMAT_VERSION
    assert rest == whole[[event.id for event in whole].index(first.id) + 1 :]
    (delta,) = state["deltas"]
    assert len(delta["content"]) > 0
    assert delta["content"] + "".join(e.entry["content"] for e in rest if e.name == "assistant_message") == TEXT


async def test_the_snapshot_of_an_ended_request_is_its_outcome(redis_url: str, tmp_path: Path) -> None:
    async with rig(redis_url), gateway(redis_url, tmp_path) as served:
        submitted = await served.submit(request_for(SCENARIO))
        path = submitted["links"]["events"]
        whole = await events(served.http, path)
        first, *rest = await events(served.http, f"{path}?snapshot=1")
        assert rest == [whole[-1]]
        assert first.id == whole[-2].id
        outcome = (await served.http.get(submitted["links"]["self"])).json()["outcome"]
        assert first.entry["outcome"] == outcome
        assert outcome["content"] == TEXT
        # a reader that resumes after the snapshot gets only the terminal
        assert await events(served.http, f"{path}?snapshot=1", {"last-event-id": first.id or ""}) == rest


async def test_the_snapshot_of_a_request_cancelled_while_queued(redis_url: str, tmp_path: Path) -> None:
    async with gateway(redis_url, tmp_path) as served:
        submitted = await served.submit(request_for())
        answer = await served.http.post(submitted["links"]["cancel"])
        assert (answer.status_code, answer.json()["verdict"]) == (200, "ended")
        first, last = await events(served.http, submitted["links"]["events"] + "?snapshot=1")
    assert (first.id, first.entry["outcome"]["status"]) == ("0-1", "cancelled")
    assert (last.name, last.id) == ("cancelled", "1-0")


async def test_the_letta_format_is_the_same_wherever_it_is_resumed(redis_url: str, tmp_path: Path) -> None:
    async with rig(redis_url), gateway(redis_url, tmp_path) as served:
        submitted = await served.submit(request_for(SCENARIO))
        path = submitted["links"]["events"]
        whole = await events(served.http, f"{path}?format=letta")
        deltas = [event for event in whole if event.name.endswith("_message")]
        assert {"id", "date", "message_type", "otid"} <= set(deltas[0].entry)
        assert await events(served.http, f"{path}?format=letta", {"last-event-id": "1-2"}) == whole[4:]
        first, *rest = await events(served.http, f"{path}?format=letta&snapshot=1")
    assert rest == [whole[-1]]
    merged = {(message["otid"], message["message_type"]): message for message in first.entry["messages"]}
    text = [message["content"] for message in merged.values() if message["message_type"] == "assistant_message"]
    assert text == [TEXT]
    assert {(event.entry["otid"], event.name) for event in deltas} == set(merged)


async def test_one_connection_follows_several_requests(redis_url: str, tmp_path: Path) -> None:
    async with rig(redis_url) as tailrace, gateway(redis_url, tmp_path) as served:
        ids = [(await served.submit(request_for(scenario)))["id"] for scenario in (SCENARIO, SLOW, SCENARIO)]
        path = f"/v1/events?ids={','.join(ids)}"
        whole = await events(served.http, path)
        for request_id in ids:
            of_one = [event for event in whole if event.entry["request_id"] == request_id]
            logged = await tailrace.entries(request_id)
            assert [event.entry.pop("entry_id") for event in of_one] == [item.cursor for item in logged]
            for event, item in zip(of_one, logged, strict=True):
                assert event.entry | {"request_id": None, "entry_id": None} == json.loads(item.raw) | {
                    "request_id": None,
                    "entry_id": None,
                }
        # after each frame's id, a resumed stream has exactly the later entries of each request
        for position in range(0, len(whole) - 1, 5):
            resumed = await events(served.http, path, {"last-event-id": whole[position].id or ""})
            assert _by_request(resumed) == _by_request(whole[position + 1 :])
        async with reading(served.http, path, {"last-event-id": whole[-1].id or ""}) as reader:
            assert reader.status == 204
        # with other requests, the new one starts at its beginning and the ended one is not repeated
        more = (await served.submit(request_for(SCENARIO)))["id"]
        joined = await events(served.http, f"/v1/events?ids={more},{ids[0]}&after={whole[-1].id}")
        assert {event.entry["request_id"] for event in joined} == {more}


async def test_a_token_in_the_query_reads_only_its_own_request(redis_url: str, tmp_path: Path) -> None:
    async with rig(redis_url) as tailrace, gateway(redis_url, tmp_path) as served:
        one, other = [await served.submit(request_for(SCENARIO)) for _ in range(2)]
        for submitted in (one, other):
            await tailrace.outcome(submitted["id"])
        del served.http.headers["authorization"]
        whole = await events(served.http, f"{one['links']['events']}?token={one['token']}")
        assert whole[-1].name == "completed"
        refused = await served.http.get(f"{other['links']['events']}?token={one['token']}")
        assert refused.status_code == 404
        both = f"/v1/events?ids={one['id']},{other['id']}"
        assert (await served.http.get(f"{both}&token={one['token']}")).status_code == 404
        assert len(await events(served.http, f"{both}&token={one['token']}&token={other['token']}")) == 2 * len(whole)


async def test_a_broken_stream_is_logged_with_its_reason(
    redis_url: str, redis: Redis, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    # The log has an entry of a later format version. The stream sends the entries before it, then a hint to reconnect,
    # perhaps to a newer gateway.
    async with gateway(redis_url, tmp_path) as served:
        submitted = await served.submit(request_for())
        begun = {"attempt": 1, "at": "", "why": "first", "ids": {"assistant": "a", "tool": "t"}}
        newer = json.dumps({"message_type": "attempt_started", "v": 99, **begun})
        await redis.xadd(log_key(submitted["id"]), {"e": newer}, id="1-0")
        async with reading(served.http, submitted["links"]["events"]) as reader:
            assert [event.name for event in await reader.all()] == ["accepted"]
        assert len(reader.retries) == 2
        line = f"stream {submitted['id']} broken"
        await until(lambda: any(line in message and "upgrade tailrace" in message for message in caplog.messages))


def _by_request(received: list[Event]) -> dict[str, list[str]]:
    found: dict[str, list[str]] = {}
    for event in received:
        found.setdefault(event.entry["request_id"], []).append(event.entry["entry_id"])
    return found
