"""Collapses entries into the text that a reader has in the end, without discarded attempts. Pure."""

from collections.abc import Iterable

import msgspec

from tailrace.schemas.deltas import AssistantDelta, LogEntry, ReaderEvent, ReasoningDelta, ToolCallDelta
from tailrace.schemas.ids import EntryId


class ShownCall(msgspec.Struct):
    """A tool call, joined from its deltas."""

    name: str = ""
    call_id: str = ""
    arguments: str = ""


class Shown(msgspec.Struct):
    """What the deltas of the last attempt show."""

    texts: dict[int, str] = msgspec.field(default_factory=dict[int, str])
    thoughts: dict[int, str] = msgspec.field(default_factory=dict[int, str])
    refusal: str = ""
    calls: dict[int, ShownCall] = msgspec.field(default_factory=dict[int, ShownCall])

    @property
    def content(self) -> str:
        """The text of all calls, in order."""
        return "".join(self.texts[call] for call in sorted(self.texts))

    @property
    def reasoning(self) -> str:
        """The reasoning of all calls, in order."""
        return "".join(self.thoughts[call] for call in sorted(self.thoughts))

    def add_entry(self, entry: LogEntry | ReaderEvent) -> None:
        """Adds the next entry of the attempt."""
        match entry:
            case ReasoningDelta():
                self.thoughts[entry.call or 0] = self.thoughts.get(entry.call or 0, "") + entry.reasoning
            case AssistantDelta():
                self.texts[entry.call or 0] = self.texts.get(entry.call or 0, "") + (entry.content or "")
                self.refusal += entry.refusal or ""
            case ToolCallDelta():
                call = self.calls.setdefault(entry.call, ShownCall())
                call.name += entry.tool_call.name or ""
                call.call_id += entry.tool_call.tool_call_id or ""
                call.arguments += entry.tool_call.arguments or ""
            case _:
                pass


def collapse(entries: Iterable[tuple[EntryId, LogEntry | ReaderEvent]]) -> Shown:
    """Returns what is shown after all entries; a new attempt discards what was shown before."""
    shown, attempt = Shown(), 0
    for entry_id, entry in entries:
        if entry_id.attempt != attempt:
            shown, attempt = Shown(), entry_id.attempt
        shown.add_entry(entry)
    return shown
