"""Questions to logs on few connections: whatever gathers while one round trip is under way goes with the next.

Knows how commands are packed and answered. Knows nothing of tails.
"""

import asyncio
from collections import deque
from collections.abc import Sequence
from typing import Any, NamedTuple

from redis import exceptions as refusals
from redis.asyncio.connection import AbstractConnection

from tailrace.producers.link import Link
from tailrace.schemas.errors import StoreError
from tailrace.schemas.redis_url import Node

CLOSED = "the client is closed"

LINES = 2
"""Connections. The second works while the first waits for a long answer."""

ENTRIES_AT_ONCE = 4_000
"""Of how many entries, at most, one round trip may be: bounds memory, and how long Redis is busy with it."""


class _Question(NamedTuple):
    commands: bytes
    replies: int
    entries: int
    answers: asyncio.Future[list[Any]]


class LogLines:
    """Asks on at most `LINES` connections, opened when needed.

    Args:
        link: to whom, with its time limits and errors.
        node: to which node of a cluster.
    """

    def __init__(self, link: Link, node: Node | None = None) -> None:
        self._link = link
        self._node = node
        self._questions: deque[_Question] = deque()
        self._asked = asyncio.Event()
        self._tasks: list[asyncio.Task[None]] = []
        self._closed = False

    async def ask(self, commands: Sequence[Sequence[bytes]], *, entries: int) -> list[Any]:
        """The answers to commands, in their order.

        Args:
            commands: to be sent one after the other.
            entries: how many entries they may give, about.

        Raises:
            StoreError: Redis is away, or refuses one of them.
        """
        if self._closed:
            raise StoreError(CLOSED)
        if not self._tasks:
            self._tasks = [asyncio.create_task(self._run(), name=f"log line {number}") for number in range(LINES)]
        answers: asyncio.Future[list[Any]] = asyncio.get_running_loop().create_future()
        together = b"".join(map(packed, commands))
        self._questions.append(_Question(together, len(commands), entries, answers))
        self._asked.set()
        return await answers

    async def ends(self, logs: Sequence[bytes]) -> list[Any]:
        """The last entry of each log; nothing for one that has none, or that cannot be asked."""
        commands = [(b"XREVRANGE", log, b"+", b"-", b"COUNT", b"1") for log in logs]
        try:
            return await self.ask(commands, entries=len(commands))
        except StoreError:
            return [()] * len(logs)

    async def close(self) -> None:
        """Ends what runs; whoever waits for an answer is told."""
        self._closed = True
        tasks, self._tasks = self._tasks, []
        for task in tasks:
            task.cancel()
        if tasks:
            await asyncio.wait(tasks)
        _fail(self._questions, StoreError(CLOSED))

    async def _run(self) -> None:
        connection = self._link.connection(self._node)
        try:
            while True:
                while not self._questions:
                    self._asked.clear()
                    await self._asked.wait()
                await self._round_trip(connection, self._next())
        finally:
            await connection.disconnect(nowait=True)

    def _next(self) -> list[_Question]:
        taken: list[_Question] = []
        entries = 0
        while self._questions and (not taken or entries + self._questions[0].entries <= ENTRIES_AT_ONCE):
            question = self._questions.popleft()
            if not question.answers.done():  # whoever asked has left
                taken.append(question)
                entries += question.entries
        return taken

    async def _round_trip(self, connection: AbstractConnection, questions: list[_Question]) -> None:
        try:
            async with self._link.asking():
                commands = b"".join(question.commands for question in questions)
                await connection.send_packed_command(commands, check_health=False)
                for question in questions:
                    answers = [await _answer(connection) for _ in range(question.replies)]
                    if not question.answers.done():
                        self._settle(question, answers)
        except BaseException as error:  # also a cancel: no answers may be left unread, nobody left waiting
            await connection.disconnect(nowait=True)
            known = error if isinstance(error, StoreError) else StoreError(CLOSED)
            _fail(questions, known)
            if not isinstance(error, StoreError):
                raise

    def _settle(self, question: _Question, answers: list[Any]) -> None:
        refusal = next((answer for answer in answers if isinstance(answer, Exception)), None)
        if refusal is None:
            question.answers.set_result(answers)
        else:
            error = self._link.translated(refusal)
            error.__cause__ = refusal
            question.answers.set_exception(error)


def _fail(questions: Sequence[_Question], error: StoreError) -> None:
    for question in questions:
        if not question.answers.done():
            question.answers.set_exception(error.with_context())


async def _answer(connection: AbstractConnection) -> Any:
    try:
        return await connection.read_response()
    except refusals.ResponseError as error:
        return error


def packed(command: Sequence[bytes]) -> bytes:
    """A command as it travels (RESP2). Packed here because redis-py's packing costs more than the question."""
    return b"*%d\r\n%b" % (len(command), b"".join(b"$%d\r\n%b\r\n" % (len(part), part) for part in command))
