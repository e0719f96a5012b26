"""The terminal view: labels, what is not shown, and that a model cannot control the terminal."""

import io
from collections.abc import Sequence

import pytest

from tailrace.producers.cli.show import JsonView, TerminalView, wants_colours
from tailrace.producers.tail.log_tail import Tailed
from tailrace.schemas.codec import encode_entry
from tailrace.schemas.deltas import (
    Accepted,
    AssistantDelta,
    AttemptStarted,
    Cancelled,
    Completed,
    ErrorInfo,
    Failed,
    Gap,
    Incomplete,
    LogEntry,
    MessageIds,
    ReaderEvent,
    ReasoningDelta,
    RetryScheduled,
    Stalled,
    ToolCallDelta,
    ToolCallPart,
    Usage,
)

IDS = MessageIds("message-a", "message-b")


def shown(entries: Sequence[LogEntry | ReaderEvent], *, colours: bool = False) -> str:
    out = io.StringIO()
    view = TerminalView(out, colours=colours)
    for entry in entries:
        view.show(Tailed("1-1", entry, encode_entry(entry)))
    return out.getvalue()


def name(call: int, text: str, i: int = 0) -> ToolCallDelta:
    return ToolCallDelta(i, 0, call, ToolCallPart(name=text, tool_call_id=f"call_{call}"))


def arguments(call: int, text: str, i: int = 0) -> ToolCallDelta:
    return ToolCallDelta(i, 0, call, ToolCallPart(arguments=text))


@pytest.mark.parametrize(
    ("entries", "expected"),
    [
        ([AssistantDelta(0, 0, "Hel"), AssistantDelta(0, 0, "lo")], "[text] Hello"),
        ([AssistantDelta(0, 0, "a\n"), ReasoningDelta(1, 0, "b")], "[text] a\n[reasoning] b"),
        ([ReasoningDelta(0, 0, "a"), AssistantDelta(1, 0, "b")], "[reasoning] a\n[text] b"),
        ([AssistantDelta(0, 0, "a"), AssistantDelta(0, 0, refusal="no")], "[text] a\n[refusal] no"),
        ([name(0, "f"), arguments(0, "{"), arguments(0, "}")], "[tool call] f {}"),
        (
            [name(0, "f"), arguments(0, "{}"), name(1, "g"), arguments(1, "[]")],
            "[tool call] f {}\n[tool call] g []",
        ),
        (
            [name(0, "f"), name(1, "g"), arguments(0, "{"), arguments(1, "["), arguments(0, "}")],
            "[tool call] f \n[tool call] g \n[tool call] {\n[tool call] [\n[tool call] }",
        ),
        ([AssistantDelta(0, 0, "a"), Completed(1, "stop")], "[text] a\n[completed] stop\n"),
        ([AssistantDelta(0, 0, "a\n"), Completed(1)], "[text] a\n[completed]\n"),
        ([Completed(1, "stop", Usage(1200, 30))], "[completed] stop, tokens: 1,200 in / 30 out\n"),
        ([Incomplete(1, "length")], "[incomplete] length\n"),
        ([Cancelled(1)], "[cancelled]\n"),
        (
            [Failed(1, ErrorInfo("upstream_401", "the key is wrong", "operator"))],
            "[failed] upstream_401: the key is wrong (action: operator)\n",
        ),
        ([Accepted(1, "", "chat", "m"), AttemptStarted(1, 1, "", "first", IDS)], ""),
        (
            [AssistantDelta(0, 0, "a"), AttemptStarted(1, 2, "", "lease_expired", IDS), AssistantDelta(0, 0, "b")],
            "[text] a\n[attempt 2] lease_expired: the output above is discarded\n[text] b",
        ),
        ([RetryScheduled(1, 1, "upstream_429", "12:00")], "[waiting] upstream_429: next attempt at 12:00\n"),
        ([Gap("1-1", "1-5")], "[gap] entries between 1-1 and 1-5 are lost\n"),
        (
            [Stalled(5000, "busy")],
            "[stalled] for 5 s: all workers are busy, or the tenant is at its limit\n",
        ),
    ],
)
def test_each_entry_is_shown_as_expected(entries: Sequence[LogEntry | ReaderEvent], expected: str) -> None:
    assert shown(entries) == expected


def test_a_model_cannot_control_the_terminal() -> None:
    hostile = "\x1b]0;owned\x07\x1b[2J\r\x08\x7f\x9b1m\tfine\n"
    entries = [
        AssistantDelta(0, 0, hostile),
        name(0, hostile, 1),
        arguments(0, hostile, 1),
        Failed(1, ErrorInfo("x", hostile, "provider")),
    ]
    output = shown(entries)
    assert {char for char in output if ord(char) < 32 or 127 <= ord(char) < 160} <= {"\t", "\n"}
    assert "\\x1b]0;owned\\x07" in output


def test_each_coloured_piece_resets_the_colour() -> None:
    output = shown([ReasoningDelta(0, 0, "a"), Completed(1)], colours=True)
    assert output == "\x1b[2m[reasoning] \x1b[0m\x1b[2ma\x1b[0m\n\x1b[32m[completed]\x1b[0m\n"


def test_an_unencodable_character_is_shown_as_an_escape() -> None:
    raw = io.BytesIO()
    out = io.TextIOWrapper(raw, encoding="ascii")
    TerminalView(out, colours=False).show(Tailed("1-1", AssistantDelta(0, 0, "é🚂!"), b""))
    assert raw.getvalue() == b"[text] \\xe9\\U0001f682!"


def test_json_has_the_entry_id_first_then_the_raw_entry() -> None:
    out = io.BytesIO()
    view = JsonView(out)
    entry = AssistantDelta(0, 5, "é")
    view.show(Tailed("1-7", entry, encode_entry(entry)))
    gap = Gap("1-1", "1-5")
    view.show(Tailed(None, gap, encode_entry(gap)))
    assert out.getvalue().decode().splitlines() == [
        '{"entry_id":"1-7","message_type":"assistant_message","i":0,"ms":5,"content":"é"}',
        '{"entry_id":null,"message_type":"gap","after":"1-1","before":"1-5"}',
    ]


def test_no_colours_without_a_terminal() -> None:
    assert not wants_colours(io.StringIO(), {"TERM": "xterm"})
