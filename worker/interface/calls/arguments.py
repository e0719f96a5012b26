"""What is shown of a call's arguments: without the inner thoughts (a tool call), or the message alone (the assistant).

Both read the tokens of one JSON object and say what they found through callbacks; neither knows of names, ids, chunks
or deltas. Text that is not JSON is never lost: it goes out as it is.
"""

from collections.abc import Callable
from typing import Protocol

from tailrace.worker.interface.calls.json_members import MemberScanner, StringDecoder, Token

Sink = Callable[[str], None]


class ArgumentsView(Protocol):
    """Takes the raw arguments in pieces."""

    @property
    def closed(self) -> bool | None:
        """The JSON object of the arguments is closed; None where nobody looks."""
        ...

    def feed(self, text: str) -> None:
        """The next piece."""
        ...

    def drain(self) -> None:
        """The arguments end here, whole or not: nothing stays held."""
        ...


class PlainArguments:
    """Everything as it is, held back by nothing."""

    closed = None

    def __init__(self, shown: Sink) -> None:
        self._shown = shown

    def feed(self, text: str) -> None:
        """The next piece, shown at once."""
        self._shown(text)

    def drain(self) -> None:
        """Nothing was held."""


class ArgumentsWithoutThoughts:
    """Takes every top-level member of one key out, with the comma and blanks after it, or before it when it is last.

    What is held, and why: the blanks and the comma before a key, since they go when the key is the one and nothing
    follows; the beginning of a key as long as it may be the one.

    Args:
        key: the member to take out.
        shown: gets the text that stays.
        thought: gets the decoded text of the members taken out, where it is a string.
        known: called once it is certain that no reasoning comes before the first text that stays.
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
        self._decoder = StringDecoder()
        self._separator: list[str] = []  # comma and blanks since the last text shown
        self._raw_key = ""  # the key as far as it is undecided
        self._key_read = ""  # the same, decoded
        self._removed = False  # the member here, or the last one, is taken out
        self._after: list[str] = []  # blanks after a member taken out
        self._swallow = False  # a comma came after it

    @property
    def closed(self) -> bool:
        """The JSON object of the arguments is closed."""
        return self._scanner.closed

    def feed(self, text: str) -> None:
        """The next piece of the arguments."""
        for token, raw in self._scanner.feed(text):
            if self._removed:
                self._in_removed(token, raw)
            elif token is Token.STRING:
                self._shown(raw)
            else:
                self._in_kept(token, raw)

    def drain(self) -> None:
        """The arguments end here: a separator or half a key that was held is shown as it is."""
        if not self._removed:
            self._keep("")
        self._known()

    def _in_kept(self, token: Token, raw: str) -> None:
        match token:
            case Token.GAP | Token.COMMA:
                self._separator.append(raw)
            case Token.KEY_OPEN:
                self._raw_key, self._key_read, self._decoder = raw, "", StringDecoder()
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
        """Shows what was held, then `raw`."""
        self._shown("".join(self._separator) + self._raw_key + raw)
        self._separator, self._raw_key = [], ""

    def _in_removed(self, token: Token, raw: str) -> None:
        match token:
            case Token.STRING_OPEN:
                self._decoder = StringDecoder()
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
    """The text of one member as it is decoded; other members are not shown.

    A value that is no string is shown as the JSON it is, but for `null`, which is no text. Where the arguments stop
    being JSON the rest is shown as it is, and so is what stands behind the object, from its first character on that is
    no blank.

    Args:
        key: the member that holds the text.
        thoughts_key: the member that holds inner thoughts; None where they are not looked for.
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
        self._decoder = StringDecoder()
        self._key_read: list[str] = []
        self._string: Sink | None = None  # gets the member's value where it is a string
        self._other = False  # show the member's value where it is none
        self._scalar = ""  # the beginning of a scalar that may be null
        self._trailing = False  # text stands behind the object

    @property
    def closed(self) -> bool:
        """The JSON object of the arguments is closed."""
        return self._scanner.closed

    def feed(self, text: str) -> None:
        """The next piece of the arguments."""
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
        """Nothing was held but, perhaps, the beginning of `null`."""

    def _read_key(self, token: Token, raw: str) -> None:
        if token is Token.KEY_OPEN:
            self._key_read, self._decoder = [], StringDecoder()
        elif token is Token.KEY:
            self._key_read.append(self._decoder.feed(raw))
        else:
            key = "".join(self._key_read) + self._decoder.close()
            self._string, self._other, self._scalar = self._sinks.get(key), key == self._key, ""

    def _read_string(self, token: Token, raw: str) -> None:
        if token is Token.STRING_OPEN:
            self._decoder = StringDecoder()
        elif self._string is not None:
            self._string(self._decoder.feed(raw) if token is Token.STRING else self._decoder.close())

    def _read_scalar(self, raw: str) -> None:
        self._scalar += raw
        if not "null".startswith(self._scalar):
            self._shown(self._scalar)
            self._scalar = ""
