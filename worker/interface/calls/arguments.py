"""Decides which part of a call's arguments is shown: all but the inner thoughts, or only the assistant's message.

The views read the tokens of one JSON object and report through callbacks; they know nothing of names, ids, chunks or
deltas. Text that is not JSON is never lost: it is shown as it is.
"""

from collections.abc import Callable
from typing import Protocol

from tailrace.worker.interface.calls.json_members import JSONStringDecoder, MemberScanner, Token

Sink = Callable[[str], None]


class ArgumentsView(Protocol):
    """Reads the raw arguments in pieces and shows the part that is to be shown."""

    @property
    def closed(self) -> bool | None:
        """Whether the JSON object of the arguments is closed; None if the view does not scan it."""
        ...

    def feed(self, text: str) -> None:
        """Reads the next piece."""
        ...

    def drain(self) -> None:
        """Ends the arguments, complete or not, and shows what was held back."""
        ...


class PlainArguments:
    """Shows everything unchanged, at once."""

    closed = None

    def __init__(self, shown: Sink) -> None:
        self._shown = shown

    def feed(self, text: str) -> None:
        """Shows the next piece."""
        self._shown(text)

    def drain(self) -> None:
        """Does nothing, since nothing is held back."""


class ArgumentsWithoutThoughts:
    """Removes every top-level member with one key, with the comma and blanks after it, or before it if it is last.

    It holds back the comma and the blanks before a key, which are removed with a last member, and the start of a key as
    long as it may be the one to remove.

    Args:
        key: the key of the members to remove.
        shown: gets the text that is kept.
        thought: gets the decoded text of the removed members, if it is a string.
        known: called once it is certain that no reasoning precedes the first text that is kept.
    """

    __slots__ = (
        "_after",
        "_decoder",
        "_key",
        "_key_read",
        "_known",
        "_raw_key",
        "_removed",
        "_scanner",
        "_separator",
        "_shown",
        "_swallow",
        "_thought",
    )

    def __init__(self, key: str, shown: Sink, thought: Sink, known: Callable[[], None]) -> None:
        self._key = key
        self._shown = shown
        self._thought = thought
        self._known = known
        self._scanner = MemberScanner()
        self._decoder = JSONStringDecoder()
        self._separator: list[str] = []  # comma and blanks since the last shown text
        self._raw_key = ""  # the key while it is undecided
        self._key_read = ""  # the same, decoded
        self._removed = False  # whether the current, or the last, member is removed
        self._after: list[str] = []  # blanks after a removed member
        self._swallow = False  # whether a comma followed it

    @property
    def closed(self) -> bool:
        """Whether the JSON object of the arguments is closed."""
        return self._scanner.closed

    def feed(self, text: str) -> None:
        """Reads the next piece of the arguments."""
        for token, raw in self._scanner.feed(text):
            if self._removed:
                self._in_removed(token, raw)
            elif token is Token.STRING:
                self._shown(raw)
            else:
                self._in_kept(token, raw)

    def drain(self) -> None:
        """Ends the arguments: a separator or half a key that was held back is shown unchanged."""
        if not self._removed:
            self._keep("")
        self._known()

    def _in_kept(self, token: Token, raw: str) -> None:
        match token:
            case Token.GAP | Token.COMMA:
                self._separator.append(raw)
            case Token.KEY_OPEN:
                self._raw_key, self._key_read, self._decoder = raw, "", JSONStringDecoder()
            case Token.KEY if self._raw_key:
                self._read_key(raw)
            case Token.KEY_CLOSE if self._raw_key:
                self._close_key(raw)
            case Token.CLOSE:
                self._keep(raw)
                self._known()
            case Token.OPEN | Token.LEAD:
                self._shown(raw)
            case _:
                self._keep(raw)
                self._known()

    def _read_key(self, raw: str) -> None:
        self._raw_key += raw
        self._key_read += self._decoder.feed(raw)
        if not self._key.startswith(self._key_read):
            self._keep("")
            self._known()

    def _close_key(self, raw: str) -> None:
        if self._key_read + self._decoder.close() == self._key:
            self._raw_key, self._removed = "", True
            self._after, self._swallow = [], False
        else:
            self._keep(raw)
            self._known()

    def _keep(self, raw: str) -> None:
        """Shows what was held back, then `raw`."""
        self._shown("".join(self._separator) + self._raw_key + raw)
        self._separator, self._raw_key = [], ""

    def _in_removed(self, token: Token, raw: str) -> None:
        match token:
            case Token.STRING_OPEN:
                self._decoder = JSONStringDecoder()
            case Token.STRING:
                self._thought(self._decoder.feed(raw))
            case Token.STRING_CLOSE:
                self._thought(self._decoder.close())
                self._known()
            case Token.GAP if not self._swallow:
                self._after.append(raw)
            case Token.COMMA:
                self._swallow = True
            case Token.KEY_OPEN:
                self._removed = False
                self._in_kept(token, raw)
            case Token.CLOSE:
                self._removed, self._separator = False, []
                self._shown(raw if self._swallow else "".join(self._after) + raw)
                self._known()
            case Token.BROKEN:
                self._removed = False
                self._keep(raw)
                self._known()
            case Token.SCALAR | Token.NESTED:
                self._known()
            case _:
                pass  # the colon and blanks of the member


