"""An incremental scanner for the top-level members of a JSON object, and an incremental decoder of JSON strings.

Owns only the syntax: where the object opens, and where keys, values and commas are; it knows nothing of their meaning.
It is lossless: the tokens of all pieces, joined, are the pieces, joined. It reads nothing twice and matches runs of
plain characters by regular expression, so the cost of a character is constant. It never raises: from the first
character that cannot be JSON, everything is `BROKEN`.

Source of the grammar: RFC 8259.
"""

import json
import re
from collections.abc import Mapping
from enum import Enum, IntEnum, auto
from typing import NamedTuple


class Token(Enum):
    """The kind of a piece of the text."""

    LEAD = auto()  # blanks before the object
    OPEN = auto()  # {
    GAP = auto()  # blanks between members: after `{`, a value or a comma
    KEY_OPEN = auto()  # "
    KEY = auto()  # a piece of a key, with its escapes
    KEY_CLOSE = auto()  # "
    INSIDE = auto()  # the colon and the blanks between key and value
    STRING_OPEN = auto()  # "
    STRING = auto()  # a piece of a string value, with its escapes
    STRING_CLOSE = auto()  # "
    SCALAR = auto()  # a piece of a number, true, false or null
    NESTED = auto()  # a piece of a value that is an object or array
    COMMA = auto()  # , between members
    CLOSE = auto()  # }
    TAIL = auto()  # text after the object
    BROKEN = auto()  # text that is not JSON, and everything after it


class _State(IntEnum):  # an IntEnum, because states are hashed at every token and a plain Enum hashes slowly
    START = auto()
    FIRST = auto()
    KEY = auto()
    KEY_ESCAPE = auto()
    COLON = auto()
    VALUE = auto()
    STRING = auto()
    STRING_ESCAPE = auto()
    SCALAR = auto()
    NESTED = auto()
    AFTER = auto()
    NEXT = auto()
    END = auto()
    BROKEN = auto()


class _Rule(NamedTuple):
    """The rule of one state.

    Attributes:
        run: the characters that stay in the state.
        token: the token of such a run.
        steps: single characters that lead to another state.
        otherwise: the state for any other character, which is then read again there.
    """

    run: re.Pattern[str] | None
    token: Token
    steps: Mapping[str, tuple[Token, _State]]
    otherwise: _State


_BLANKS = re.compile(r"[ \t\n\r]++")
_BODY = re.compile(r'(?:[^"\\]++|\\.)++', re.DOTALL)
_SCALAR = re.compile(r"[A-Za-z0-9+.\-]++")
_ALL = re.compile(r".++", re.DOTALL)

_RULES: Mapping[_State, _Rule] = {
    _State.START: _Rule(_BLANKS, Token.LEAD, {"{": (Token.OPEN, _State.FIRST)}, _State.BROKEN),
    _State.FIRST: _Rule(
        _BLANKS,
        Token.GAP,
        {'"': (Token.KEY_OPEN, _State.KEY), "}": (Token.CLOSE, _State.END)},
        _State.BROKEN,
    ),
    _State.KEY: _Rule(
        _BODY,
        Token.KEY,
        {'"': (Token.KEY_CLOSE, _State.COLON), "\\": (Token.KEY, _State.KEY_ESCAPE)},
        _State.BROKEN,
    ),
    _State.COLON: _Rule(_BLANKS, Token.INSIDE, {":": (Token.INSIDE, _State.VALUE)}, _State.BROKEN),
    _State.VALUE: _Rule(
        _BLANKS,
        Token.INSIDE,
        {
            '"': (Token.STRING_OPEN, _State.STRING),
            "{": (Token.NESTED, _State.NESTED),
            "[": (Token.NESTED, _State.NESTED),
        },
        _State.SCALAR,
    ),
    _State.STRING: _Rule(
        _BODY,
        Token.STRING,
        {'"': (Token.STRING_CLOSE, _State.AFTER), "\\": (Token.STRING, _State.STRING_ESCAPE)},
        _State.BROKEN,
    ),
    _State.SCALAR: _Rule(_SCALAR, Token.SCALAR, {}, _State.AFTER),
    _State.AFTER: _Rule(
        _BLANKS,
        Token.GAP,
        {",": (Token.COMMA, _State.NEXT), "}": (Token.CLOSE, _State.END)},
        _State.BROKEN,
    ),
    _State.NEXT: _Rule(
        _BLANKS,
        Token.GAP,
        {'"': (Token.KEY_OPEN, _State.KEY), "}": (Token.CLOSE, _State.END)},
        _State.BROKEN,
    ),
    _State.END: _Rule(_ALL, Token.TAIL, {}, _State.END),
    _State.BROKEN: _Rule(_ALL, Token.BROKEN, {}, _State.BROKEN),
}
"""The grammar, except the two places where a piece may end after a backslash, and nested values."""

_AFTER_ESCAPE = {
    _State.KEY_ESCAPE: (Token.KEY, _State.KEY),
    _State.STRING_ESCAPE: (Token.STRING, _State.STRING),
}

_NESTED_RUN = re.compile(r'(?:[^"\[\]{}]++|"(?:[^"\\]++|\\.)*+")++', re.DOTALL)
_NESTED_DEPTH = {"{": 1, "[": 1, "}": -1, "]": -1}


