"""The collapsed view: it equals the outcome at the end, after discarded attempts and from any cursor."""

from collections.abc import AsyncGenerator, Sequence
from io import BytesIO

import pytest
from hypothesis import given
from hypothesis import strategies as st
from redis.asyncio import Redis

from tailrace.producers.cli.show import CollapsedView, JsonView
from tailrace.producers.client import Client
from tailrace.producers.tail.collapsed_state import Collapsed, CollapsedCall
from tailrace.producers.tail.log_tail import Tailed
from tailrace.schemas.codec import encode_entry
from tailrace.schemas.deltas import (
    AssistantDelta,
    AttemptStarted,
    Cancelled,
    Completed,
    Delta,
    Gap,
    LogEntry,
    ReaderEvent,
    ReasoningDelta,
    RetryScheduled,
    Stalled,
    ToolCallDelta,
    ToolCallPart,
)
from tailrace.schemas.ids import EntryId
from tailrace.schemas.outcome import Outcome
from tests.rig import request_for, rig
from tests.scribe import ANSWER, IDS, Scribe

CALL = {"kind": "tool_call", "name": "search", "arguments": '{"q": "mill", "n": [1, 2]}', "id": "call_7"}
WHOLE = {"steps": [{"kind": "reasoning", "text": "Hm, well."}, CALL, {"kind": "text", "text": "The wheel turns."}]}
RETRIED = RetryScheduled(5, 1, "upstream_500", "2026-01-01T00:00:00.000Z")


def equals(state: Collapsed, outcome: Outcome) -> bool:
    """Whether a state equals the outcome."""
    return (
        (state.reasoning or None, state.content or None, state.refusal or None, state.attempt)
        == (outcome.reasoning, outcome.content, outcome.refusal, outcome.attempt)
        and state.tool_calls == [CollapsedCall(call.id, call.name, call.arguments) for call in outcome.tool_calls]
        and state.is_final
        and state.whole
    )


# With a real worker


@pytest.mark.parametrize("api", ["chat", "responses"])
async def test_after_failed_attempts_the_state_equals_the_outcome(redis_url: str, api: str) -> None:
    # given an answer that is cut off twice, each time further on, expect no discarded text at the end, from any cursor
    faults = [{"kind": "cut", "after": 6, "calls": 1}, {"kind": "cut", "after": 9, "calls": 2}]
    request = request_for({**WHOLE, "key": "k", "faults": faults}, api=api)
    if api == "responses":
        request["input"] = request.pop("messages")
    async with rig(redis_url) as whole:
        request_id = (await whole.client.submit(request)).id
        states = [
            (state.attempt, state.content, state.is_final) async for state in whole.client.tail(request_id).collapsed()
        ]
        outcome = await whole.outcome(request_id)
        assert outcome.status == "completed"
        assert [final for _, _, final in states] == [*[False] * (len(states) - 1), True]
        for item in await whole.entries(request_id):
            resumed = [state async for state in whole.client.tail(request_id, after=item.cursor).collapsed()]
            assert equals(resumed[-1], outcome)


@pytest.fixture
async def client(redis_url: str) -> AsyncGenerator[Client]:
    async with Client(redis_url) as connected:
        yield connected


async def test_resumed_in_the_middle_it_begins_with_the_state_there(redis_url: str, client: Client) -> None:
    request_id = (await client.submit(request_for())).id
    async with Redis.from_url(redis_url) as redis:
        await Scribe(redis, request_id).answer()
    states = [(s.reasoning, s.content, s.tool_calls) async for s in client.tail(request_id).collapsed()]
    cursors = ["0-1", *(f"1-{seq}" for seq in range(len(ANSWER) + 2))]
    for at, cursor in enumerate(cursors):
        resumed = [
            (s.reasoning, s.content, s.tool_calls) async for s in client.tail(request_id, after=cursor).collapsed()
        ]
        assert resumed == states[at:]


# By itself


def attempt(number: int, deltas: Sequence[Delta | RetryScheduled]) -> list[tuple[str, LogEntry]]:
    """An attempt's entries with their cursors."""
    started = AttemptStarted(1, number, "2026-01-01T00:00:00.000Z", "retry", IDS)
    entries: list[LogEntry] = [started, *deltas]
    return [(str(EntryId(number, seq)), entry) for seq, entry in enumerate(entries)]


def told(*attempts: list[tuple[str, LogEntry]]) -> Collapsed:
    state = Collapsed()
    for entries in attempts:
        for cursor, entry in entries:
            state.apply_entry(cursor, entry)
    return state


texts = st.text(max_size=5)
numbers = st.integers(-2, 2)
pieces: st.SearchStrategy[Delta] = st.one_of(
    st.builds(ReasoningDelta, st.just(0), st.just(0), texts),
    st.builds(AssistantDelta, st.just(0), st.just(0), content=texts),
    st.builds(AssistantDelta, st.just(0), st.just(0), refusal=texts),
    st.builds(ToolCallDelta, st.just(0), st.just(0), numbers, st.builds(ToolCallPart, arguments=texts)),
)


