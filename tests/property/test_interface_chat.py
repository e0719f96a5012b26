"""However a response is cut, the same texts come out, and they are the right ones.

An independent oracle reads the uncut response: it finds whole members with the decoder of `json`.
"""

import json
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from tailrace.schemas.deltas import ReasoningDelta
from tailrace.schemas.interface_options import InterfaceOptions
from tests.chat_reading import Joined, call_part, check_indexes, chunk, in_pieces, joined, read

KEY = "inner_thoughts"
TOOL, ASSISTANT = "find_ferry", "send_message"

# ---------------------------------------------------------------- the oracle


@dataclass
class Member:
    start: int
    end: int
    key: str
    value: Any
    raw: str


_decoder = json.JSONDecoder(strict=False)


def members_of(text: str) -> list[Member]:
    """The members of the top level, each with its position in the text."""
    found: list[Member] = []
    at = skip(text, text.index("{") + 1)
    while text[at] != "}":
        key, after_key = _decoder.raw_decode(text, at)
        value_at = skip(text, skip(text, after_key) + 1)
        value, end = _decoder.raw_decode(text, value_at)
        found.append(Member(at, end, key, value, text[value_at:end]))
        at = skip(text, end)
        if text[at] == ",":
            at = skip(text, at + 1)
    return found


def skip(text: str, at: int) -> int:
    while text[at] in " \t\r\n":
        at += 1
    return at


def without_thoughts(text: str) -> str:
    """The text without the members, cut out in order."""
    while True:
        members = members_of(text)
        ours = [number for number, member in enumerate(members) if member.key == KEY]
        if not ours:
            return text
        number = ours[0]
        member = members[number]
        if number + 1 < len(members):
            text = text[: member.start] + text[members[number + 1].start :]
        else:
            before = members[number - 1].end if number else text.index("{") + 1
            text = text[:before] + text[member.end :]


def strings_of(text: str, key: str) -> list[str]:
    return [member.value for member in members_of(text) if member.key == key and isinstance(member.value, str)]


def message_of(text: str) -> str:
    """The texts of `message`; a value that is not a string is its JSON, except null, which has no text."""
    values = [member for member in members_of(text) if member.key == "message" and member.value is not None]
    return "".join(member.value if isinstance(member.value, str) else member.raw for member in values)


# ---------------------------------------------------------------- responses

plain = st.text(st.characters(exclude_categories=["Cs"]), max_size=12)
blanks = st.text(" \n\t\r", max_size=2)


@st.composite
def json_strings(draw: st.DrawFn) -> str:
    """A JSON string in which each character may be escaped."""
    return '"' + "".join(draw(st.sampled_from(_spellings(c))) for c in draw(plain)) + '"'


def _spellings(character: str) -> list[str]:
    short = {'"': '\\"', "\\": "\\\\", "/": "\\/", "\n": "\\n", "\t": "\\t", "\r": "\\r", "\b": "\\b", "\f": "\\f"}
    units = character.encode("utf-16-be")
    by_number = "".join(f"\\u{units[i]:02x}{units[i + 1]:02X}" for i in range(0, len(units), 2))
    found = [by_number] + ([short[character]] if character in short else [])
    return found if character in '"\\' or character < " " else [character, character, *found]


scalars = st.sampled_from(["true", "false", "null", "0", "-1.5", "1e-5", "12E+3"])
nested = st.recursive(
    st.none() | st.booleans() | st.integers() | plain,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(plain | st.just(KEY), inner, max_size=3),
    max_leaves=6,
)
values = json_strings() | scalars | nested.map(json.dumps) | nested.map(lambda v: json.dumps(v, indent=1))
keys = st.sampled_from(
    [
        *[f'"{KEY}"', f'"{KEY}"', '"inner\\u005fthoughts"', '"inner_thought"', '"inner_thoughts_"', '"message"'],
        *['"message"', '"request_heartbeat"', '"i"', '""', '"q\\"}"', '"\\ud83d\\ude00"'],
    ]
)


@st.composite
def objects(draw: st.DrawFn) -> str:
    """A JSON object with blanks anywhere, and with our key anywhere, any number of times."""
    members = [
        draw(blanks) + draw(keys) + draw(blanks) + ":" + draw(blanks) + draw(values) + draw(blanks)
        for _ in range(draw(st.integers(0, 5)))
    ]
    return draw(blanks) + "{" + (",".join(members) or draw(blanks)) + "}" + draw(blanks)