class MemberScanner:
    """Scans one JSON object, cut into any pieces."""

    __slots__ = ("_depth", "_state", "_within")

    def __init__(self) -> None:
        self._state = _State.START
        self._depth = 0
        self._within = _Within.PLAIN

    @property
    def closed(self) -> bool:
        """Whether the object's closing brace was seen."""
        return self._state is _State.END

    def feed(self, text: str) -> list[tuple[Token, str]]:
        """Returns the tokens of the next piece; joined, they are the piece."""
        position, end = 0, len(text)
        if self._state is _State.STRING and (body := _BODY.match(text)) and body.end() == end:
            return [(Token.STRING, text)]  # the most common piece by far
        tokens: list[tuple[Token, str]] = []
        while position < end:
            start, state = position, self._state
            if state is _State.NESTED:
                position = self._nested(text, position)
                tokens.append((Token.NESTED, text[start:position]))
                continue
            if state in _AFTER_ESCAPE:
                token, self._state = _AFTER_ESCAPE[state]
                position += 1
                tokens.append((token, text[start]))
                continue
            rule = _RULES[state]
            if rule.run is not None and (run := rule.run.match(text, position)):
                position = run.end()
                tokens.append((rule.token, run[0]))
                if position == end:
                    break
            position = self._step(rule, text, position, tokens)
        return tokens

    def _step(self, rule: _Rule, text: str, position: int, tokens: list[tuple[Token, str]]) -> int:
        """Reads one character that leads to another state, or none if `otherwise` applies."""
        character = text[position]
        step = rule.steps.get(character)
        if step is None:
            self._state = rule.otherwise
            return position
        token, self._state = step
        if token is Token.NESTED:
            self._depth, self._within = 0, _Within.PLAIN
            return position  # `_nested` counts the bracket
        tokens.append((token, character))
        return position + 1

    def _nested(self, text: str, position: int) -> int:
        """Returns the position after the last character of this piece that belongs to the nested value."""
        end = len(text)
        while position < end:
            if self._within is not _Within.PLAIN:
                position = self._nested_string(text, position)
                continue
            if run := _NESTED_RUN.match(text, position):
                position = run.end()
                if position == end:
                    break
            character = text[position]
            position += 1
            if character == '"':
                self._within = _Within.STRING
                continue
            self._depth += _NESTED_DEPTH[character]
            if self._depth == 0:
                self._state = _State.AFTER
                break
        return position

    def _nested_string(self, text: str, position: int) -> int:
        """Returns the position after the part of this piece that belongs to a string started in an earlier piece."""
        if self._within is _Within.ESCAPE:
            self._within = _Within.STRING
            return position + 1
        if run := _BODY.match(text, position):
            position = run.end()
        if position < len(text):
            self._within = _Within.PLAIN if text[position] == '"' else _Within.ESCAPE
            position += 1
        return position


class _Within(Enum):
    """The position in a nested value at which a piece ended."""

    PLAIN = auto()
    STRING = auto()
    ESCAPE = auto()


_WHOLE = re.compile(
    r'(?:[^\\]++|\\["\\/bfnrt]|\\u(?![dD][89a-fA-F])[0-9a-fA-F]{4}'
    r"|\\u[dD][89abAB][0-9a-fA-F]{2}\\u[dD][c-fC-F][0-9a-fA-F]{2})++"
)
"""Characters and escapes whose meaning does not depend on what follows."""

_PARTIAL = re.compile(
    r"\\(?:u(?:[0-9a-fA-F]{0,3}|[dD][89abAB][0-9a-fA-F]{2}(?:\\(?:u(?:[dD](?:[c-fC-F][0-9a-fA-F]?)?)?)?)?)?)?"
)
"""An escape, or a pair of surrogates, that the next piece may complete."""

_LONE_SURROGATE = re.compile(r"\\u[dD][89a-fA-F][0-9a-fA-F]{2}")
_decode = json.JSONDecoder(strict=False).decode
REPLACEMENT = "\N{REPLACEMENT CHARACTER}"


class JSONStringDecoder:
    """Decodes the inside of one JSON string in pieces, as `Token.STRING` or `Token.KEY` has them.

    A surrogate without its other half becomes U+FFFD, since it cannot be encoded as UTF-8. A backslash that starts no
    escape is kept as a backslash.
    """

    __slots__ = ("_held",)

    def __init__(self) -> None:
        self._held = ""

    def feed(self, piece: str) -> str:
        """Returns the text that is certain now; at most the eleven characters of an unfinished pair are held back."""
        if not self._held and "\\" not in piece:
            return piece
        text = self._held + piece
        self._held = ""
        found: list[str] = []
        position = 0
        while position < len(text):
            if whole := _WHOLE.match(text, position):
                found.append(_decode(f'"{whole[0]}"'))
                position = whole.end()
            elif _PARTIAL.fullmatch(text, position):
                self._held = text[position:]
                break
            elif lone := _LONE_SURROGATE.match(text, position):
                found.append(REPLACEMENT)
                position = lone.end()
            else:
                found.append(text[position])
                position += 1
        return "".join(found)

    def close(self) -> str:
        """Ends the string; returns what was held back."""
        held, self._held = self._held, ""
        return _LONE_SURROGATE.sub(REPLACEMENT, held)
