"""Shows a tail on a terminal, with labels for reasoning, tool calls and text, or as one JSON line per entry.

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
    "no_worker": "no worker is running",
    "busy": "all workers are busy, or the tenant is at its limit",
    "lost": "the job was lost and has been enqueued again",
}
_TERMINAL_COLOURS = {Completed: _GREEN, Incomplete: _YELLOW, Cancelled: _YELLOW, Failed: _RED}

# A model must not control the terminal: control characters other than tab and line feed are shown as escapes.
_VISIBLE = {code: f"\\x{code:02x}" for code in (*range(32), *range(127, 160)) if chr(code) not in "\t\n"}


def visible(text: str, encoding: str | None) -> str:
    """Untrusted text, safe to print: control characters and unencodable characters become escapes."""
    shown = text.translate(_VISIBLE)
    return shown.encode(encoding or "utf-8", "backslashreplace").decode(encoding or "utf-8")


class View(Protocol):
    """Shows the items of one tail."""

    def show(self, item: Tailed) -> None:
        """Shows one item, at once."""
        ...


class JsonView:
    """One line per entry: its JSON as in the log, with `entry_id` first (null for events of the reader)."""

    def __init__(self, out: BinaryIO) -> None:
        self._out = out

    def show(self, item: Tailed) -> None:
        """Writes one line."""
        entry_id = b"null" if item.cursor is None else b'"%b"' % item.cursor.encode()
        self._out.write(b'{"entry_id":%b,%b\n' % (entry_id, item.raw[1:]))
        self._out.flush()


class CollapsedView:
    """Holds deltas back until the terminal, because a later attempt may discard them.

    Args:
        view: shows the items.
    """

    def __init__(self, view: View) -> None:
        self._view = view
        self._attempt = 0
        self._held: list[Tailed] = []

    def show(self, item: Tailed) -> None:
        """Holds a delta back; shows everything else at once."""
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
                for ready in (*held, item):
                    self._view.show(ready)


class TerminalView:
    """Shows text as it arrives, with a label before each run of deltas of one kind.

    Args:
        out: the stream to write to.
        colours: whether to use ANSI colours (`wants_colours`).
    """

    def __init__(self, out: TextIO, *, colours: bool) -> None:
        self._out = out
        self._colours = colours
        self._encoding = out.encoding or "utf-8"  # an unencodable character must not end the tail
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
            self._run = None  # a name begins a call, even right after another call
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
        line, colour = _event_line(entry)
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
    """Whether to use colours: on a terminal that supports them, unless `NO_COLOR` is set (no-color.org)."""
    return out.isatty() and not environment.get("NO_COLOR") and environment.get("TERM") != "dumb"


def _event_line(entry: LogEntry | ReaderEvent) -> tuple[str, str]:
    match entry:
        case Accepted():
            return "", _DIM
        case AttemptStarted(attempt=1):
            return "", _DIM
        case AttemptStarted():
            return f"[attempt {entry.attempt}] {entry.why}: the output above is discarded", _YELLOW
        case RetryScheduled():
            return f"[waiting] {entry.reason}: next attempt at {entry.until}", _YELLOW
        case Gap():
            return f"[gap] entries between {entry.after} and {entry.before} are lost", _RED
        case Stalled():
            return f"[stalled] for {entry.for_ms / 1000:g} s: {_STALLED[entry.why]}", _YELLOW
        case Completed() | Incomplete() | Failed() | Cancelled():
            return _terminal_line(entry), _TERMINAL_COLOURS[type(entry)]
        case _:
            return "", _DIM


def _terminal_line(terminal: Terminal) -> str:
    parts = [terminal.finish_reason or "", _tokens(terminal.usage)]
    if isinstance(terminal, Failed):
        parts = [f"{terminal.error.code}: {terminal.error.message} (action: {terminal.error.whose})", *parts]
    return f"[{terminal.__struct_config__.tag}] {', '.join(word for word in parts if word)}".rstrip()


def _tokens(usage: Usage | None) -> str:
    if usage is None:
        return ""
    counted = ((usage.input_tokens, "in"), (usage.output_tokens, "out"))
    words = [f"{count:,} {way}" for count, way in counted if count is not None]
    return f"tokens: {' / '.join(words)}" if words else ""
