"""The items of a response while they stream: what each has said so far, and what it says in the end.

An item gets pieces (deltas) and whole values (`done` events, the finished item, the terminal event's output). It says
the pieces at once, and of a whole value what the pieces left out. Where the two differ the whole value stands in the
outcome, with a note. Knows nothing of event types, nor of which item an event means: that is `responses.py`.
"""

from msgspec.structs import replace

from tailrace.schemas.outcome import ToolCall
from tailrace.worker.interface.calls.call import CallState
from tailrace.worker.interface.lenient import as_text, is_shallow
from tailrace.worker.interface.responses.event import JsonObject, arguments_text
from tailrace.worker.interface.responses.text import REASONING, REASONING_JOINT, Channel, Part, Stage, texts_of_item

_CALL_MEMBERS = frozenset({"type", "call_id", "name", "arguments", "input"})
"""What a call in the outcome has fields for."""


class _Item:
    """What all items have.

    Attributes:
        family: the item's type.
        id, index: what the server calls it, as far as it has said.
        finished: the whole item, once it came.
    """

    def __init__(self, family: str, stage: Stage) -> None:
        self.family = family
        self.id: str | None = None
        self.index: int | None = None
        self.finished: JsonObject | None = None
        self._stage = stage

    @property
    def label(self) -> str:
        """How notes name it."""
        return f"{self.family} {self.id or self.index or ''}".rstrip()

    def keep(self, item: JsonObject) -> None:
        """The first whole item stands, unless only a later one has the encrypted reasoning."""
        sealed = "encrypted_content"
        if not is_shallow(item):
            self._stage.note(f"{self.label}: nested too deeply to be kept")
        elif self.finished is None or (item.get(sealed) and not self.finished.get(sealed)):
            self.finished = item

    def _differs(self, what: str) -> None:
        self._stage.note(f"{self.label}: the whole value of its {what} differs from its pieces; the whole value stands")


