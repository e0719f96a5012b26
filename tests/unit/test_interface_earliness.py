"""A character is shown with the chunk that makes its meaning certain, and not later."""

import pytest

from tailrace.schemas.interface_options import InterfaceOptions
from tailrace.worker.interface.chat.chat_interface import ChatInterface
from tailrace.worker.interface.chat.chunk import chunk_from_json
from tests.chat_reading import call, chunk, shown


def after_each(pieces: list[str], name: str = "find", options: InterfaceOptions | None = None) -> list[list[str]]:
    """What is shown after the name, after each piece of the arguments, and at the end."""
    interface = ChatInterface(options or InterfaceOptions())
    given = [call(0, name=name, call_id="c1"), *(call(0, piece) for piece in pieces)]
    return [*(shown(interface.feed(chunk_from_json(one))) for one in given), shown(interface.drain())]


NAMED = ["n:find", "#:c1"]


Case = tuple[list[str], list[list[str]]]

CASES: list[Case] = [
    # the name waits until the first key cannot be `inner_thoughts`
    (["{", '"', "q", '":1}'], [[], [], [], [*NAMED, 'a:{"q'], ['a:":1}'], []]),
    (["{", '"inner_', "x"], [[], [], [], [*NAMED, 'a:{"inner_x'], []]),
    (['{"inner_thoughts', "_"], [[], [], [*NAMED, 'a:{"inner_thoughts_'], []]),
    # reasoning is shown as it comes, then the name with everything that is certain
    (['{"inner_thoughts":"', "I l", "ook", '"'], [[], [], ["r:I l"], ["r:ook"], [*NAMED, "a:{"], []]),
    (['{"inner_thoughts":', "1", "2", ',"q'], [[], [], [*NAMED, "a:{"], [], ['a:"q'], []]),
    # a comma waits for the key after it
    (['{"q":1', ",", " ", '"r', '":2', "}"], [[], [*NAMED, 'a:{"q":1'], [], [], ['a:, "r'], ['a:":2'], ["a:}"], []]),
    (['{"q":1', ', "inner_thoughts":"x"', "}"], [[], [*NAMED, 'a:{"q":1'], ["r:x"], ["a:}"], []]),
    # values never wait, whatever they contain
    (
        ['{"q":"a', "\\", "u00", "e9", "\\", '"'],
        [[], [*NAMED, 'a:{"q":"a'], ["a:\\"], ["a:u00"], ["a:e9"], ["a:\\"], ['a:"'], []],
    ),
    (
        ['{"q":{"inner_thoughts":', '"x"', ",", "1"],
        [[], [*NAMED, 'a:{"q":{"inner_thoughts":'], ['a:"x"'], ["a:,"], ["a:1"], []],
    ),
    # text that is not JSON never waits
    (["go", " north"], [[], [*NAMED, "a:go"], ["a: north"], []]),
    # the end shows what was held back
    (['{"q":1', ',"inner'], [[], [*NAMED, 'a:{"q":1'], [], ['a:,"inner']]),
    ([], [[], [*NAMED, "a:{}"]]),
    (["{}"], [[], [*NAMED, "a:{}"], []]),
]


@pytest.mark.parametrize(("pieces", "expected"), CASES)
def test_tool_calls(pieces: list[str], expected: list[list[str]]) -> None:
    assert after_each(pieces) == expected


ASSISTANT_CASES: list[Case] = [
    (['{"message":"', "Go", "\\", "n", '"', "}"], [[], [], ["c:Go"], [], ["c:\n"], [], [], []]),
    (['{"inner_thoughts":"hm', '","message":"a', 'b","x":"c"}'], [[], ["r:hm"], ["c:a"], ["c:b"], []]),
    (['{"message":"a"}', "\n", " b", " c"], [[], ["c:a"], [], ["c:b"], ["c: c"], []]),
    (['{"message":', "12", "3", ',"x":4'], [[], [], ["c:12"], ["c:3"], [], []]),
    (['{"message":', "nu", "ll}"], [[], [], [], [], []]),
    (['{"message":', "nu", "ts"], [[], [], [], ["c:nuts"], []]),
    (['{"message":[1,', '"a"]', "}"], [[], ["c:[1,"], ['c:"a"]'], [], []]),
    (["Just", " text"], [[], ["c:Just"], ["c: text"], []]),
    (["{'message': 'a'}"], [[], ["c:'message': 'a'}"], []]),
    ([], [[], []]),
]


