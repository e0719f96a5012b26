"""A tail on a terminal: reasoning, tool calls and text told apart as they arrive; or one JSON line an entry.

Writes to the stream it is given. Knows nothing of Redis.
"""

from collections.abc import Mapping
from typing import BinaryIO, Protocol, TextIO

from tailrace.producers.tail.log_tail import Tailed
from tailrace.schemas.deltas import (
    TERMINALS,
    Accepted,
    AssistantDelta,
    AttemptStarted,
    Cancelled,
    Completed,
    Failed,
    Gap,
    Incomplete,
    LogEntry,
    ReaderEvent,
    ReasoningDelta,
    RetryScheduled,
    Stalled,
    Terminal,
    ToolCallDelta,
    Usage,
)
from tailrace.schemas.ids import EntryId

_DIM, _CYAN, _GREEN, _YELLOW, _RED = "2", "36", "32", "33", "31"
_STALLED = {
    "no_worker": "no worker gives a sign of life",
    "busy": "all workers are busy, or its tenant has as many running as it may",
    "lost": "its job was lost, and has been enqueued again",
}
_TERMINAL_COLOURS = {Completed: _GREEN, Incomplete: _YELLOW, Cancelled: _YELLOW, Failed: _RED}

# What a model writes must not steer the terminal: every control character but tab and line feed is shown, not obeyed.
_VISIBLE = {code: f"\\x{code:02x}" for code in (*range(32), *range(127, 160)) if chr(code) not in "\t\n"}


def visible(text: str, encoding: str | None) -> str:
    """Text of others as a terminal can show it, without steering the terminal."""
    shown = text.translate(_VISIBLE)
    return shown.encode(encoding or "utf-8", "backslashreplace").decode(encoding or "utf-8")


class View(Protocol):
    """Shows the items of one tail."""

    def show(self, item: Tailed) -> None:
        """Shows one item, at once."""
        ...


class JsonView:
    """One line an entry: its JSON as it stands in the log, with `entry_id` first (null for what the reader says)."""

    def __init__(self, out: BinaryIO) -> None:
        self._out = out

    def show(self, item: Tailed) -> None:
        """Writes one line."""
        entry_id = b"null" if item.cursor is None else b'"%b"' % item.cursor.encode()
        self._out.write(b'{"entry_id":%b,%b\n' % (entry_id, item.raw[1:]))
        self._out.flush()


class CollapsedView:
    """Holds back what a later attempt may void: the deltas of the last attempt are shown with the terminal.

    Args:
        view: how they are shown.
    """

    def __init__(self, view: View) -> None:
        self._view = view
        self._attempt = 0
        self._held: list[Tailed] = []

    def show(self, item: Tailed) -> None:
        """Keeps a delta; shows all else that is not void, at once."""
        if item.cursor is not None:
            attempt = EntryId.parse(item.cursor).attempt
            if attempt != self._attempt or isinstance(item.entry, AttemptStarted):
                self._attempt, self._held = attempt, []
        match item.entry:
            case ReasoningDelta() | ToolCallDelta() | AssistantDelta():
                self._held.append(item)
            case AttemptStarted():
                pass
            case entry:
                held, self._held = (self._held, []) if isinstance(entry, TERMINALS) else ([], self._held)
                for kept in (*held, item):
                    self._view.show(kept)


class TerminalView:
    """Runs of deltas under a label each, text as it comes.

    Args:
        out: where to.
        colours: whether to use ANSI colours (`wants_colours`).
    """

    def __init__(self, out: TextIO, *, colours: bool) -> None:
        self._out = out
        self._colours = colours
        self._encoding = out.encoding or "utf-8"  # a terminal that lacks a character must not end the tail
        self._run: tuple[object, ...] | None = None
        self._at_line_start = True

    def show(self, item: Tailed) -> None:
        """Writes one item."""
        match item.entry:
            case ReasoningDelta(i=run, reasoning=text, call=call):
                self._piece(("reasoning", run, call), "reasoning", text, _DIM)
            case ToolCallDelta():
                self._tool_call(item.entry)
            case AssistantDelta(i=run, refusal=str(text)):
                self._piece(("refusal", run), "refusal", text, _YELLOW)
            case AssistantDelta(i=run, call=call):
                self._piece(("text", run, call), "text", item.entry.content or "", None)
            case entry:
                self._note(entry)
        self._out.flush()

    def _tool_call(self, delta: ToolCallDelta) -> None:
        part, run = delta.tool_call, ("tool call", delta.i, delta.call)
        if part.name is not None:
            self._run = None  # a name begins a call, also where another call stands right before
            self._piece(run, "tool call", f"{part.name} ", _CYAN)
        if part.arguments is not None:
            self._piece(run, "tool call", part.arguments, _CYAN)

    def _piece(self, run: tuple[object, ...], label: str, text: str, colour: str | None) -> None:
        if run != self._run:
            self._end_line()
            self._write(f"[{label}] ", colour or _GREEN)
            self._run = run
        self._write(text.translate(_VISIBLE), colour)

    def _note(self, entry: LogEntry | ReaderEvent) -> None:
        line, colour = _in_words(entry)
        if line:
            self._end_line()
            self._write(line.translate(_VISIBLE), colour)
            self._end_line()
            self._run = None

    def _end_line(self) -> None:
        if not self._at_line_start:
            self._write("\n", None)

    def _write(self, text: str, colour: str | None) -> None:
        if text:
            self._at_line_start = text.endswith("\n")
            shown = text.encode(self._encoding, "backslashreplace").decode(self._encoding)
            self._out.write(f"\x1b[{colour}m{shown}\x1b[0m" if self._colours and colour else shown)


def wants_colours(out: TextIO, environment: Mapping[str, str]) -> bool:
    """Whether to colour: on a terminal that can, unless `NO_COLOR` says otherwise (no-color.org)."""
    return out.isatty() and not environment.get("NO_COLOR") and environment.get("TERM") != "dumb"


def _in_words(entry: LogEntry | ReaderEvent) -> tuple[str, str]:
    match entry:
        case Accepted():
            return "", _DIM
        case AttemptStarted(attempt=1):
            return "", _DIM
        case AttemptStarted():
            return f"[attempt {entry.attempt}] {entry.why}: what stands above is void", _YELLOW
        case RetryScheduled():
            return f"[waiting] {entry.reason}: the next attempt begins at {entry.until}", _YELLOW
        case Gap():
            return f"[gap] what stood between {entry.after} and {entry.before} is lost", _RED
        case Stalled():
            return f"[stalled] for {entry.for_ms / 1000:g} s: {_STALLED[entry.why]}", _YELLOW
        case Completed() | Incomplete() | Failed() | Cancelled():
            return _end_in_words(entry), _TERMINAL_COLOURS[type(entry)]
        case _:
            return "", _DIM


def _end_in_words(terminal: Terminal) -> str:
    said = [terminal.finish_reason or "", _tokens(terminal.usage)]
    if isinstance(terminal, Failed):
        said = [f"{terminal.error.code}: {terminal.error.message} ({terminal.error.whose}'s move)", *said]
    return f"[{terminal.__struct_config__.tag}] {', '.join(word for word in said if word)}".rstrip()


def _tokens(usage: Usage | None) -> str:
    if usage is None:
        return ""
    counted = ((usage.input_tokens, "in"), (usage.output_tokens, "out"))
    words = [f"{count:,} {way}" for count, way in counted if count is not None]
    return f"tokens: {' / '.join(words)}" if words else ""