class TextItem(_Item):
    """A message or a reasoning item: texts in channels, each of one or more parts.

    A reasoning item may have the reasoning and a summary of it. The channel that speaks first is said as it comes; the
    other one waits for the item's end, and is said then unless it is the same text once more.
    """

    def __init__(self, family: str, stage: Stage) -> None:
        super().__init__(family, stage)
        self._parts: dict[Channel, dict[int, Part]] = {}
        self._leads: Channel | None = None
        self._waiting: list[tuple[Channel, Part, str]] = []

    def announce(self, item: JsonObject) -> None:
        """The item was added; it may come with texts already."""
        for channel, texts in texts_of_item(item).items():
            for index, text in enumerate(texts):
                self.open(channel, index, text)

    def open(self, channel: Channel, index: int | None, text: str) -> None:
        """A part was added, perhaps with a text."""
        if text:
            self._part(channel, index).open(text)

    def piece(self, channel: Channel, index: int | None, text: str) -> None:
        """A delta."""
        part = self._part(channel, index)
        self._say(channel, part, part.append(text))

    def settle(self, channel: Channel, index: int | None, value: str) -> None:
        """The whole value of one part; of all of them, where a server counted up the part with each piece."""
        if self._is_sum(channel, index, value):
            for part in self._in_order(channel):
                part.settle(part.value)
        else:
            self._settle(channel, self._part(channel, index), value)

    def finish(self, item: JsonObject) -> None:
        """The whole item, at its end or in the terminal event."""
        for channel, values in texts_of_item(item).items():
            self._settle_all(channel, values)
        self.keep(item)
        self.drain()

    def drain(self) -> None:
        """Says what was held back."""
        for channel, parts in self._parts.items():
            for part in parts.values():
                self._say(channel, part, part.drain())
        waiting, self._waiting = self._waiting, []
        for channel, part, text in waiting:
            if not self._repeats(channel):
                self._stage.say(channel, part, text)

    def conclude(self, stage: Stage) -> None:
        """Says what it came to, on another stage."""
        for channel in sorted(self._parts, key=lambda each: each != self._leads):
            if not self._repeats(channel):
                for part in self._in_order(channel):
                    stage.say(channel, part, part.value)

    def as_message(self) -> JsonObject | None:
        """The message to send back to the server: the finished item, or what came of it; None if it has no text."""
        if self.finished is not None:
            return self.finished if self.finished.get("content") else None
        texts = [{"type": "output_text", "text": part.value} for part in self._in_order("content")]
        refusals = [{"type": "refusal", "refusal": part.value} for part in self._in_order("refusal")]
        content = texts + refusals
        return {"type": "message", "role": "assistant", "content": content} if content else None

    def _part(self, channel: Channel, index: int | None) -> Part:
        parts = self._parts.setdefault(channel, {})
        if index is None:
            index = max(parts, default=0)
        if index not in parts:
            parts[index] = Part()
        return parts[index]

    def _is_sum(self, channel: Channel, index: int | None, value: str) -> bool:
        parts = self._parts.get(channel, {})
        if index is None or not value or any(part.settled for part in parts.values()):
            return False
        said = index in parts and len(parts) == 1  # the usual case: one part, which settles itself
        return not said and value == "".join(part.value for part in self._in_order(channel))

    def _in_order(self, channel: Channel) -> list[Part]:
        """The parts that have a text."""
        parts = self._parts.get(channel, {})
        return [parts[index] for index in sorted(parts) if parts[index].value]

    def _say(self, channel: Channel, part: Part, text: str) -> None:
        if not text:
            return
        if channel in REASONING:
            self._leads = self._leads or channel
            if channel != self._leads:
                self._waiting.append((channel, part, text))
                return
        self._stage.say(channel, part, text)

    def _repeats(self, channel: Channel) -> bool:
        """A channel of reasoning that says nothing but what the first one has said."""
        if channel not in REASONING or self._leads is None or channel == self._leads:
            return False
        return self._text(channel).strip() in self._text(self._leads)

    def _text(self, channel: Channel) -> str:
        return REASONING_JOINT.join(part.value for part in self._in_order(channel))

    def _settle(self, channel: Channel, part: Part, value: str) -> None:
        rest, agreed = part.settle(value)
        self._say(channel, part, rest)
        if not agreed:
            self._differs(channel)

    def _settle_all(self, channel: Channel, values: list[str]) -> None:
        """Part by part where there are as many, else as one text: servers number and divide parts as they like."""
        parts = self._in_order(channel) or [self._part(channel, index) for index in range(len(values))]
        if len(parts) == len(values):
            for part, value in zip(parts, values, strict=True):
                self._settle(channel, part, value)
            return
        joint = REASONING_JOINT if channel in REASONING else ""
        said, value = joint.join(part.value for part in parts), joint.join(values)
        if value.startswith(said):
            self._settle(channel, parts[-1], parts[-1].value + value[len(said) :])
            return
        self._differs(channel)
        if not any(part.settled for part in parts):
            for part in parts:
                part.replace("")
            parts[0].replace(value)