@dataclass
class Call:
    call_id: str
    name: str
    arguments: str


@dataclass
class Response:
    """A logical response: the texts and calls of the model, in this order."""

    reasoning: str
    content: str
    refusal: str
    calls: list[Call]
    finish_reason: str


def pieces_of(data: st.DataObject, text: str) -> list[str]:
    """The text cut anywhere, mostly into few pieces, sometimes into characters."""
    if data.draw(st.booleans()):
        return list(text)
    places = sorted({0, len(text), *data.draw(st.lists(st.integers(0, len(text)), max_size=4))})
    return [text[start:end] for start, end in pairwise(places)]


@st.composite
def logical_responses(draw: st.DrawFn) -> Response:
    names = st.sampled_from([TOOL, ASSISTANT, ASSISTANT, "send"])
    arguments = objects() | st.sampled_from(["", "{}"])
    calls = [Call(f"kz_{n}", draw(names), draw(arguments)) for n in range(draw(st.integers(0, 3)))]
    reason = draw(st.sampled_from(["stop", "tool_calls", "length", "content_filter"]))
    return Response(draw(plain), draw(plain), draw(plain), calls, reason)


def cut_into_chunks(data: st.DataObject, response: Response) -> list[dict[str, Any]]:
    """Deltas, each with one or several neighbouring fragments."""
    deltas: list[dict[str, Any]] = []
    for key, text in (("reasoning", response.reasoning), ("content", response.content), ("refusal", response.refusal)):
        deltas += [{key: piece} for piece in pieces_of(data, text)]
    for index, tool_call in enumerate(response.calls):
        parts = [call_part(index, name=piece) for piece in pieces_of(data, tool_call.name)]
        ids = [call_part(index, call_id=piece) for piece in pieces_of(data, tool_call.call_id)]
        parts = parts + ids if data.draw(st.booleans()) else ids + parts
        of_arguments = [call_part(index, piece) for piece in pieces_of(data, tool_call.arguments)]
        if data.draw(st.booleans()):  # the id comes after the arguments
            parts = [call_part(index, name=tool_call.name), *of_arguments, call_part(index, call_id=tool_call.call_id)]
        else:
            parts += of_arguments
        while parts:
            size = data.draw(st.integers(1, 3))
            group, parts = parts[:size], parts[size:]
            deltas.append({"tool_calls": group})
    return deltas


def body_of(data: st.DataObject, response: Response) -> list[bytes]:
    """The response as chunks, in a body that is cut into pieces."""
    line_end = data.draw(st.sampled_from(["\n", "\r\n", "\r"]))
    ascii_only = data.draw(st.booleans())
    chunks = [chunk(**delta) for delta in cut_into_chunks(data, response)]
    lines = [f"data: {json.dumps(c, ensure_ascii=ascii_only)}{line_end * 2}" for c in chunks]
    end = json.dumps(chunk(finish_reason=response.finish_reason))
    lines += [f"data:{end}{line_end * 2}", f": bye{line_end}", f"data: [DONE]{line_end * 2}"]
    body = "".join(lines).encode()
    return in_pieces(body, data.draw(st.lists(st.integers(0, len(body)), max_size=30)))


def or_empty(arguments: str) -> str:
    """Missing arguments become `{}`."""
    return arguments if arguments.strip() else arguments + "{}"


def truth(response: Response, options: InterfaceOptions) -> Joined:
    texts: Joined = {("reasoning", None): response.reasoning, ("content", None): response.content}
    texts["refusal", None] = response.refusal
    for number, tool_call in enumerate(response.calls):
        arguments = or_empty(tool_call.arguments)
        takes_out = options.put_inner_thoughts_in_kwarg
        if takes_out:
            texts["reasoning", None] += "".join(strings_of(arguments, KEY))
        if options.use_assistant_message and tool_call.name == ASSISTANT:
            texts["content", None] += message_of(arguments)
        else:
            texts["name", number], texts["id", number] = tool_call.name, tool_call.call_id
            texts["arguments", number] = without_thoughts(arguments) if takes_out else arguments
    return {key: text for key, text in texts.items() if text}


OPTIONS = [
    InterfaceOptions(),
    InterfaceOptions(use_assistant_message=True),
    InterfaceOptions(put_inner_thoughts_in_kwarg=False),
    InterfaceOptions(use_assistant_message=True, put_inner_thoughts_in_kwarg=False),
]