class AssistantText:
    """Shows the decoded text of one member; other members are not shown.

    A value that is not a string is shown as JSON, except `null`, which has no text. If the arguments stop being JSON,
    the rest is shown unchanged, and so is text after the object, from its first character that is not blank.

    Args:
        key: the member that holds the text.
        thoughts_key: the member that holds inner thoughts; None to leave them unchanged.
        shown: gets the text.
        thought: gets the inner thoughts.
    """

    __slots__ = (
        "_decoder",
        "_key",
        "_key_read",
        "_other",
        "_scalar",
        "_scanner",
        "_shown",
        "_sinks",
        "_string",
        "_trailing",
    )

    def __init__(self, key: str, thoughts_key: str | None, shown: Sink, thought: Sink) -> None:
        self._sinks = {thoughts_key: thought, key: shown}
        self._key = key
        self._shown = shown
        self._scanner = MemberScanner()
        self._decoder = JSONStringDecoder()
        self._key_read: list[str] = []
        self._string: Sink | None = None  # gets the member's value if it is a string
        self._other = False  # whether to show the member's value if it is not a string
        self._scalar = ""  # the start of a scalar that may be null
        self._trailing = False  # whether there was text after the object

    @property
    def closed(self) -> bool:
        """Whether the JSON object of the arguments is closed."""
        return self._scanner.closed

    def feed(self, text: str) -> None:
        """Reads the next piece of the arguments."""
        for token, raw in self._scanner.feed(text):
            match token:
                case Token.STRING | Token.STRING_OPEN | Token.STRING_CLOSE:
                    self._read_string(token, raw)
                case Token.KEY | Token.KEY_OPEN | Token.KEY_CLOSE:
                    self._read_key(token, raw)
                case Token.SCALAR if self._other:
                    self._read_scalar(raw)
                case Token.NESTED if self._other:
                    self._shown(raw)
                case Token.BROKEN:
                    self._shown(raw)
                case Token.TAIL:
                    text = raw if self._trailing else raw.lstrip(" \t\n\r")
                    self._trailing = bool(text)
                    self._shown(text)
                case _:
                    pass

    def drain(self) -> None:
        """Does nothing: at most the start of `null` is held back, which has no text."""

    def _read_key(self, token: Token, raw: str) -> None:
        if token is Token.KEY_OPEN:
            self._key_read, self._decoder = [], JSONStringDecoder()
        elif token is Token.KEY:
            self._key_read.append(self._decoder.feed(raw))
        else:
            key = "".join(self._key_read) + self._decoder.close()
            self._string, self._other, self._scalar = self._sinks.get(key), key == self._key, ""

    def _read_string(self, token: Token, raw: str) -> None:
        if token is Token.STRING_OPEN:
            self._decoder = JSONStringDecoder()
        elif self._string is not None:
            self._string(self._decoder.feed(raw) if token is Token.STRING else self._decoder.close())

    def _read_scalar(self, raw: str) -> None:
        self._scalar += raw
        if not "null".startswith(self._scalar):
            self._shown(self._scalar)
            self._scalar = ""
