"""Writes the log of a request as a worker would: begin, entries, finish. For tests that run no worker."""

from collections.abc import Iterable, Sequence
from typing import TypeVar

from redis.asyncio import Redis

from tailrace.broker import scripts
from tailrace.broker.keys import log_key, push_channel, push_shard
from tailrace.broker.script import Argument, Script, Verdict
from tailrace.broker.script_runner import run_script
from tailrace.broker.scripts import BeginStatus, FinishStatus
from tailrace.schemas.codec import encode_entry, encode_outcome
from tailrace.schemas.deltas import (
    FORMAT_VERSION,
    AssistantDelta,
    AttemptStarted,
    LogEntry,
    MessageIds,
    ReasoningDelta,
    ToolCallDelta,
    ToolCallPart,
)
from tailrace.schemas.ids import EntryId
from tailrace.schemas.outcome import UNFILLED, Outcome, Status, terminal_of
from tailrace.schemas.push import encode_pushes

_Reply = TypeVar("_Reply")

IDS = MessageIds("message-11111111-1111-4111-8111-1111111111ff", "message-22222222-2222-4222-8222-2222222222ff")

ANSWER: Sequence[LogEntry] = (
    ReasoningDelta(0, 10, "I should ", source="non_reasoner_model"),
    ReasoningDelta(0, 20, "look."),
    ToolCallDelta(1, 30, 0, ToolCallPart(name="search", tool_call_id="call_1")),
    ToolCallDelta(1, 40, 0, ToolCallPart(arguments='{"q":')),
    ToolCallDelta(1, 50, 0, ToolCallPart(arguments='"x"}')),
    ReasoningDelta(2, 60, "Then say so.", source="reasoner_model"),
    ReasoningDelta(2, 70, " Now."),
    AssistantDelta(3, 80, "Hel"),
    AssistantDelta(3, 90, "lo"),
)


class Scribe:
    """One attempt of one request.

    Args:
        redis: a client of the server.
        request_id: the request, submitted before.
        attempt: its number.
    """

    def __init__(self, redis: Redis, request_id: str, attempt: int = 1) -> None:
        self._redis = redis
        self._request_id = request_id
        self.attempt = attempt
        self.token = f"token-{attempt}"
        self.last = EntryId(attempt, 0)

    async def begin(self, why: str = "first") -> Verdict[BeginStatus]:
        """Begins the attempt, which takes over the log."""
        started = AttemptStarted(FORMAT_VERSION, self.attempt, UNFILLED, why, IDS)
        return await self._run(
            scripts.BEGIN, attempt=self.attempt, token=self.token, attempt_started=encode_entry(started)
        )

    async def write(self, entries: Iterable[LogEntry], *, pushed: bool = True) -> None:
        """Appends entries in one transaction and pushes them, as the worker's publisher does."""
        raws = [encode_entry(entry) for entry in entries]
        first = self.last.next()
        async with self._redis.pipeline(transaction=True) as pipe:
            for raw in raws:
                self.last = self.last.next()
                pipe.xadd(log_key(self._request_id), {"e": raw}, id=str(self.last), nomkstream=True)
            await pipe.execute()
        if pushed:
            message = encode_pushes([(self._request_id, first.attempt, first.seq, raws)])
            await self._redis.publish(push_channel(push_shard(self._request_id)), message)

    async def finish(self, status: Status = "completed", outcome: Outcome | None = None) -> Verdict[FinishStatus]:
        """Writes the terminal entry and the outcome."""
        outcome = outcome or Outcome(
            status=status,
            request_id=self._request_id,
            attempt=self.attempt,
            finished_at=UNFILLED,
            content="Hello",
            model="m",
        )
        return await self._run(
            scripts.FINISH,
            attempt=self.attempt,
            token=self.token,
            terminal_id=str(self.last.next()),
            terminal=encode_entry(terminal_of(outcome, 100)),
            outcome=encode_outcome(outcome),
            status=outcome.status,
        )

    async def answer(self) -> None:
        """Begins, writes `ANSWER`, and finishes."""
        await self.begin()
        await self.write(ANSWER)
        await self.finish()

    async def _run(self, script: Script[_Reply], **given: Argument) -> _Reply:
        return await run_script(self._redis, script, self._request_id, **given)
