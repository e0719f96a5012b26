"""A call of the caller's own tool while it streams."""

from msgspec.structs import replace

from tailrace.schemas.outcome import ToolCall
from tailrace.worker.interface.calls.tool_call_builder import ToolCallBuilder
from tailrace.worker.interface.lenient import as_text
from tailrace.worker.interface.responses.event import JsonObject, arguments_text
from tailrace.worker.interface.responses.item import ResponseItem
from tailrace.worker.interface.responses.item_emitter import ItemEmitter
from tailrace.worker.interface.responses.text_part import TextPart

_CALL_MEMBERS = frozenset({"type", "call_id", "name", "arguments", "input"})
"""The members of an item that have their own fields in the outcome's calls."""


class CallItem(ResponseItem):
    """A call of a function with JSON arguments, or of a custom tool with free text.

    Args:
        number: the position of the call in the response, from 0.
    """

    def __init__(self, family: str, number: int, emitter: ItemEmitter) -> None:
        super().__init__(family, emitter)
        self.call_id: str | None = None
        self._custom = family == "custom_tool_call"
        self._number = number
        self._name: str | None = None
        self._part = TextPart()
        self._status: str | None = None
        self._call = self._new_builder(emitter)

    def announce(self, item: JsonObject) -> None:
        """Reads the item as it was added; it may already have arguments."""
        self._read_id_and_name(item)
        text = self._arguments_of(item)
        if self._custom or text.strip() != "{}":  # `{}` means that there are none yet: nothing can continue it
            self._part.set_opening(text)

    def add_piece(self, text: str) -> None:
        """Adds a delta of the arguments or the input."""
        self._call.add_arguments(self._part.add_piece(text))

    def set_final_arguments(self, value: str, name: str | None = None) -> None:
        """Reads the final value of the arguments or the input."""
        self._read_id_and_name({"name": name})
        rest, agrees = self._part.set_final_value(value)
        self._call.add_arguments(rest)
        if not agrees:
            self._note_difference("input" if self._custom else "arguments")

    def finish(self, item: JsonObject) -> None:
        """Reads the complete item, at its end or in the terminal event."""
        self._read_id_and_name(item)
        if self.finished is None:
            self._correct_id_and_name(item)
        self.set_final_arguments(self._arguments_of(item))
        self._status = as_text(item.get("status")) or self._status
        self.keep_finished(item)
        if self._part.value.strip():
            self._call.drain()

    def drain(self) -> None:
        """Emits what was held back."""
        self._call.add_arguments(self._part.drain())
        self._call.drain()

    def conclude(self, emitter: ItemEmitter, *, response_completed: bool) -> ToolCall:
        """Emits the final call on another emitter; returns it for the outcome."""
        call = self._new_builder(emitter)
        call.add_id(self.call_id or "")
        call.add_name(self._name or "")
        call.add_arguments(self._part.value)
        call.drain()
        ended = response_completed or self.finished is not None or self._part.settled
        result = call.build(answer_ended=ended and self._status != "incomplete")
        return replace(result, extra=self._extra())

    def _extra(self) -> JsonObject | None:
        """The other members of the finished item, such as its id and the tool's namespace."""
        members = (self.finished or {}).items()
        return {name: value for name, value in members if name not in _CALL_MEMBERS and value not in (None, "")} or None

    def _read_id_and_name(self, item: JsonObject) -> None:
        if self.call_id is None and (call_id := as_text(item.get("call_id"))):
            self.call_id = call_id
            self._call.add_id(call_id)
        if self._name is None and (name := as_text(item.get("name"))):
            self._name = name
            self._call.add_name(name)

    def _correct_id_and_name(self, item: JsonObject) -> None:
        """Uses id and name of the finished item for the outcome: some servers generate new ones for it."""
        call_id, name = as_text(item.get("call_id")), as_text(item.get("name"))
        if call_id and call_id != self.call_id:
            self._note_difference("call_id")
            self.call_id = call_id
        if name and name != self._name:
            self._note_difference("name")
            self._name = name

    def _new_builder(self, emitter: ItemEmitter) -> ToolCallBuilder:
        kind = "custom" if self._custom else "function"
        return ToolCallBuilder(self._number, emitter.deltas, emitter.options, kind)

    def _arguments_of(self, item: JsonObject) -> str:
        return arguments_text(item.get("input" if self._custom else "arguments")) or ""
