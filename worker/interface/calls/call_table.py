"""Which call of a response a fragment belongs to, by index, id, name and position, whichever of them the server sends.

The rules, for a fragment that meets a call at its index (without an index: at its position among several in one chunk,
or else the last call):

1. no id, or the same id: it goes on with that call, unless it begins anew: that call has its name and its arguments
   are closed JSON, and the fragment has a name and arguments, or another name and no index. A call with an id that is
   told again, under the same id or none, is a repetition, even where its arguments are written with other blanks or
   encoded twice; and so are its arguments alone: nothing can follow closed JSON.
2. an id that another call has: the index is wrong (Gemini), it goes on with the other call; unless it has a name and
   either no arguments yet or stands in one chunk with that call, under an index of its own: calls that share an id.
3. an id while that call has none: the id came late.
4. an id that differs: another call under a used index, if the fragment has a name and that call has arguments, or
   both came in one chunk, or both ids begin alike or are of one length; else it is the next piece of the id, unless it
   is a whole id by its looks (LiteLLM makes up a new one for each chunk): then it goes on with the call, and the first
   id stands.
"""

import json
import re
from typing import Any

from tailrace.schemas.interface_options import InterfaceOptions
from tailrace.worker.interface.calls.call import CallState
from tailrace.worker.interface.emit import Emitter
from tailrace.worker.interface.lenient import is_shallow, wholesome

_ALIKE = 4
"""Ids of one server begin alike (`call_`, `toolu_`, `chatcmpl-tool-`); two pieces of one id do not."""

_RANDOM = 8
"""Ids that are random from the first character on have one length, and at least this one (Mistral has 9)."""

_WHOLE_ID = re.compile(r"(call|tool|toolu|tooluse|chatcmpl-tool|fc)[-_]\w{4}")
_JSON = json.JSONDecoder(strict=False)

FUNCTION_CALL_INDEX = -1
"""Stands for the `function_call` of old servers, of which there is one."""


class CallTable:
    """The calls of one response, in the order in which they began.

    Args:
        emitter: for the calls.
        options: for the calls.
    """

    __slots__ = ("_by_id", "_by_index", "_emitter", "_in_chunk", "_last", "_options", "calls")

    def __init__(self, emitter: Emitter, options: InterfaceOptions) -> None:
        self._emitter = emitter
        self._options = options
        self.calls: list[CallState] = []
        self._by_index: dict[int, CallState] = {}
        self._by_id: dict[str, CallState] = {}
        self._last: CallState | None = None
        self._in_chunk: list[CallState] = []

    @property
    def last_name(self) -> str:
        """Name of the call that the last fragment went to."""
        return self._last.tool_name if self._last else ""

    def begin_chunk(self) -> None:
        """The fragments that follow stand in one chunk."""
        self._in_chunk = []

    def add(self, index: int | None, call_id: str, name: str, arguments: str, kind: str = "function") -> bool:
        """Takes in one fragment; what it does not have is empty.

        Returns:
            False when it was a repetition of a whole call, and so was left out.
        """
        here = self._last if index is None else self._by_index.get(index)
        if here is not None and not call_id and not name:
            self._last = here
            if here.kind == "function" and _are_told_again(here, arguments):
                return False
            here.arguments(arguments)
            return True
        if here is not None and call_id in ("", here.call_id) and _tells_again(here, name, arguments):
            return False
        here = self._find(here, index, call_id, name, arguments) or self._begin(kind)
        self._in_chunk.append(here)
        if index is not None:
            self._by_index[index] = here
        self._last = here
        if call_id and not _is_another(call_id, here.call_id):
            self._by_id.pop(here.call_id, None)  # a part of an id is not the id
            here.id(call_id)
            self._by_id[here.call_id] = here
        here.name(name)
        here.arguments(arguments)
        return True

    def keep_extra(self, index: int | None, extra: dict[str, Any]) -> None:
        """Members of a fragment that must go back to the server with its call."""
        call = self._last if index is None else self._by_index.get(index, self._last)
        if call is not None and is_shallow(extra):
            call.extra = {**(call.extra or {}), **wholesome(extra)}

    def _find(
        self, here: CallState | None, index: int | None, call_id: str, name: str, arguments: str
    ) -> CallState | None:
        """The call the fragment goes on with; None when it begins one."""
        if here is not None and call_id in ("", here.call_id):
            return None if _begins_anew(here, index, name, arguments) else here
        if (known := self._by_id.get(call_id)) is not None:
            shared = here is None and index is not None and (not arguments or known in self._in_chunk)
            return None if name and (shared or known.closed or name != known.tool_name) else known
        if here is None:
            return None
        if not here.call_id:
            return None if _begins_anew(here, index, name, arguments) else here
        another = (name and (here.begun or here in self._in_chunk or _are_random(call_id, here.call_id))) or (
            _is_another(call_id, here.call_id) and (name or (arguments.strip() and here.closed))
        )
        return None if another else here

    def _begin(self, kind: str) -> CallState:
        call = CallState(len(self.calls), self._emitter, self._options, kind)
        self.calls.append(call)
        return call


def _begins_anew(here: CallState, index: int | None, name: str, arguments: str) -> bool:
    if not (name and here.tool_name):
        return False
    return bool(arguments.strip() or (index is None and name != here.tool_name)) and here.closed


def _is_another(call_id: str, known: str) -> bool:
    """Whether an id is neither the one known nor a piece of it."""
    if not known or call_id == known:
        return False
    alike = call_id[:_ALIKE] == known[:_ALIKE] and len(call_id) > _ALIKE
    return alike or _WHOLE_ID.match(call_id) is not None


def _are_random(call_id: str, known: str) -> bool:
    return len(call_id) == len(known) >= _RANDOM


def _tells_again(here: CallState, name: str, arguments: str) -> bool:
    if not (here.kind == "function" and here.call_id and arguments.strip() and name == here.tool_name and here.closed):
        return False
    return here.arguments_text == arguments or _meaning(here.arguments_text) == _meaning(arguments)


def _meaning(arguments: str) -> object:
    """The value of JSON, also of JSON in a text; the text itself where it is none."""
    try:
        value = _JSON.decode(arguments)
        return _JSON.decode(value) if isinstance(value, str) else value
    except (ValueError, RecursionError):
        return arguments


def _are_told_again(here: CallState, arguments: str) -> bool:
    if not (arguments.startswith("{") and arguments.endswith("}")):  # most fragments: the rest costs their whole text
        return False
    return here.arguments_size == len(arguments) and here.arguments_text == arguments and here.closed
