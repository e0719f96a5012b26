"""Any response, streamed in any style and cut anywhere, gives the right deltas and outcome.

The oracle knows the response before it is turned into events, and shares no code with the interface.
"""

import json
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import msgspec
from hypothesis import given
from hypothesis import strategies as st

from tailrace.schemas.codec import encode_outcome
from tailrace.schemas.deltas import AssistantDelta, Delta, ReasoningDelta
from tailrace.schemas.interface_options import InterfaceOptions
from tailrace.worker.interface.stream_decoder import StreamDecoder

Event = dict[str, Any]

texts = st.text(alphabet=st.characters(codec="utf-8", exclude_categories=["Cs"]), min_size=1, max_size=30)
words = st.text(alphabet="abcdefgh_", min_size=1, max_size=8)


@dataclass
class Item:
    """One item of the response that the server means to send."""

    kind: str
    parts: list[str]  # texts, or summary parts, or the one text of a call
    cuts: list[int]
    name: str = ""
    thoughts: str = ""
    shown: str = ""  # a call's arguments as a client must see them
    refuses: bool = False
    number: int = 0  # output index

    @property
    def call_id(self) -> str:
        return f"call_{self.number}"

    @property
    def id(self) -> str:
        return f"it_{self.number}"

    def final(self) -> Event:
        base: Event = {"type": self.kind, "id": self.id}
        if self.kind == "message":
            content = [self._content(text) for text in self.parts]
            return base | {"role": "assistant", "status": "completed", "content": content}
        if self.kind == "reasoning":
            return base | {"summary": [{"type": "summary_text", "text": text} for text in self.parts]}
        if self.kind == "web_search_call":
            return base | {"status": "completed"}
        key = "arguments" if self.kind == "function_call" else "input"
        return base | {"call_id": self.call_id, "name": self.name, key: self.parts[0], "status": "completed"}

    def empty(self) -> Event:
        emptied: Event = {"content": [], "summary": [], "arguments": "", "input": ""}
        final = self.final()
        return final | {key: value for key, value in emptied.items() if key in final} | {"status": "in_progress"}

    def _content(self, text: str) -> Event:
        return {"type": "refusal", "refusal": text} if self.refuses else {"type": "output_text", "text": text}


@dataclass
class Style:
    """How a server streams."""

    announced: bool = True
    done_events: bool = True
    finished_items: bool = True
    output: bool = True
    last_delta: bool = True  # False: the last piece of each text comes only with the final value
    fields: bool = True
    line_end: str = "\n"
    extras: bool = False  # comments, keep-alives and unknown events


@dataclass
class Joined:
    """The texts and calls of deltas or of an outcome."""

    content: str = ""
    refusal: str = ""
    reasoning: str = ""
    arguments: dict[int, str] = field(default_factory=dict[int, str])
    calls: list[tuple[str, str, str, bool]] = field(default_factory=list[tuple[str, str, str, bool]])


@st.composite
def messages(draw: st.DrawFn) -> Item:
    return Item("message", draw(st.lists(texts, min_size=1, max_size=2)), draw(cuts), refuses=draw(st.booleans()))


@st.composite
def reasonings(draw: st.DrawFn) -> Item:
    return Item("reasoning", draw(st.lists(texts, min_size=1, max_size=3)), draw(cuts))


json_values = st.recursive(
    st.none() | st.booleans() | st.integers(-9, 9) | texts,
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(words, inner, max_size=2),
    max_leaves=4,
)


@st.composite
def function_calls(draw: st.DrawFn) -> Item:
    keys = draw(st.lists(words | st.just("inner_thoughts"), unique=True, max_size=4))
    colon, comma = draw(st.sampled_from([(":", ","), (": ", ", "), (" :\n ", " ,\n  ")]))
    members: list[str] = []
    kept: list[str] = []
    thoughts = ""
    for key in keys:
        value = draw(texts if key == "inner_thoughts" else json_values)
        member = json.dumps(key) + colon + json.dumps(value, ensure_ascii=draw(st.booleans()))
        members.append(member)
        if key == "inner_thoughts":
            thoughts = str(value)
        else:
            kept.append(member)
    arguments, shown = ("{" + comma.join(each) + "}" for each in (members, kept))
    return Item("function_call", [arguments], draw(cuts), draw(words), thoughts, shown)


@st.composite
def custom_calls(draw: st.DrawFn) -> Item:
    text = draw(texts)
    return Item("custom_tool_call", [text], draw(cuts), draw(words), shown=text)


