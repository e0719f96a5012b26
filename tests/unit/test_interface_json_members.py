"""The member scanner and the string decoder, by examples and against `json`."""

import json
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tailrace.worker.interface.calls.json_members import JSONStringDecoder, MemberScanner, Token


def tokens_of(*pieces: str) -> list[tuple[str, str]]:
    """Names and texts of the tokens; neighbours of one kind are joined, except quotes."""
    scanner, found = MemberScanner(), list[tuple[str, str]]()
    for piece in pieces:
        for token, text in scanner.feed(piece):
            if found and found[-1][0] == token.name and not token.name.endswith(("OPEN", "CLOSE")):
                found[-1] = (token.name, found[-1][1] + text)
            else:
                found.append((token.name, text))
    return found


def test_members_of_every_kind() -> None:
    text = ' {"a\\"" : "x\\\\", "b":-1e5 ,"c":[{"d":"]}"}] } \n'
    expected = [
        ("LEAD", " "),
        ("OPEN", "{"),
        ("KEY_OPEN", '"'),
        ("KEY", 'a\\"'),
        ("KEY_CLOSE", '"'),
        ("INSIDE", " : "),
        ("STRING_OPEN", '"'),
        ("STRING", "x\\\\"),
        ("STRING_CLOSE", '"'),
        ("COMMA", ","),
        ("GAP", " "),
        ("KEY_OPEN", '"'),
        ("KEY", "b"),
        ("KEY_CLOSE", '"'),
        ("INSIDE", ":"),
        ("SCALAR", "-1e5"),
        ("GAP", " "),
        ("COMMA", ","),
        ("KEY_OPEN", '"'),
        ("KEY", "c"),
        ("KEY_CLOSE", '"'),
        ("INSIDE", ":"),
        ("NESTED", '[{"d":"]}"}]'),
        ("GAP", " "),
        ("CLOSE", "}"),
        ("TAIL", " \n"),
    ]
    assert tokens_of(text) == expected
    assert tokens_of(*text) == expected


@pytest.mark.parametrize(
    ("text", "broken"),
    [
        ("null", "null"),
        ('{"a" 1}', "1}"),
        ("{'a':1}", "'a':1}"),
        ('{"a":1 "b":2}', '"b":2}'),
        ('{"a":1]', "]"),
        ('{"a":"x"y', "y"),
    ],
)
def test_text_is_broken_from_the_first_character_that_is_not_json(text: str, broken: str) -> None:
    for tokens in (tokens_of(text), tokens_of(*text)):
        assert tokens[-1] == (Token.BROKEN.name, broken)


@given(st.text(st.sampled_from('{}[]",:\\u0 ab1\n')), st.lists(st.integers(0, 60), max_size=5))
def test_tokens_are_lossless_and_do_not_depend_on_cuts(text: str, cuts: list[int]) -> None:
    places = sorted({0, len(text), *(cut % (len(text) + 1) for cut in cuts)})
    pieces = [text[start:end] for start, end in pairwise(places)]

    assert "".join(raw for _, raw in tokens_of(*pieces)) == text
    assert tokens_of(*pieces) == tokens_of(text)


@given(st.dictionaries(st.text(), st.recursive(st.none() | st.text() | st.integers(), st.lists, max_leaves=5)))
def test_valid_json_is_never_broken(value: dict[str, object]) -> None:
    scanner = MemberScanner()
    tokens = scanner.feed(json.dumps(value, indent=1))
    assert scanner.closed
    assert not {token for token, _ in tokens} & {Token.BROKEN, Token.TAIL}


@given(st.text(st.characters(exclude_categories=["Cs"])), st.booleans())
def test_strings_decode_as_json_does(text: str, ascii_only: bool) -> None:
    body = json.dumps(text, ensure_ascii=ascii_only)[1:-1]
    decoder = JSONStringDecoder()
    assert "".join(map(decoder.feed, body)) + decoder.close() == text


@pytest.mark.parametrize(
    ("body", "text"),
    [
        ("\\ud83d", "\ufffd"),
        ("\\ud83dx", "\ufffdx"),
        ("\\ude00\\ud83d\\ude00", "\ufffd\N{GRINNING FACE}"),
        ("\\ud83d\\n", "\ufffd\n"),
        ("\\x\\u00zz", "\\x\\u00zz"),
        ("a\nb", "a\nb"),
    ],
)
def test_invalid_strings(body: str, text: str) -> None:
    for pieces in ([body], list(body)):
        decoder = JSONStringDecoder()
        assert "".join(map(decoder.feed, pieces)) + decoder.close() == text


def test_a_character_is_decoded_with_the_piece_that_makes_it_certain() -> None:
    decoder = JSONStringDecoder()
    pieces = ["a", "\\", "n", "\\u00", "e", "9", "\\ud83d", "\\ude0", "0", "b"]
    assert [decoder.feed(piece) for piece in pieces] == ["a", "", "\n", "", "", "é", "", "", "\N{GRINNING FACE}", "b"]
