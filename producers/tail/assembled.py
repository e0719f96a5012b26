"""The collapsed view: what a request has come to so far, of its current attempt alone, for those who render.

Pure: entries in, state out. What an earlier attempt said is void, and is gone from here when the next one begins;
nothing is final before the terminal.
"""

from typing import NamedTuple

from tailrace.producers.tail.merged import MergedDeltas
from tailrace.schemas.deltas import (
    TERMINALS,
    AssistantDelta,
    AttemptStarted,
    Gap,
    LogEntry,
    ReaderEvent,
    ReasoningDelta,
    RetryScheduled,
    Stalled,
    Terminal,
    ToolCallDelta,
)
from tailrace.schemas.ids import EntryId


class AssembledCall(NamedTuple):
    """A tool call as far as it has come.

    Attributes:
        id: the model's id of it.
        name: the tool.
        arguments: its text so far, without inner thoughts; the raw text stands in the outcome.
    """

    id: str | None
    name: str
    arguments: str


class Assembled:
    """What a reader's entries add up to. One object for a tail: `take` each item, read whenever you render.

    Attributes:
        cursor: of the last entry taken.
        attempt: the current one, 0 before the first.
        whole: False where entries of this attempt were lost (`Gap`): then only the outcome is right.
        waiting: the pause before the next attempt, while there is one; what stands here is void then.
        stalled: nobody works on it; None as soon as somebody does.
        terminal: how it ended. Before that nothing is final: another attempt may void it.
    """

    def __init__(self) -> None:
        self.cursor: str | None = None
        self.terminal: Terminal | None = None
        self.stalled: Stalled | None = None
        self._begin(0)

    @property
    def reasoning(self) -> str:
        """The reasoning so far, call by call, as in the outcome."""
        said = [delta for delta in self._deltas.read() if isinstance(delta, ReasoningDelta)]
        return "".join(delta.reasoning for delta in sorted(said, key=_call))

    @property
    def content(self) -> str:
        """The text for the user so far, call by call, as in the outcome."""
        said = [delta for delta in self._deltas.read() if isinstance(delta, AssistantDelta)]
        return "".join(delta.content or "" for delta in sorted(said, key=_call))

    @property
    def refusal(self) -> str:
        """What the model refused with."""
        return "".join(delta.refusal or "" for delta in self._deltas.read() if isinstance(delta, AssistantDelta))

    @property
    def tool_calls(self) -> list[AssembledCall]:
        """The calls that the caller is to run, in the model's order, as the outcome has them."""
        return [call for number, call in sorted(self._calls().items()) if number >= 0]

    @property
    def hosted_calls(self) -> list[AssembledCall]:
        """The calls that the provider ran itself, as they came; they are not among the outcome's `tool_calls`."""
        return [call for number, call in self._calls().items() if number < 0]

    @property
    def is_final(self) -> bool:
        """Whether what stands here stays."""
        return self.terminal is not None

    def take(self, cursor: str | None, entry: LogEntry | ReaderEvent) -> None:
        """Adds the next item of a tail.

        Args:
            cursor: the item's; None for what the reader itself says.
            entry: what it says.
        """
        if cursor is None or self._goes_on(cursor, begins=isinstance(entry, AttemptStarted)):
            self._add(entry)

    def _goes_on(self, cursor: str, *, begins: bool) -> bool:
        """Whether the entry there is new: after a failover some may be told again."""
        at = EntryId.parse(cursor)
        if begins or at.attempt != self.attempt:
            self._begin(at.attempt)
        elif at <= self._at:
            return False
        self._at, self.cursor, self.stalled, self.waiting = at, cursor, None, None
        return True

    def _add(self, entry: LogEntry | ReaderEvent) -> None:
        match entry:
            case ReasoningDelta() | AssistantDelta() | ToolCallDelta():
                self._deltas.add(entry)
            case RetryScheduled():
                self.waiting = entry
            case Stalled():
                self.stalled = entry
            case Gap():
                self._lose(EntryId.parse(entry.before))
            case _:
                if isinstance(entry, TERMINALS):
                    self.terminal = entry

    def _begin(self, attempt: int) -> None:
        self.attempt = attempt
        self.whole = True
        self._at = EntryId(attempt, -1)
        self.waiting: RetryScheduled | None = None
        self._deltas = MergedDeltas()

    def _lose(self, before: EntryId) -> None:
        if before.attempt != self.attempt:  # the beginning of another attempt is lost
            self._begin(before.attempt)
        self.whole = False

    def _calls(self) -> dict[int, AssembledCall]:
        calls: dict[int, AssembledCall] = {}
        for delta in self._deltas.read():
            if isinstance(delta, ToolCallDelta):
                part, so_far = delta.tool_call, calls.get(delta.call, AssembledCall(None, "", ""))
                calls[delta.call] = AssembledCall(
                    ((so_far.id or "") + (part.tool_call_id or "")) or None,
                    so_far.name + (part.name or ""),
                    so_far.arguments + (part.arguments or ""),
                )
        return calls


def _call(delta: ReasoningDelta | AssistantDelta) -> int:
    return delta.call or 0
