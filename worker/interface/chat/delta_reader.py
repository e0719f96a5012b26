"""Reads the deltas of one answer: reasoning, text, refusal and calls, in this order within a chunk.

Owns what each field of a delta means, and what a whole message adds to the deltas before it. Knows nothing of chunks,
choices, finish reasons or errors.
"""

from typing import Any

from tailrace.schemas.interface_options import InterfaceOptions
from tailrace.worker.interface.calls.tool_call_table import FUNCTION_CALL_INDEX, ToolCallTable
from tailrace.worker.interface.chat.chunk import CallFragment, ChunkDelta
from tailrace.worker.interface.chat.message_extra import MessageExtra
from tailrace.worker.interface.chat.texts import ChatTexts
from tailrace.worker.interface.content_parts import reasoning_details_text
from tailrace.worker.interface.delta_emitter import DeltaEmitter
from tailrace.worker.interface.stream_notes import StreamNotes


class ChatDeltaReader:
    """Passes the deltas of one answer to the emitter.

    Args:
        options: those of the request.
        notes: gets a note if the server contradicts itself.
    """

    def __init__(self, options: InterfaceOptions, notes: StreamNotes) -> None:
        self.emitter = DeltaEmitter()
        self.calls = ToolCallTable(self.emitter, options)
        self._notes = notes
        self._texts = ChatTexts(self.emitter, options.think_tags)
        self._message_extra = MessageExtra()
        self._has_reasoning_field = False  # reasoning arrived in a field of its own, so that details only repeat it

    @property
    def has_shown_nothing(self) -> bool:
        """Whether neither text nor a call has been shown so far."""
        emitter = self.emitter
        return not (emitter.content_text or emitter.reasoning_text or emitter.refusal_text or self.calls.calls)

    @property
    def message_extra(self) -> dict[str, Any] | None:
        """The members that go back with the calls, and the content, if text of calls was also shown as content."""
        emitter = self.emitter
        extra = self._message_extra.members(emitter.native_reasoning_text)
        if emitter.own_content_text != emitter.content_text:
            extra["content"] = emitter.own_content_text
        return extra or None

    def add_text(self, text: str, loose: bool) -> None:
        """Adds a piece of the text for the user; `loose` means that it may start or end with half a character."""
        self._texts.add_content(text, loose)

    def drain(self) -> None:
        """Passes on everything that is still held back."""
        for index, text in self._texts.drain().items():
            self.calls.add_fragment(int(index) if index else None, "", "", text)
        for call in self.calls.calls:
            call.drain()

    def read_delta(self, delta: ChunkDelta, loose: bool) -> None:
        """Reads one delta; `loose` means that its texts may start or end with half a character."""
        if delta.reasoning_content is not None:
            self._message_extra.has_reasoning_content = True
        if delta.reasoning_details or delta.thinking_blocks:
            self._message_extra.add_blocks(delta.reasoning_details, delta.thinking_blocks)
        if delta.reasoning_content or delta.reasoning or delta.reasoning_text or delta.thinking:
            self._has_reasoning_field = True
            self._texts.add_reasoning(self._joined_reasoning(delta), loose)
        elif delta.reasoning_details:
            text = reasoning_details_text(delta.reasoning_details)
            if not self._has_reasoning_field or text != self.emitter.reasoning_text:
                self._texts.add_reasoning(text, True)
        if delta.content:
            self._texts.add_content(delta.content, loose)
        if delta.refusal:
            self._texts.add_refusal(delta.refusal, loose)
        if delta.tool_calls:
            self._read_calls(delta.tool_calls, loose)
        elif delta.function_call is not None:  # together with tool calls it only repeats them for old clients
            function = delta.function_call
            self._add_call(FUNCTION_CALL_INDEX, "", function.name or "", function.arguments or "", "function", loose)

    def read_message(self, message: ChunkDelta, loose: bool, *, only_repeats: bool) -> None:
        """Reads the whole answer, or all of it so far: only the part that the deltas lacked is used.

        Args:
            message: the message, which arrived instead of a delta, or beside an empty one.
            loose: its texts may start or end with half a character.
            only_repeats: whether there is a delta beside it, so that it has nothing new unless there were no deltas.
        """
        if message.reasoning_content is not None:
            self._message_extra.has_reasoning_content = True
        emitter = self.emitter
        repeats_calls = only_repeats and bool(self.calls.calls)
        self.read_delta(
            ChunkDelta(
                content=self._missing_part(message.content, emitter.content_text, only_repeats),
                refusal=self._missing_part(message.refusal, emitter.refusal_text, only_repeats),
                reasoning=self._missing_part(self._joined_reasoning(message), emitter.reasoning_text, only_repeats),
                reasoning_details=None if emitter.reasoning_text else message.reasoning_details,
                thinking_blocks=None if emitter.reasoning_text else message.thinking_blocks,
                tool_calls=None if repeats_calls else message.tool_calls,
                function_call=None if repeats_calls else message.function_call,
            ),
            loose,
        )

    def _joined_reasoning(self, delta: ChunkDelta) -> str:
        """The reasoning, which several fields may carry: once if they agree, all of it if they do not."""
        joined = ""
        for text in (delta.reasoning_content, delta.reasoning, delta.reasoning_text, delta.thinking):
            if not text or text in joined:
                continue
            if joined and joined not in text:
                self._notes.add_note("the fields for reasoning differ within a chunk: all are kept")
                joined += text
            else:
                joined = text
        return joined

    def _missing_part(self, whole: str | None, known: str | None, only_repeats: bool) -> str | None:
        if not whole or not known:
            return whole
        if whole.startswith(known):
            return whole[len(known) :]
        if only_repeats or whole.strip() == known.strip():
            if whole.strip() != known.strip():
                self._notes.add_note("a message that differs from the deltas before it was left out")
            return None
        return whole

    def _read_calls(self, fragments: list[CallFragment], loose: bool) -> None:
        self.calls.begin_chunk()
        for position, fragment in enumerate(fragments):
            index = position if fragment.index is None and len(fragments) > 1 else fragment.index
            function = fragment.function
            if function is not None:
                name, arguments, kind = function.name, function.arguments, "function"
            elif fragment.custom is not None:
                name, arguments, kind = fragment.custom.name, fragment.custom.input, "custom"
            else:
                name, arguments, kind = fragment.name, fragment.arguments, "function"
            self._add_call(index, fragment.id or "", name or "", arguments or "", kind, loose)
            if fragment.extra_content:
                self.calls.keep_extra(index, {"extra_content": fragment.extra_content})

    def _add_call(self, index: int | None, call_id: str, name: str, arguments: str, kind: str, loose: bool) -> None:
        if loose or self._texts.joining:
            arguments = self._texts.join_halves("" if index is None else str(index), arguments, loose)
        if not (call_id or name or arguments):
            return
        if not self.calls.add_fragment(index, call_id, name, arguments, kind):
            self._notes.add_note(f"a repetition of the whole call of {name or self.calls.last_name!r} was left out")
