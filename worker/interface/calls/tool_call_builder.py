"""Builds one tool call: name, id and arguments arrive in fragments, and the part that can be shown goes to the emitter.

Owns the order (reasoning, then the name with the id, then the arguments), the holding back of the name, and the choice
between showing a tool call and showing assistant text. Knows nothing of chunks or events.
"""

import json
from typing import Any

from tailrace.schemas.interface_options import InterfaceOptions
from tailrace.schemas.outcome import ToolCall
from tailrace.worker.interface.calls.arguments import (
    ArgumentsView,
    ArgumentsWithoutThoughts,
    AssistantText,
    PlainArguments,
)
from tailrace.worker.interface.delta_emitter import DeltaEmitter

_JSON = json.JSONDecoder(strict=False)


class ToolCallBuilder:
    """One call of a response.

    Args:
        number: the position of the call in the response, from 0; its deltas carry it.
        emitter: gets what is to be shown.
        options: those of the request.
        kind: `function`, or another kind of call, whose input is free text that is shown unchanged.
    """

    __slots__ = (
        "_blank",
        "_emitter",
        "_held",
        "_id",
        "_name",
        "_nameable",
        "_named",
        "_options",
        "_raw",
        "_view",
        "_waiting",
        "arguments_size",
        "extra",
        "kind",
        "number",
    )

    def __init__(self, number: int, emitter: DeltaEmitter, options: InterfaceOptions, kind: str = "function") -> None:
        self.number = number
        self.kind = kind
        self._emitter = emitter
        self._options = options
        self._name = ""
        self._id = ""
        self._raw: list[str] = []
        self.arguments_size = 0
        """How many characters of arguments have arrived."""
        self.extra: dict[str, Any] | None = None
        """Other members of the call that must go back to the server."""
        self._blank = True
        self._view: ArgumentsView | None = None  # None until it is known how to show the call
        self._held: list[str] = []  # arguments from before that
        self._nameable = False  # whether no more reasoning can precede the name
        self._named = False
        self._waiting: list[str] = []  # arguments to show after the name

    @property
    def tool_name(self) -> str:
        """The name as far as it is known."""
        return self._name

    @property
    def call_id(self) -> str:
        """The provider's id as far as it is known."""
        return self._id

    @property
    def has_arguments(self) -> bool:
        """Whether some of the arguments have arrived."""
        return bool(self._raw)

    @property
    def arguments_text(self) -> str:
        """The raw arguments so far."""
        return "".join(self._raw)

    @property
    def closed(self) -> bool:
        """Whether the arguments so far are a complete JSON object."""
        if self._view is not None and self._view.closed is not None:
            return self._view.closed
        return bool(self._raw) and self._raw[-1].rstrip().endswith("}") and _is_json(self.arguments_text)

    def add_name(self, fragment: str) -> None:
        """Adds a fragment of the name; one that equals the name so far is a repetition."""
        if not fragment or fragment == self._name:
            return
        self._name += fragment
        if self._named:
            self._emitter.add_tool_name(self.number, fragment, None)
        elif self._view is None:
            self._decide_view()
        else:
            self._show_name()

    def add_id(self, fragment: str) -> None:
        """Adds a fragment of the id; one that equals the id so far is a repetition."""
        if not fragment or fragment == self._id:
            return
        self._id += fragment
        if self._named:
            self._emitter.add_tool_name(self.number, None, fragment)

    def add_arguments(self, fragment: str) -> None:
        """Adds a fragment of the arguments."""
        if not fragment:
            return
        self._raw.append(fragment)
        self.arguments_size += len(fragment)
        if self._blank and not fragment.isspace():
            self._blank = False
        if self._view is not None:
            self._view.feed(fragment)
        else:
            self._held.append(fragment)
            self._decide_view()

    def drain(self) -> None:
        """Ends the call, complete or not, and shows what was held back. Missing arguments become `{}`."""
        if self._blank and self.kind == "function":
            self.add_arguments("{}")
        if self._view is None:
            self._make_view(assistant=self._is_assistant_tool(self._name))
        if self._view is not None:
            self._view.drain()
        self._nameable = True
        self._show_name(even_empty=True)

    def build(self, *, answer_ended: bool) -> ToolCall:
        """The call for the outcome. Call `drain` first.

        Args:
            answer_ended: whether the model ended normally; if not, no call counts as complete.
        """
        arguments = self.arguments_text
        complete = answer_ended and (self.kind != "function" or _is_json(arguments))
        return ToolCall(self._id or None, self._name, arguments, complete, self.kind, self.extra)

    def _is_assistant_tool(self, name: str) -> bool:
        options = self._options
        return options.use_assistant_message and self.kind == "function" and name == options.assistant_message_tool_name

    def _decide_view(self) -> None:
        """Chooses how to show the call, once it is certain whether its name is that of the assistant tool."""
        options = self._options
        if options.use_assistant_message and self.kind == "function":
            if self._is_assistant_tool(self._name):
                if self._held:
                    self._make_view(assistant=True)
                return
            if options.assistant_message_tool_name.startswith(self._name):
                return
        self._make_view(assistant=False)

    def _make_view(self, *, assistant: bool) -> None:
        options = self._options
        takes_out = options.put_inner_thoughts_in_kwarg and self.kind == "function"
        thoughts_key = options.inner_thoughts_kwarg if takes_out else None
        view: ArgumentsView
        if assistant:
            content_key = options.assistant_message_tool_kwarg
            view = AssistantText(content_key, thoughts_key, self._show_content, self._show_thought)
        elif thoughts_key is not None:
            view = ArgumentsWithoutThoughts(thoughts_key, self._show_arguments, self._show_thought, self._make_nameable)
        else:
            view = PlainArguments(self._show_arguments)
        self._view = view
        if isinstance(view, PlainArguments):
            self._make_nameable()
        held, self._held = "".join(self._held), []
        view.feed(held)

    def _show_thought(self, text: str) -> None:
        self._emitter.add_reasoning(text, "non_reasoner_model", self.number)

    def _show_content(self, text: str) -> None:
        self._emitter.add_content(text, self.number)

    def _show_arguments(self, text: str) -> None:
        if self._named:
            self._emitter.add_tool_arguments(self.number, text)
        elif text:
            self._waiting.append(text)

    def _make_nameable(self) -> None:
        if not self._nameable:
            self._nameable = True
            self._show_name()

    def _show_name(self, *, even_empty: bool = False) -> None:
        """Shows the name with the id, then the arguments that waited for it. Assistant text has no name."""
        if self._named or not self._nameable or not (self._name or even_empty):
            return
        if isinstance(self._view, AssistantText):
            return
        self._named = True
        self._emitter.add_tool_name(self.number, self._name, self._id or None)
        waiting, self._waiting = self._waiting, []
        self._emitter.add_tool_arguments(self.number, "".join(waiting))


def _is_json(text: str) -> bool:
    try:
        _JSON.decode(text)
    except (ValueError, RecursionError):  # nested too deeply: no reader could decode it either
        return False
    return True
