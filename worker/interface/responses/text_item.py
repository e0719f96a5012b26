"""A message or a reasoning item while it streams."""

from tailrace.worker.interface.responses.event import JsonObject
from tailrace.worker.interface.responses.item import ResponseItem
from tailrace.worker.interface.responses.item_emitter import ItemEmitter
from tailrace.worker.interface.responses.text_part import (
    REASONING,
    REASONING_JOINT,
    TextChannel,
    TextPart,
    texts_of_item,
)


class TextItem(ResponseItem):
    """A message or a reasoning item: texts in channels, each of one or more parts.

    A reasoning item may have the reasoning and a summary of it. The channel that has text first is emitted at once. The
    other one waits for the item's end, and is then emitted unless it repeats the first.
    """

    def __init__(self, family: str, emitter: ItemEmitter) -> None:
        super().__init__(family, emitter)
        self._parts: dict[TextChannel, dict[int, TextPart]] = {}
        self._first_channel: TextChannel | None = None
        self._waiting: list[tuple[TextChannel, TextPart, str]] = []

    def announce(self, item: JsonObject) -> None:
        """Reads the item as it was added; it may already have texts."""
        for channel, texts in texts_of_item(item).items():
            for index, text in enumerate(texts):
                self.open_part(channel, index, text)

    def open_part(self, channel: TextChannel, index: int | None, text: str) -> None:
        """Reads a part as it was added; it may already have a text."""
        if text:
            self._part(channel, index).set_opening(text)

    def add_piece(self, channel: TextChannel, index: int | None, text: str) -> None:
        """Adds a delta to a part."""
        part = self._part(channel, index)
        self._emit(channel, part, part.add_piece(text))

    def set_final_text(self, channel: TextChannel, index: int | None, value: str) -> None:
        """Reads the final value of one part, or of all of them if the server gave each piece a part of its own."""
        if self._is_sum_of_parts(channel, index, value):
            for part in self._parts_with_text(channel):
                part.set_final_value(part.value)
        else:
            self._set_final_value(channel, self._part(channel, index), value)

    def finish(self, item: JsonObject) -> None:
        """Reads the complete item, at its end or in the terminal event."""
        for channel, values in texts_of_item(item).items():
            self._set_final_values(channel, values)
        self.keep_finished(item)
        self.drain()

    def drain(self) -> None:
        """Emits what was held back."""
        for channel, parts in self._parts.items():
            for part in parts.values():
                self._emit(channel, part, part.drain())
        waiting, self._waiting = self._waiting, []
        for channel, part, text in waiting:
            if not self._repeats(channel):
                self._emitter.emit_text(channel, part, text)

    def conclude(self, emitter: ItemEmitter) -> None:
        """Emits the final texts on another emitter."""
        for channel in sorted(self._parts, key=lambda each: each != self._first_channel):
            if not self._repeats(channel):
                for part in self._parts_with_text(channel):
                    emitter.emit_text(channel, part, part.value)

    def as_message(self) -> JsonObject | None:
        """The message to send back to the server: the finished item, else the text so far; None if it has no text."""
        if self.finished is not None:
            return self.finished if self.finished.get("content") else None
        texts = [{"type": "output_text", "text": part.value} for part in self._parts_with_text("content")]
        refusals = [{"type": "refusal", "refusal": part.value} for part in self._parts_with_text("refusal")]
        content = texts + refusals
        return {"type": "message", "role": "assistant", "content": content} if content else None

    def _part(self, channel: TextChannel, index: int | None) -> TextPart:
        parts = self._parts.setdefault(channel, {})
        if index is None:
            index = max(parts, default=0)
        if index not in parts:
            parts[index] = TextPart()
        return parts[index]

    def _is_sum_of_parts(self, channel: TextChannel, index: int | None, value: str) -> bool:
        parts = self._parts.get(channel, {})
        if index is None or not value or any(part.settled for part in parts.values()):
            return False
        is_only_part = index in parts and len(parts) == 1  # the usual case
        return not is_only_part and value == "".join(part.value for part in self._parts_with_text(channel))

    def _parts_with_text(self, channel: TextChannel) -> list[TextPart]:
        """The parts that have a text, in order."""
        parts = self._parts.get(channel, {})
        return [parts[index] for index in sorted(parts) if parts[index].value]

    def _emit(self, channel: TextChannel, part: TextPart, text: str) -> None:
        if not text:
            return
        if channel in REASONING:
            self._first_channel = self._first_channel or channel
            if channel != self._first_channel:
                self._waiting.append((channel, part, text))
                return
        self._emitter.emit_text(channel, part, text)

    def _repeats(self, channel: TextChannel) -> bool:
        """Whether this is a channel of reasoning that only repeats text of the first channel."""
        if channel not in REASONING or self._first_channel is None or channel == self._first_channel:
            return False
        return self._text(channel).strip() in self._text(self._first_channel)

    def _text(self, channel: TextChannel) -> str:
        return REASONING_JOINT.join(part.value for part in self._parts_with_text(channel))

    def _set_final_value(self, channel: TextChannel, part: TextPart, value: str) -> None:
        rest, agrees = part.set_final_value(value)
        self._emit(channel, part, rest)
        if not agrees:
            self._note_difference(channel)

    def _set_final_values(self, channel: TextChannel, values: list[str]) -> None:
        """Compares part by part if there are as many, else as one text: servers number and divide parts differently."""
        parts = self._parts_with_text(channel) or [self._part(channel, index) for index in range(len(values))]
        if len(parts) == len(values):
            for part, value in zip(parts, values, strict=True):
                self._set_final_value(channel, part, value)
            return
        joint = REASONING_JOINT if channel in REASONING else ""
        shown, value = joint.join(part.value for part in parts), joint.join(values)
        if value.startswith(shown):
            self._set_final_value(channel, parts[-1], parts[-1].value + value[len(shown) :])
            return
        self._note_difference(channel)
        if not any(part.settled for part in parts):
            for part in parts:
                part.replace_value("")
            parts[0].replace_value(value)
