"""The collapsed view: the state of a request's current attempt, for user interfaces.

Pure: entries in, state out. When an attempt begins, the deltas of earlier attempts are discarded; nothing is final
before the terminal.
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


class CollapsedCall(NamedTuple):
    """A tool call so far.

    Attributes:
        id: the id that the model gave it.
        name: the name of the tool.
        arguments: their text so far, without inner thoughts; the outcome has the raw text.
    """

    id: str | None
    name: str
    arguments: str


class Collapsed:
    """The state that a tail's entries add up to. One object for a whole tail: it changes with each entry.

    Attributes:
        cursor: the cursor of the last entry applied.
        attempt: the current attempt; 0 before the first.
        whole: False if entries of this attempt were lost (`Gap`); then only the outcome is complete.
        waiting: the scheduled retry during the pause before the next attempt; this state will then be discarded.
        stalled: set while no worker works on the request.
        terminal: how the request ended. Before that nothing is final: another attempt may replace it.
    """

    def __init__(self) -> None:
        self.cursor: str | None = None
        self.terminal: Terminal | None = None
        self.stalled: Stalled | None = None
        self._begin(0)

    @property
    def reasoning(self) -> str:
        """The reasoning so far, ordered by call as in the outcome."""
        deltas = [delta for delta in self._deltas.merged() if isinstance(delta, ReasoningDelta)]
        return "".join(delta.reasoning for delta in sorted(deltas, key=_call))

    @property
    def content(self) -> str:
        """The text for the user so far, ordered by call as in the outcome."""
        deltas = [delta for delta in self._deltas.merged() if isinstance(delta, AssistantDelta)]
        return "".join(delta.content or "" for delta in sorted(deltas, key=_call))

    @property
    def refusal(self) -> str:
        """The text of the refusal, if the model refused."""
        return "".join(delta.refusal or "" for delta in self._deltas.merged() if isinstance(delta, AssistantDelta))

    @property
    def tool_calls(self) -> list[CollapsedCall]:
        """The calls that the caller has to run, in the model's order, as in the outcome."""
        return [call for number, call in sorted(self._calls().items()) if number >= 0]

    @property
    def hosted_calls(self) -> list[CollapsedCall]:
        """The calls that the provider ran itself; the outcome's `tool_calls` do not contain them."""
        return [call for number, call in self._calls().items() if number < 0]

    @property
    def is_final(self) -> bool:
        """Whether this state will not change any more."""
        return self.terminal is not None

    def apply_entry(self, cursor: str | None, entry: LogEntry | ReaderEvent) -> None:
        """Applies the next item of a tail.

        Args:
            cursor: the item's cursor; None for an event of the reader itself.
            entry: the item's entry.
        """
        if cursor is None or self._move_to(cursor, begins=isinstance(entry, AttemptStarted)):
            self._apply(entry)

    def _move_to(self, cursor: str, *, begins: bool) -> bool:
        """Whether the entry at the cursor is new: after a failover a tail may repeat some."""
        at = EntryId.parse(cursor)
        if begins or at.attempt != self.attempt:
            self._begin(at.attempt)
        elif at <= self._at:
            return False
        self._at, self.cursor, self.stalled, self.waiting = at, cursor, None, None
        return True

    def _apply(self, entry: LogEntry | ReaderEvent) -> None:
        match entry:
            case ReasoningDelta() | AssistantDelta() | ToolCallDelta():
                self._deltas.add_delta(entry)
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

    def _calls(self) -> dict[int, CollapsedCall]:
        calls: dict[int, CollapsedCall] = {}
        for delta in self._deltas.merged():
            if isinstance(delta, ToolCallDelta):
                part, so_far = delta.tool_call, calls.get(delta.call, CollapsedCall(None, "", ""))
                calls[delta.call] = CollapsedCall(
                    ((so_far.id or "") + (part.tool_call_id or "")) or None,
                    so_far.name + (part.name or ""),
                    so_far.arguments + (part.arguments or ""),
                )
        return calls


def _call(delta: ReasoningDelta | AssistantDelta) -> int:
    return delta.call or 0