cuts = st.lists(st.integers(1, 29), max_size=5)
hosted = st.builds(Item, st.just("web_search_call"), st.just([""]), st.just(list[int]()))
responses = st.lists(messages() | reasonings() | function_calls() | custom_calls() | hosted, max_size=5)
styles = st.builds(
    Style,
    announced=st.booleans(),
    last_delta=st.booleans(),
    done_events=st.booleans(),
    fields=st.booleans(),
    line_end=st.sampled_from(["\n", "\r\n"]),
    extras=st.booleans(),
)

_STEMS = {"reasoning": "response.reasoning_summary_text", "function_call": "response.function_call_arguments"} | {
    "custom_tool_call": "response.custom_tool_call_input"
}


def stem_and_key(item: Item) -> tuple[str, str]:
    if item.kind == "message":
        return ("response.refusal", "refusal") if item.refuses else ("response.output_text", "text")
    return _STEMS[item.kind], {"function_call": "arguments", "custom_tool_call": "input"}.get(item.kind, "text")


def pieces(text: str, at: list[int]) -> list[str]:
    ends = sorted({cut for cut in at if cut < len(text)})
    return [text[start:end] for start, end in zip([0, *ends], [*ends, len(text)], strict=True)]


def events_of(item: Item, style: Style) -> Iterator[Event]:
    """One item in a server's style. What it does not announce it must send at the end."""
    place: Event = {"output_index": item.number, "item_id": item.id}
    if style.announced:
        yield {"type": "response.output_item.added", "output_index": item.number, "item": item.empty()}
    for index, text in enumerate(item.parts if item.kind != "web_search_call" else []):
        stem, key = stem_and_key(item)
        at = place | ({"summary_index": index} if item.kind == "reasoning" else {"content_index": index})
        cut = pieces(text, item.cuts)
        for piece in cut if style.last_delta else cut[:-1]:
            yield at | {"type": f"{stem}.delta", "delta": piece}
        if style.done_events or not style.last_delta:
            yield at | {"type": f"{stem}.done", key: text}
    if style.finished_items:
        yield {"type": "response.output_item.done", "output_index": item.number, "item": item.final()}


def body_of(events: list[Event], items: list[Item], style: Style) -> bytes:
    output = [item.final() for item in items] if style.output else []
    head: Event = {"type": "response.created", "response": {"id": "resp_1", "model": "mill-1", "output": []}}
    tail: Event = {
        "type": "response.completed",
        "response": {"id": "resp_1", "status": "completed", "output": output, "usage": {"input_tokens": 3}},
    }
    lines: list[str] = []
    for number, event in enumerate([head, *events, tail]):
        if style.extras:
            lines += [": here", "", 'data: {"type":"keepalive"}', "", 'data: {"type":"response.new.delta"}', ""]
        if style.fields:
            lines.append(f"event: {event['type']}")
        lines += ["data: " + json.dumps(event | {"sequence_number": number}, ensure_ascii=number % 2 == 0), ""]
    return style.line_end.join([*lines, ""]).encode()


def truth(items: list[Item]) -> Joined:
    """The oracle: the texts and calls of the response, item after item."""
    result = Joined()
    native = 0
    for item in items:
        if item.kind == "message" and item.refuses:
            result.refusal += "".join(item.parts)
        elif item.kind == "message":
            result.content += "".join(item.parts)
        elif item.kind == "reasoning":
            for part in item.parts:
                result.reasoning += ("\n\n" if native else "") + part
                native += 1
        elif item.kind != "web_search_call":
            result.reasoning += item.thoughts
            result.arguments[len(result.calls)] = item.shown
            result.calls.append((item.call_id, item.name, item.parts[0], True))
    return result


def read(body: bytes, at: list[int]) -> tuple[Joined, Joined, dict[str, Any]]:
    """The texts of the deltas, those of the outcome, and the outcome, for a body cut at these places."""
    decoder = StreamDecoder("responses", InterfaceOptions())
    deltas: list[Delta] = []
    ends = sorted({cut % (len(body) + 1) for cut in at})
    for start, end in zip([0, *ends], [*ends, len(body)], strict=True):
        deltas += decoder.feed(body[start:end])
    deltas += decoder.close()
    outcome: dict[str, Any] = msgspec.json.decode(encode_outcome(decoder.finish()))
    calls: list[dict[str, Any]] = outcome["tool_calls"]
    told = Joined(
        outcome["content"] or "",
        outcome["refusal"] or "",
        outcome["reasoning"] or "",
        calls=[(call["id"], call["name"], call["arguments"], call["complete"]) for call in calls],
    )
    return add_up(deltas), told, outcome


