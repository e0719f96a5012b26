"""Generated answers of a model, in chunks as OpenAI's server sends them, for `bench interface`. Pure."""

from collections.abc import Callable
from dataclasses import dataclass, field
from itertools import cycle, pairwise
from typing import Any

import msgspec

from tailrace.schemas.interface_options import InterfaceOptions

CHARS_A_CHUNK = 4  # about a token

_WORDS = (
    "the water leaves by the race and the wheel turns slowly while the miller counts his sacks of rye, "
    "writes the sum down and thinks of the road to town"
).split()
_encode = msgspec.json.encode


@dataclass(frozen=True)
class Answer:
    """An answer in chunks.

    Attributes:
        data: the data of each event, including the first and the last.
        arguments: the fragments of the tool call's arguments, none for text.
        events: the same as bytes on the wire, one item per event.
    """

    data: list[bytes]
    arguments: list[str]
    events: list[bytes] = field(init=False)

    def __post_init__(self) -> None:
        events = [b"data: " + data + b"\n\n" for data in self.data]
        object.__setattr__(self, "events", [*events, b"data: [DONE]\n\n"])


@dataclass(frozen=True)
class Kind:
    """A kind of answer of any length, and the options with which it is read."""

    name: str
    options: InterfaceOptions
    make: Callable[[int], Answer]


def prose(chars: int, words_between_escapes: int) -> str:
    """Text of `chars` characters, with an escaped character every `words_between_escapes` words."""
    parts: list[str] = []
    length, marks = 0, cycle(('"so" ', "\n", "naïve "))
    for number, word in enumerate(cycle(_WORDS), 1):
        parts.append(word + (next(marks) if number % words_between_escapes == 0 else " "))
        length += len(parts[-1])
        if length >= chars:
            return "".join(parts)[:chars]
    raise AssertionError("cycle() does not end")


def tool_call(chunks: int, name: str = "file_note", words_between_escapes: int = 20) -> Answer:
    """A tool call whose arguments come in `chunks` chunks: half inner thoughts, half ordinary text."""
    text = prose(chunks * CHARS_A_CHUNK, words_between_escapes)
    half = len(text) // 2
    members = {"inner_thoughts": text[:half], "message": text[half:], "request_heartbeat": True}
    whole = _encode(members).decode()
    fragments = _cut(whole, chunks)
    opening: dict[str, Any] = {
        "role": "assistant",
        "content": None,
        "tool_calls": [
            {"index": 0, "id": "call_bench", "type": "function", "function": {"name": name, "arguments": ""}}
        ],
    }
    deltas = ({"tool_calls": [{"index": 0, "function": {"arguments": fragment}}]} for fragment in fragments)
    return Answer([chunk(opening), *map(chunk, deltas), chunk({}, "tool_calls")], fragments)


def text(chunks: int, delta: Callable[[str], dict[str, Any]] = lambda fragment: {"content": fragment}) -> Answer:
    """A plain text answer in `chunks` chunks; `delta` makes the delta of a fragment."""
    fragments = _cut(prose(chunks * CHARS_A_CHUNK, 20), chunks)
    opening = {"role": "assistant", "content": ""}
    return Answer([chunk(opening), *(chunk(delta(one)) for one in fragments), chunk({}, "stop")], [])


def _details(fragment: str) -> dict[str, Any]:
    """Reasoning as OpenRouter sends it when it does not also send `reasoning`."""
    return {"reasoning_details": [{"type": "reasoning.text", "text": fragment, "format": "unknown", "index": 0}]}


def _cut(whole: str, pieces: int) -> list[str]:
    """Pieces of equal length, up to one character; `whole` has at least `pieces` characters."""
    bounds = [len(whole) * number // pieces for number in range(pieces + 1)]
    return [whole[start:end] for start, end in pairwise(bounds)]


def chunk(delta: dict[str, Any], finish_reason: str | None = None) -> bytes:
    """A chunk with the fields of OpenAI's server. Source: API reference, "The chat completion chunk object"."""
    return _encode(
        {
            "id": "chatcmpl-BenchBenchBenchBenchBenchBen",
            "object": "chat.completion.chunk",
            "created": 1_767_225_600,
            "model": "gpt-bench",
            "service_tier": "default",
            "system_fingerprint": "fp_bench",
            "choices": [{"index": 0, "delta": delta, "logprobs": None, "finish_reason": finish_reason}],
            "usage": None,
            "obfuscation": "x8Kd02mQ",
        }
    )


KINDS = (
    Kind("arguments, inner thoughts taken out", InterfaceOptions(), tool_call),
    Kind("arguments, many escapes", InterfaceOptions(), lambda chunks: tool_call(chunks, words_between_escapes=1)),
    Kind(
        "arguments, assistant mode",
        InterfaceOptions(use_assistant_message=True),
        lambda chunks: tool_call(chunks, name="send_message"),
    ),
    Kind("arguments, nothing taken out", InterfaceOptions(put_inner_thoughts_in_kwarg=False), tool_call),
    Kind("text", InterfaceOptions(), text),
    Kind(
        "reasoning", InterfaceOptions(), lambda chunks: text(chunks, lambda fragment: {"reasoning_content": fragment})
    ),
    Kind("reasoning details", InterfaceOptions(), lambda chunks: text(chunks, _details)),
    Kind("text, think tags taken out", InterfaceOptions(think_tags="reasoning"), text),
)