@given(st.lists(st.lists(pieces, max_size=8), min_size=1, max_size=4))
def test_only_the_last_attempt_counts(attempts: list[list[Delta]]) -> None:
    # given attempts with any deltas, expect after each entry what the entries of its attempt alone add up to
    state, last = Collapsed(), attempts[-1]
    for number, deltas in enumerate(attempts, start=1):
        for cursor, entry in attempt(number, deltas):
            state.apply_entry(cursor, entry)
    assert state.attempt == len(attempts)
    assert state.reasoning == "".join(piece.reasoning for piece in last if isinstance(piece, ReasoningDelta))
    assert state.content == "".join(piece.content or "" for piece in last if isinstance(piece, AssistantDelta))
    assert state.refusal == "".join(piece.refusal or "" for piece in last if isinstance(piece, AssistantDelta))
    arguments: dict[int, str] = {}
    for piece in last:
        if isinstance(piece, ToolCallDelta):
            arguments[piece.call] = arguments.get(piece.call, "") + (piece.tool_call.arguments or "")
    assert [call.arguments for call in state.tool_calls] == [arguments[n] for n in sorted(arguments) if n >= 0]
    assert [call.arguments for call in state.hosted_calls] == [text for n, text in arguments.items() if n < 0]
    assert not state.is_final


def test_a_hosted_call_is_not_a_call_to_run() -> None:
    hosted = ToolCallDelta(0, 0, -1, ToolCallPart(name="web_search", tool_call_id="ws_1"))
    own = ToolCallDelta(1, 0, 0, ToolCallPart(name="search", tool_call_id="call_1"))
    state = told(attempt(1, [hosted, own]))
    assert state.tool_calls == [CollapsedCall("call_1", "search", "")]
    assert state.hosted_calls == [CollapsedCall("ws_1", "web_search", "")]


def test_pieces_of_a_name_or_an_id_are_joined() -> None:
    # given a server that sends them in pieces, over two messages, expect them whole, as the outcome has them
    parts = [ToolCallPart(name="sea", tool_call_id="call_"), ToolCallPart(tool_call_id="1"), ToolCallPart(name="rch")]
    first, second, third = (ToolCallDelta(i, 0, 0, part) for i, part in zip((0, 0, 2), parts, strict=True))
    state = told(attempt(1, [first, second, AssistantDelta(1, 0, "So"), third]))
    assert state.tool_calls == [CollapsedCall("call_1", "search", "")]


def test_a_request_that_was_cancelled_while_it_waited_has_no_text() -> None:
    state = told(attempt(1, [AssistantDelta(0, 0, "void")]), [("2-0", Cancelled(0))])
    assert (state.content, state.attempt, state.is_final) == ("", 2, True)


def test_waiting_and_stalled_are_set_until_the_next_entry() -> None:
    state = told(attempt(1, [AssistantDelta(0, 0, "void"), RETRIED]))
    assert (state.waiting, state.content) == (RETRIED, "void")
    state.apply_entry(None, Stalled(10_000, "no_worker"))
    assert (state.stalled, state.cursor) == (Stalled(10_000, "no_worker"), "1-2")
    for cursor, entry in attempt(2, []):
        state.apply_entry(cursor, entry)
    assert (state.waiting, state.stalled, state.content) == (None, None, "")


@pytest.mark.parametrize(
    ("before", "whole"), [("1-5", False), ("2-3", False)], ids=["in the attempt", "at the next one's beginning"]
)
def test_lost_entries_are_noted(before: str, whole: bool) -> None:
    state = told(attempt(1, [AssistantDelta(0, 0, "a")]))
    state.apply_entry(None, Gap("1-1", before))
    state.apply_entry(before, AssistantDelta(0, 0, "z"))
    assert state.whole is whole
    assert state.content == ("az" if before == "1-5" else "z")
    for cursor, entry in attempt(3, []):
        state.apply_entry(cursor, entry)
    assert state.whole


def test_a_reused_attempt_number_and_repeated_entries() -> None:
    # given a failover that lost an attempt's beginning, or its last entries, expect the new one alone, nothing twice
    first, other = attempt(1, [AssistantDelta(0, 0, "old")]), attempt(1, [AssistantDelta(0, 0, "new")])
    assert told(first, other).content == "new"
    assert told(first, first[1:]).content == "old"


# On a terminal


def shown(items: Sequence[tuple[str | None, LogEntry | ReaderEvent]]) -> list[bytes]:
    out = BytesIO()
    view = CollapsedView(JsonView(out))
    for cursor, entry in items:
        view.show(Tailed(cursor, entry, encode_entry(entry)))
    return out.getvalue().splitlines()


def test_no_discarded_text_is_printed() -> None:
    items: list[tuple[str | None, LogEntry | ReaderEvent]] = [
        *attempt(1, [AssistantDelta(0, 0, "void"), RETRIED]),
        (None, Stalled(10_000, "busy")),
        *attempt(2, [AssistantDelta(0, 0, "good")]),
    ]
    before = shown(items)
    assert [b"void" in line or b"good" in line for line in before] == [False, False]
    assert b"retry_scheduled" in before[0]
    assert b"stalled" in before[1]
    after = shown([*items, ("2-2", Completed(9))])
    assert after[:2] == before
    assert [b"good" in after[2], b"completed" in after[3], len(after)] == [True, True, 4]
    assert not any(b"good" in line for line in shown([*items, ("3-0", Cancelled(9))]))