@pytest.mark.parametrize(("pieces", "expected"), ASSISTANT_CASES)
def test_assistant_mode(pieces: list[str], expected: list[list[str]]) -> None:
    assert after_each(pieces, "send_message", InterfaceOptions(use_assistant_message=True)) == expected


def test_nothing_is_held_back_if_inner_thoughts_are_not_taken_out() -> None:
    pieces = ['{"inner_thoughts":', ' "x" ', ","]
    expected = [NAMED, ['a:{"inner_thoughts":'], ['a: "x" '], ["a:,"], []]
    assert after_each(pieces, options=InterfaceOptions(put_inner_thoughts_in_kwarg=False)) == expected


def test_a_name_that_may_become_that_of_the_assistant_tool_waits() -> None:
    # given: assistant mode, and arguments before the name is whole
    interface = ChatInterface(InterfaceOptions(use_assistant_message=True))
    given = [call(0, name="send"), call(0, '{"message":"a'), call(0, name="_message"), call(0, 'b"}')]
    # expect: shown as text as soon as the name is certain
    assert [shown(interface.feed(chunk_from_json(one))) for one in given] == [[], [], ["c:a"], ["c:b"]]
    # given: a tool whose name only starts like it
    interface = ChatInterface(InterfaceOptions(use_assistant_message=True))
    given = [call(0, name="sender"), call(0, '{"message":"a')]
    assert [shown(interface.feed(chunk_from_json(one))) for one in given] == [[], ["n:sender", 'a:{"message":"a']]


def test_a_name_longer_than_that_of_the_assistant_tool_is_a_tool() -> None:
    interface = ChatInterface(InterfaceOptions(use_assistant_message=True))
    given = [call(0, name="send_message"), call(0, name="_later"), call(0, '{"message":1}')]
    found = [shown(interface.feed(chunk_from_json(one))) for one in given]
    assert found == [[], [], ["n:send_message_later", 'a:{"message":1}']]


def test_equal_name_and_id_fragments_are_repetitions_and_others_continue() -> None:
    interface = ChatInterface(InterfaceOptions())
    given = [call(0, "{", name="fi", call_id="c"), call(0, name="nd", call_id="c"), call(0, '"q":1}', name="find")]
    outcome = [shown(interface.feed(chunk_from_json(one))) for one in given]
    assert outcome == [[], [], ["n:find", "#:c", 'a:{"q":1}']]


def test_think_tags_become_reasoning_if_requested() -> None:
    interface = ChatInterface(InterfaceOptions(think_tags="reasoning"))
    pieces = ["<", "think", ">I l", "ook</th", "ink>It is", " <b>", "six.<thin"]
    found = [shown(interface.feed(chunk_from_json(chunk(content=piece)))) for piece in pieces]
    assert found == [[], [], ["r:I l"], ["r:ook"], ["c:It is"], ["c: <b>"], ["c:six."]]
    assert shown(interface.drain()) == ["c:<thin"]


def test_the_first_delta_of_a_run_carries_its_source() -> None:
    interface = ChatInterface(InterfaceOptions())
    given = [chunk(reasoning="a"), chunk(reasoning="b"), call(0, '{"inner_thoughts":"c"', name="f"), chunk(content="d")]
    deltas = [delta for one in given for delta in interface.feed(chunk_from_json(one))]
    sources = [getattr(delta, "source", "-") for delta in deltas]
    assert sources == ["reasoner_model", None, "non_reasoner_model", "-", "-", "-"]
    assert [delta.i for delta in deltas] == [0, 0, 0, 1, 1, 2]
