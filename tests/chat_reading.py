"""Chat Completions for tests: makes chunks, reads bodies in pieces, and joins deltas."""

import json
from collections.abc import Iterable, Sequence
from itertools import pairwise
from typing import Any

from tailrace.schemas.deltas import AssistantDelta, Delta, ReasoningDelta, ToolCallDelta
from tailrace.schemas.interface_options import InterfaceOptions
from tailrace.schemas.outcome import Outcome
from tailrace.worker.interface.stream_decoder import StreamDecoder

JsonObject = dict[str, Any]
Joined = dict[tuple[str, int | None], str]

DONE = b"data: [DONE]\n\n"


def chunk(*, finish_reason: str | None = None, choice: JsonObject | None = None, **delta: Any) -> JsonObject:
    """A chunk as OpenAI sends it, with this delta."""
    of_choice: JsonObject = {"index": 0, "delta": delta, "finish_reason": finish_reason} | (choice or {})
    return {"id": "chatcmpl-7", "object": "chat.completion.chunk", "model": "m-1", "choices": [of_choice]}


def call(index: int | None = 0, arguments: Any = None, *, name: Any = None, call_id: Any = None) -> JsonObject:
    """A chunk with one fragment of a tool call; None is left out."""
    return chunk(tool_calls=[call_part(index, arguments, name=name, call_id=call_id)])


def call_part(index: int | None = 0, arguments: Any = None, *, name: Any = None, call_id: Any = None) -> JsonObject:
    """One fragment of a tool call; None is left out."""
    function = {key: value for key, value in (("name", name), ("arguments", arguments)) if value is not None}
    given = {"index": index, "id": call_id, "function": function}
    return {key: value for key, value in given.items() if value is not None}


def sse(chunks: Iterable[JsonObject], *, done: bool = True) -> bytes:
    """A body with the chunks as events."""
    events = b"".join(b"data: " + json.dumps(given).encode() + b"\n\n" for given in chunks)
    return events + (DONE if done else b"")


def in_pieces(body: bytes, cuts: Iterable[int]) -> list[bytes]:
    """The body in pieces, cut at these places."""
    places = sorted({cut % (len(body) + 1) for cut in cuts} | {0, len(body)})
    return [body[start:end] for start, end in pairwise(places)]


def read(pieces: bytes | Sequence[bytes], options: InterfaceOptions | None = None) -> tuple[list[Delta], Outcome]:
    """All deltas and the outcome of a body."""
    decoder = StreamDecoder("chat", options or InterfaceOptions())
    deltas: list[Delta] = []
    for piece in [pieces] if isinstance(pieces, bytes) else pieces:
        deltas += decoder.feed(piece)
    deltas += decoder.close()
    return deltas, decoder.finish()


def joined(deltas: Iterable[Delta]) -> Joined:
    """The texts of deltas, joined by kind and, for tool calls, by call."""
    texts: Joined = {}
    for delta in deltas:
        for key, text in _texts(delta):
            texts[key] = texts.get(key, "") + text
    return texts


def shown(deltas: Iterable[Delta]) -> list[str]:
    """Each delta as a short text: `r:` reasoning, `c:` content, `f:` refusal, `n:` name, `#:` id, `a:` arguments."""
    letters = {"reasoning": "r", "content": "c", "refusal": "f", "name": "n", "id": "#", "arguments": "a"}
    return [f"{letters[key]}:{text}" for delta in deltas for (key, _), text in _texts(delta)]


def _texts(delta: Delta) -> list[tuple[tuple[str, int | None], str]]:
    if isinstance(delta, ReasoningDelta):
        found = [(("reasoning", None), delta.reasoning)]
    elif isinstance(delta, AssistantDelta):
        found = [(("content", None), delta.content), (("refusal", None), delta.refusal)]
    else:
        part, number = delta.tool_call, delta.call
        found = [
            (("name", number), part.name),
            (("id", number), part.tool_call_id),
            (("arguments", number), part.arguments),
        ]
    return [(key, text) for key, text in found if text is not None]


def check_indexes(deltas: Sequence[Delta]) -> None:
    """Checks that the message index grows exactly when the type changes, and that names come before arguments."""
    index, before = -1, None
    named: set[int] = set()
    for delta in deltas:
        index += type(delta) is not before
        before = type(delta)
        assert delta.i == index
        if isinstance(delta, ToolCallDelta):
            if delta.tool_call.name is not None:
                named.add(delta.call)
            assert delta.call in named