def add_up(deltas: list[Delta]) -> Joined:
    result = Joined()
    for delta in deltas:
        if isinstance(delta, AssistantDelta):
            result.content += delta.content or ""
            result.refusal += delta.refusal or ""
        elif isinstance(delta, ReasoningDelta):
            result.reasoning += delta.reasoning
        elif delta.call >= 0:
            result.arguments[delta.call] = result.arguments.get(delta.call, "") + (delta.tool_call.arguments or "")
    return result


def numbered(items: list[Item]) -> list[Item]:
    for number, item in enumerate(items):
        item.number = number
    return items


@given(responses, styles, st.lists(st.integers(0, 1 << 16), max_size=12))
def test_item_after_item_in_any_style_cut_anywhere(items: list[Item], style: Style, at: list[int]) -> None:
    # given: a response, and a server with its own style
    items = numbered(items)
    body = body_of([event for item in items for event in events_of(item, style)], items, style)
    # if: it is read, at once and in pieces
    meant = truth(items)
    for cut in ([], at):
        shown, told, outcome = read(body, cut)
        # expect: outcome and deltas as the oracle has them
        assert (told.content, told.refusal, told.reasoning) == (meant.content, meant.refusal, meant.reasoning)
        assert told.calls == meant.calls
        assert (shown.content, shown.refusal, shown.reasoning) == (meant.content, meant.refusal, meant.reasoning)
        assert shown.arguments == meant.arguments
        assert outcome["status"] == "completed"
        assert outcome["usage"] == {"input_tokens": 3}
        assert [item["id"] for item in outcome["items"]] == [
            item.id for item in items if item.kind in ("reasoning", "web_search_call")
        ]
        assert not [note for note in outcome["notes"] if "unknown" not in note]


@given(responses, styles, st.randoms(use_true_random=False), st.lists(st.integers(0, 1 << 16), max_size=12))
def test_items_that_interleave(items: list[Item], style: Style, order: Any, at: list[int]) -> None:
    # given: a response whose items stream at the same time, each announced in turn
    items = numbered(items)
    style.announced = True
    queues = [list(events_of(item, style)) for item in items]
    events = [queue.pop(0) for queue in queues]
    while queues := [queue for queue in queues if queue]:
        events.append(order.choice(queues).pop(0))
    body = body_of(events, items, style)
    # if: it is read, at once and in pieces
    meant = truth(items)
    shown, told, _ = read(body, [])
    # expect: an outcome with one item after another, whole arguments, and the same deltas wherever the body is cut
    assert (told.content, told.refusal, told.reasoning) == (meant.content, meant.refusal, meant.reasoning)
    assert told.calls == meant.calls
    assert shown.arguments == meant.arguments
    assert sorted(shown.content) == sorted(meant.content)
    assert (shown, told) == read(body, at)[:2]


@given(responses, styles, st.integers(0, 1 << 16))
def test_a_body_that_is_cut_off_keeps_its_text(items: list[Item], style: Style, at: int) -> None:
    # given: a body that ends early
    items = numbered(items)
    body = body_of([event for item in items for event in events_of(item, style)], items, style)
    part = body[: at % (len(body) + 1)]
    # if: it is read
    shown, told, outcome = read(part, [])
    # expect: a prefix of the response, the same in deltas and outcome, and unfinished calls are not complete
    meant = truth(items)
    assert meant.content.startswith(told.content)
    assert meant.refusal.startswith(told.refusal)
    assert meant.reasoning.startswith(told.reasoning)
    assert (shown.content, shown.refusal, shown.reasoning) == (told.content, told.refusal, told.reasoning)
    for (_, _, whole, _), (_, _, came, complete) in zip(meant.calls, told.calls, strict=False):
        assert whole.startswith(came) or came == "{}"
        assert not complete or came == whole
    assert (outcome["status"] == "completed") == has_ended(part)


def has_ended(part: bytes) -> bool:
    """Whether the last line of the terminal event has come: an event needs no blank line at the end of a body."""
    last = part.rpartition(b"data: ")[2].strip()
    try:
        return json.loads(last)["type"] == "response.completed"
    except ValueError:
        return False