@settings(max_examples=400, deadline=None)
@given(st.data(), logical_responses(), st.sampled_from(OPTIONS))
def test_any_cutting_gives_the_texts_and_outcome_of_the_oracle(
    data: st.DataObject, response: Response, options: InterfaceOptions
) -> None:
    pieces = body_of(data, response)

    deltas, outcome = read(pieces, options)

    expected = truth(response, options)
    assert joined(deltas) == expected
    check_indexes(deltas)
    assert outcome.content == expected.get(("content", None))
    assert outcome.reasoning == expected.get(("reasoning", None))
    assert outcome.refusal == (response.refusal or None)
    whole = response.finish_reason in ("stop", "tool_calls")
    assert outcome.status == ("completed" if whole else "incomplete")
    assert outcome.finish_reason == response.finish_reason
    assert [(c.id, c.name, c.arguments, c.complete) for c in outcome.tool_calls] == [
        (c.call_id, c.name, or_empty(c.arguments), whole) for c in response.calls
    ]


@settings(max_examples=300, deadline=None)
@given(st.data(), objects(), st.sampled_from(OPTIONS), st.sampled_from([TOOL, ASSISTANT]))
def test_a_call_cut_off_anywhere_is_the_same_for_every_cutting(
    data: st.DataObject, arguments: str, options: InterfaceOptions, name: str
) -> None:
    cut_off = arguments[: data.draw(st.integers(0, len(arguments)))]
    response = Response("", "", "", [Call("kz_0", name, cut_off)], "length")
    whole = [json.dumps(chunk(tool_calls=[call_part(0, cut_off, name=name, call_id="kz_0")])).encode()]
    at_once = b"data: " + whole[0] + b"\n\ndata: " + json.dumps(chunk(finish_reason="length")).encode() + b"\n\n"

    deltas, outcome = read(body_of(data, response), options)

    # given the same text in one piece, expect the same texts, and a call that is not complete
    deltas_at_once, outcome_at_once = read(at_once, options)
    assert joined(deltas) == joined(deltas_at_once)
    assert outcome.tool_calls == outcome_at_once.tool_calls
    assert not outcome.tool_calls[0].complete
    assert outcome.tool_calls[0].arguments == or_empty(cut_off)


@settings(max_examples=200, deadline=None)
@given(objects(), st.text(st.sampled_from('{}[]",:\\u0 abx'), max_size=40), st.integers(0, 60), st.data())
def test_text_that_is_not_json_is_never_lost(arguments: str, garbage: str, at: int, data: st.DataObject) -> None:
    """Text without our key is shown byte for byte, however broken it is."""
    broken = (arguments[:at] + garbage + arguments[at:]).replace("\\u005f", "-").replace("thoughts", "thinking")
    response = Response("", "", "", [Call("kz_0", TOOL, broken)], "stop")

    deltas, outcome = read(body_of(data, response))

    expected = or_empty(broken)
    assert joined(deltas)["arguments", 0] == expected
    assert outcome.tool_calls[0].arguments == expected


@settings(max_examples=150, deadline=None)
@given(st.data(), st.lists(objects(), min_size=2, max_size=3))
def test_interleaved_calls_are_kept_apart(data: st.DataObject, arguments: list[str]) -> None:
    calls = [Call(f"kz_{n}", TOOL, text) for n, text in enumerate(arguments)]
    queues = [
        [call_part(n, name=tool_call.name, call_id=tool_call.call_id)]
        + [call_part(n, piece) for piece in pieces_of(data, tool_call.arguments)]
        for n, tool_call in enumerate(calls)
    ]
    parts = [queue.pop(0) for queue in queues]
    while remaining := [queue for queue in queues if queue]:
        parts.append(data.draw(st.sampled_from(remaining)).pop(0))
    body = b"".join(b"data: " + json.dumps(chunk(tool_calls=[part])).encode() + b"\n\n" for part in parts)

    deltas, outcome = read(body + b"data: [DONE]\n\n")

    texts = joined(deltas)
    assert [texts["arguments", n] for n in range(len(calls))] == [without_thoughts(text) for text in arguments]
    assert [call.arguments for call in outcome.tool_calls] == arguments
    expected = ["".join(strings_of(text, KEY)) for text in arguments]
    thoughts = dict.fromkeys(range(len(calls)), "")
    for delta in deltas:
        if isinstance(delta, ReasoningDelta):
            thoughts[delta.call or 0] += delta.reasoning
    assert list(thoughts.values()) == expected
    assert (outcome.reasoning or "") == "".join(expected)
