"""Finds the call that a fragment belongs to, by index, id, name and position, whichever of them the server sends.

The rules compare a fragment with the call at its index. A fragment without an index is compared with the call at its
position among several in one chunk, else with the last call.

1. The fragment has no id, or the same id: it continues the call. It starts a new call if the call has a name and closed
   JSON arguments, and the fragment has a name and arguments, or another name and no index. If the server sends a call
   with an id again, under the same id or none, this is a repetition, even if the arguments have other blanks or are
   encoded twice. So are the arguments alone, since nothing can follow closed JSON.
2. The fragment has the id of another call: its index is wrong (Gemini), and it continues the other call. It starts a
   new call that shares the id if it has a name and an index of its own, and either has no arguments yet or arrived in
   one chunk with the other call.
3. The fragment has an id and the call has none: the id arrived late.
4. The ids differ: the fragment starts a new call under a used index if it has a name, and the call has arguments, or
   both arrived in one chunk, or both ids start alike or have the same length. Otherwise it has the next piece of the
   id, unless it looks like a whole id (LiteLLM generates a new one for each chunk): then it continues the call, which
   keeps its first id.
"""

import json
import re
from typing import Any

from tailrace.schemas.interface_options import InterfaceOptions
from tailrace.worker.interface.calls.tool_call_builder import ToolCallBuilder
from tailrace.worker.interface.delta_emitter import DeltaEmitter
from tailrace.worker.interface.lenient import is_shallow, replace_lone_surrogates_in

_ALIKE = 4
"""Ids of one server start alike (`call_`, `toolu_`, `chatcmpl-tool-`); two pieces of one id do not."""

_RANDOM = 8
"""Ids that are random from the first character have the same length, which is at least this (9 at Mistral)."""

_WHOLE_ID = re.compile(r"(call|tool|toolu|tooluse|chatcmpl-tool|fc)[-_]\w{4}")
_JSON = json.JSONDecoder(strict=False)

FUNCTION_CALL_INDEX = -1
"""The index of the single `function_call` of old servers."""


class ToolCallTable:
    """The calls of one response, in the order in which they started.

    Args:
        emitter: gets what the calls show.
        options: those of the request.
    """

    __slots__ = ("_by_id", "_by_index", "_emitter", "_in_chunk", "_last", "_options", "calls")

    def __init__(self, emitter: DeltaEmitter, options: InterfaceOptions) -> None:
        self._emitter = emitter
        self._options = options
        self.calls: list[ToolCallBuilder] = []
        self._by_index: dict[int, ToolCallBuilder] = {}
        self._by_id: dict[str, ToolCallBuilder] = {}
        self._last: ToolCallBuilder | None = None
        self._in_chunk: list[ToolCallBuilder] = []

    @property
    def last_name(self) -> str:
        """The name of the call that the last fragment belonged to."""
        return self._last.tool_name if self._last else ""

    def begin_chunk(self) -> None:
        """Starts a chunk: the fragments that follow arrived in it."""
        self._in_chunk = []

    def add_fragment(self, index: int | None, call_id: str, name: str, arguments: str, kind: str = "function") -> bool:
        """Adds one fragment; members that it lacks are empty.

        Returns:
            False if it was a repetition of a whole call and was left out.
        """
        here = self._last if index is None else self._by_index.get(index)
        if here is not None and not call_id and not name:
            self._last = here
            if here.kind == "function" and _repeats_arguments(here, arguments):
                return False
            here.add_arguments(arguments)
            return True
        if here is not None and call_id in ("", here.call_id) and _repeats_call(here, name, arguments):
            return False
        here = self._find_call(here, index, call_id, name, arguments) or self._start_call(kind)
        self._in_chunk.append(here)
        if index is not None:
            self._by_index[index] = here
        self._last = here
        if call_id and not _is_another_id(call_id, here.call_id):
            self._by_id.pop(here.call_id, None)  # a part of an id is not the id
            here.add_id(call_id)
            self._by_id[here.call_id] = here
        here.add_name(name)
        here.add_arguments(arguments)
        return True

    def keep_extra(self, index: int | None, extra: dict[str, Any]) -> None:
        """Keeps members of a fragment that must go back to the server with its call."""
        call = self._last if index is None else self._by_index.get(index, self._last)
        if call is not None and is_shallow(extra):
            call.extra = {**(call.extra or {}), **replace_lone_surrogates_in(extra)}

    def _find_call(
        self, here: ToolCallBuilder | None, index: int | None, call_id: str, name: str, arguments: str
    ) -> ToolCallBuilder | None:
        """The call that the fragment continues; None if it starts a new one."""
        if here is not None and call_id in ("", here.call_id):
            return None if _starts_anew(here, index, name, arguments) else here
        if (known := self._by_id.get(call_id)) is not None:
            shared = here is None and index is not None and (not arguments or known in self._in_chunk)
            return None if name and (shared or known.closed or name != known.tool_name) else known
        if here is None:
            return None
        if not here.call_id:
            return None if _starts_anew(here, index, name, arguments) else here
        another = (name and (here.has_arguments or here in self._in_chunk or _look_random(call_id, here.call_id))) or (
            _is_another_id(call_id, here.call_id) and (name or (arguments.strip() and here.closed))
        )
        return None if another else here

    def _start_call(self, kind: str) -> ToolCallBuilder:
        call = ToolCallBuilder(len(self.calls), self._emitter, self._options, kind)
        self.calls.append(call)
        return call


def _starts_anew(here: ToolCallBuilder, index: int | None, name: str, arguments: str) -> bool:
    if not (name and here.tool_name):
        return False
    return bool(arguments.strip() or (index is None and name != here.tool_name)) and here.closed


def _is_another_id(call_id: str, known: str) -> bool:
    """Whether an id is neither the known one nor a piece of it."""
    if not known or call_id == known:
        return False
    alike = call_id[:_ALIKE] == known[:_ALIKE] and len(call_id) > _ALIKE
    return alike or _WHOLE_ID.match(call_id) is not None


def _look_random(call_id: str, known: str) -> bool:
    return len(call_id) == len(known) >= _RANDOM


def _repeats_call(here: ToolCallBuilder, name: str, arguments: str) -> bool:
    if not (here.kind == "function" and here.call_id and arguments.strip() and name == here.tool_name and here.closed):
        return False
    return here.arguments_text == arguments or _meaning(here.arguments_text) == _meaning(arguments)


def _meaning(arguments: str) -> object:
    """The value of JSON, also of JSON inside a JSON string; the text itself if it is not JSON."""
    try:
        value = _JSON.decode(arguments)
        return _JSON.decode(value) if isinstance(value, str) else value
    except (ValueError, RecursionError):
        return arguments


def _repeats_arguments(here: ToolCallBuilder, arguments: str) -> bool:
    if not (
        arguments.startswith("{") and arguments.endswith("}")
    ):  # true of most fragments; the checks below read the whole text
        return False
    return here.arguments_size == len(arguments) and here.arguments_text == arguments and here.closed