class CallItem(_Item):
    """A call of the caller's own tool: of a function with JSON arguments, or of a custom tool with free text.

    Args:
        number: which call of the response, from 0.
    """

    def __init__(self, family: str, number: int, stage: Stage) -> None:
        super().__init__(family, stage)
        self.call_id: str | None = None
        self._custom = family == "custom_tool_call"
        self._number = number
        self._name: str | None = None
        self._part = Part()
        self._status: str | None = None
        self._call = self._new_call(stage)

    def announce(self, item: JsonObject) -> None:
        """The item was added; it may come with arguments already."""
        self._introduce(item)
        text = self._text_of(item)
        if self._custom or text.strip() != "{}":  # says that nothing is there yet: nothing can go on from it
            self._part.open(text)

    def piece(self, text: str) -> None:
        """A delta of the arguments or the input."""
        self._call.arguments(self._part.append(text))

    def settle(self, value: str, name: str | None = None) -> None:
        """The whole value of the arguments or the input."""
        self._introduce({"name": name})
        rest, agreed = self._part.settle(value)
        self._call.arguments(rest)
        if not agreed:
            self._differs("input" if self._custom else "arguments")

    def finish(self, item: JsonObject) -> None:
        """The whole item, at its end or in the terminal event."""
        self._introduce(item)
        if self.finished is None:
            self._correct(item)
        self.settle(self._text_of(item))
        self._status = as_text(item.get("status")) or self._status
        self.keep(item)
        if self._part.value.strip():
            self._call.drain()

    def drain(self) -> None:
        """Says what was held back."""
        self._call.arguments(self._part.drain())
        self._call.drain()

    def conclude(self, stage: Stage, completed: bool) -> ToolCall:
        """Says the call as it came out, on another stage; gives it for the outcome.

        Args:
            completed: whether the response as a whole came to its end.
        """
        call = self._new_call(stage)
        call.id(self.call_id or "")
        call.name(self._name or "")
        call.arguments(self._part.value)
        call.drain()
        ended = completed or self.finished is not None or self._part.settled
        result = call.result(ended and self._status != "incomplete")
        return replace(result, extra=self._extra())

    def _extra(self) -> JsonObject | None:
        """What the finished item has beside the call itself, such as its id and the tool's namespace."""
        members = (self.finished or {}).items()
        return {name: value for name, value in members if name not in _CALL_MEMBERS and value not in (None, "")} or None

    def _introduce(self, item: JsonObject) -> None:
        if self.call_id is None and (call_id := as_text(item.get("call_id"))):
            self.call_id = call_id
            self._call.id(call_id)
        if self._name is None and (name := as_text(item.get("name"))):
            self._name = name
            self._call.name(name)

    def _correct(self, item: JsonObject) -> None:
        """Id and name as the finished item has them stand in the outcome: some servers make up new ones for it."""
        call_id, name = as_text(item.get("call_id")), as_text(item.get("name"))
        if call_id and call_id != self.call_id:
            self._differs("call_id")
            self.call_id = call_id
        if name and name != self._name:
            self._differs("name")
            self._name = name

    def _new_call(self, stage: Stage) -> CallState:
        return CallState(self._number, stage.emitter, stage.options, "custom" if self._custom else "function")

    def _text_of(self, item: JsonObject) -> str:
        return arguments_text(item.get("input" if self._custom else "arguments")) or ""


class HostedItem(_Item):
    """An item of a tool that the provider runs itself, or of a type not known here.

    A tool's start is shown as a tool-call delta with its type for a name and without arguments, under a number below
    zero: the caller has nothing to run, and the outcome's tool calls do not list it. The finished item is kept.

    Args:
        number: below zero, each its own.
    """

    def __init__(self, family: str, number: int, stage: Stage) -> None:
        super().__init__(family, stage)
        self._number = number

    def announce(self, item: JsonObject) -> None:
        """The item was added."""
        if self.family.endswith("_call") or self.family.startswith("mcp_"):
            self._stage.emitter.tool_name(self._number, self.family, as_text(item.get("id")))

    def finish(self, item: JsonObject) -> None:
        """The whole item, at its end or in the terminal event."""
        self.keep(item)
        if item.get("status") == "failed" or item.get("error"):
            self._stage.note(f"{self.label}: the provider's tool failed")

    def drain(self) -> None:
        """It holds nothing back."""


Item = TextItem | CallItem | HostedItem


def family_of(item: JsonObject) -> str:
    """The item's type; where it is missing, what its fields look like."""
    given = as_text(item.get("type"))
    if given:
        return given
    if "arguments" in item:
        return "function_call"
    return "reasoning" if "summary" in item else "message"
