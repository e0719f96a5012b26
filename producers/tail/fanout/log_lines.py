"""Reads of logs on few connections: commands that arrive during one round trip are sent together in the next.

Knows nothing of tails.
"""

import asyncio
from collections import deque
from collections.abc import Sequence
from typing import Any, NamedTuple

from tailrace.broker.wire import CommandConnection, packed
from tailrace.producers.link import Link
from tailrace.schemas.errors import StoreError
from tailrace.schemas.redis_url import Node

CLOSED = "the client is closed"

LINES = 2
"""Connections. The second one works while the first waits for a long reply."""

ENTRIES_AT_ONCE = 4_000
"""The most entries that one round trip may return: bounds memory, and how long Redis is busy with it."""


class _Question(NamedTuple):
    commands: bytes
    replies: int
    entries: int
    answers: asyncio.Future[list[Any]]


class LogLines:
    """At most `LINES` connections to one server, opened when needed.

    Args:
        link: the link to the server, with its time limits and errors.
        node: the node of a cluster to connect to.
    """

    def __init__(self, link: Link, node: Node | None = None) -> None:
        self._link = link
        self._node = node
        self._questions: deque[_Question] = deque()
        self._asked = asyncio.Event()
        self._tasks: list[asyncio.Task[None]] = []
        self._closed = False

    async def ask(self, commands: Sequence[Sequence[bytes]], *, entries: int) -> list[Any]:
        """The replies to commands, in their order.

        Args:
            commands: to be sent one after the other.
            entries: about how many entries they may return.

        Raises:
            StoreError: Redis does not answer, or refuses one of them.
        """
        if self._closed:
            raise StoreError(CLOSED)
        if not self._tasks:
            self._tasks = [asyncio.create_task(self._run(), name=f"log line {number}") for number in range(LINES)]
        answers: asyncio.Future[list[Any]] = asyncio.get_running_loop().create_future()
        together = b"".join([packed(*command) for command in commands])
        self._questions.append(_Question(together, len(commands), entries, answers))
        self._asked.set()
        return await answers

    async def ends(self, logs: Sequence[bytes]) -> list[Any]:
        """The last entry of each log; nothing for a log that has none or cannot be read."""
        commands = [(b"XREVRANGE", log, b"+", b"-", b"COUNT", b"1") for log in logs]
        try:
            return await self.ask(commands, entries=len(commands))
        except StoreError:
            return [()] * len(logs)

    async def close(self) -> None:
        """Closes all connections; callers that wait for replies get a StoreError."""
        self._closed = True
        tasks, self._tasks = self._tasks, []
        for task in tasks:
            task.cancel()
        if tasks:
            await asyncio.wait(tasks)
        _fail(self._questions, StoreError(CLOSED))

    async def _run(self) -> None:
        connection = CommandConnection(self._link.connection(self._node))
        try:
            while True:
                while not self._questions:
                    self._asked.clear()
                    await self._asked.wait()
                await self._round_trip(connection, self._next())
        finally:
            await connection.close()

    def _next(self) -> list[_Question]:
        taken: list[_Question] = []
        entries = 0
        while self._questions and (not taken or entries + self._questions[0].entries <= ENTRIES_AT_ONCE):
            question = self._questions.popleft()
            if not question.answers.done():  # its caller has left
                taken.append(question)
                entries += question.entries
        return taken

    async def _round_trip(self, connection: CommandConnection, questions: list[_Question]) -> None:
        try:
            async with self._link.asking():
                commands = b"".join(question.commands for question in questions)
                replies = await connection.ask(commands, sum(question.replies for question in questions))
        except BaseException as error:  # also a cancel: no replies may be left unread, no caller left waiting
            await connection.close()
            known = error if isinstance(error, StoreError) else StoreError(CLOSED)
            _fail(questions, known)
            if not isinstance(error, StoreError):
                raise
        else:
            first = 0
            for question in questions:
                last = first + question.replies
                if not question.answers.done():
                    self._settle(question, replies[first:last])
                first = last

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
