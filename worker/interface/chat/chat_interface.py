"""The interface for Chat Completions: chunks in, deltas and the outcome out.

Owns the order within a chunk (reasoning, text, refusal, calls), which choice is ours, and how the answer ended. Where
servers differ, docs/providers.md says what is done. Knows nothing of SSE, HTTP and time.
"""

from typing import Any

from tailrace.schemas.deltas import Delta, ErrorInfo, Usage
from tailrace.schemas.errors import UpstreamError, UpstreamUnavailable
from tailrace.schemas.interface_options import InterfaceOptions
from tailrace.schemas.outcome import Outcome, Status
from tailrace.worker.interface.calls.call_table import FUNCTION_CALL_INDEX, CallTable
from tailrace.worker.interface.chat.chunk import CallPart, ChatChunk, Choice, ChunkDelta, decode_chunk
from tailrace.worker.interface.chat.message_extra import MessageExtra
from tailrace.worker.interface.chat.texts import ChatTexts
from tailrace.worker.interface.emit import Emitter
from tailrace.worker.interface.finish_reasons import Ending, ending_of, is_reason
from tailrace.worker.interface.lenient import as_integer, as_object, loads
from tailrace.worker.interface.parts import details_text
from tailrace.worker.interface.upstream_error import from_error_object
from tailrace.worker.interface.usage import read_usage

_KEEP_ALIVE_EVENTS = frozenset({"ping", "heartbeat", "keepalive", "keep-alive", "keep_alive"})


class ChatInterface:
    """One model call over Chat Completions (`tailrace.worker.interface.protocol.Interface`).

    Args:
        options: of the request.
    """

    def __init__(self, options: InterfaceOptions) -> None:
        self._emitter = Emitter()
        self._calls = CallTable(self._emitter, options)
        self._texts = ChatTexts(self._emitter, options.think_tags)
        self._message_extra = MessageExtra()
        self._told_plainly = False  # reasoning came in a field of its own, so that details only repeat it
        self._choice: int | None = None
        self._upstream_id: str | None = None
        self._model: str | None = None
        self._usage: Usage | None = None
        self._finish_reason: str | None = None
        self.failure: UpstreamError | None = None
        """The error the server reported inside the stream, if any."""
        self._drained = False
        self._notes: dict[str, None] = {}

    @property
    def ended(self) -> bool:
        """A finish reason was seen."""
        return self._finish_reason is not None

    @property
    def usage(self) -> Usage | None:
        """The token counts so far."""
        return self._usage

    @property
    def model(self) -> str | None:
        """The model, as the server calls it."""
        return self._model

    @property
    def upstream_id(self) -> str | None:
        """The server's id of the answer."""
        return self._upstream_id

    def read(self, event: str, data: bytes, ms: int = 0) -> list[Delta]:
        """Decodes and takes in one event.

        Raises:
            UpstreamProtocol: the data is no JSON.
        """
        if event and event.lower() in _KEEP_ALIVE_EVENTS:
            return []
        if event == "error":
            self.failure = self.failure or from_error_object(_loads_or_text(data))
            return []
        return self.feed(decode_chunk(data), ms)

    def feed(self, chunk: ChatChunk, ms: int = 0) -> list[Delta]:
        """Takes in one chunk."""
        if self._upstream_id is None and chunk.id:
            self._upstream_id = chunk.id
        if self._model is None and chunk.model:
            self._model = chunk.model
        if chunk.usage or chunk.x_groq:
            self._count(chunk)
        if chunk.choices:
            self._read_choices(chunk.choices, chunk.loose)
        if chunk.error or chunk.base_resp or chunk.oddity:
            self._read_trouble(chunk)
        return self._emitter.take(ms)

    def drain(self, ms: int = 0) -> list[Delta]:
        """All that is still held back."""
        if self._drained:
            return []
        self._drained = True
        for index, text in self._texts.drain().items():
            self._calls.add(int(index) if index else None, "", "", text)
        for call in self._calls.calls:
            call.drain()
        if self.failure is None and self._finish_reason and ending_of(self._finish_reason) is Ending.FAILED:
            self.failure = UpstreamUnavailable(
                f"the model's server broke off with finish_reason {self._finish_reason!r}", code="upstream_error"
            )
        return self._emitter.take(ms)

    def finish(self, *, error: ErrorInfo | None = None, cancelled: bool = False) -> Outcome:
        """What the call came to. A call's arguments that are no whole JSON are incomplete, however the answer ended."""
        self.drain()
        if error is None and self.failure is not None:
            error = _info(self.failure)
        status = self._status(error, cancelled)
        calls = tuple(call.result(whole=status == "completed") for call in self._calls.calls)
        for call in calls:
            if status == "completed" and not call.complete:
                self._note(f"the arguments of {call.name!r} are no whole JSON, though the answer ended: incomplete")
        return Outcome(
            status=status,
            finish_reason=self._finish_reason,
            content=self._emitter.content_text,
            refusal=self._emitter.refusal_text,
            reasoning=self._emitter.reasoning_text,
            reasoning_source=self._emitter.reasoning_source,
            tool_calls=calls,
            usage=self._usage,
            api="chat",
            model=self._model,
            upstream_id=self._upstream_id,
            error=error if status == "failed" else None,
            notes=tuple(self._notes),
            message_extra=self._extra() if calls else None,
        )

    def _extra(self) -> dict[str, Any] | None:
        """What goes back with the calls; the content, too, where the text of calls was shown with it."""
        emitter = self._emitter
        extra = self._message_extra.members(emitter.native_reasoning_text)
        if emitter.own_content_text != emitter.content_text:
            extra["content"] = emitter.own_content_text
        return extra or None

    def _status(self, error: ErrorInfo | None, cancelled: bool) -> Status:
        if cancelled:
            return "cancelled"
        if error is not None:
            return "failed"
        if self._finish_reason is not None and ending_of(self._finish_reason) is Ending.CUT_OFF:
            return "incomplete"
        return "completed"

    def _note(self, text: str) -> None:
        self._notes[text] = None

    def _count(self, chunk: ChatChunk) -> None:
        if chunk.x_groq:
            if usage := as_object(chunk.x_groq.get("usage")):
                self._usage = read_usage(usage, self._usage)
            if error := chunk.x_groq.get("error"):
                self._fail(error)
        if chunk.usage:
            self._usage = read_usage(chunk.usage, self._usage)

    def _read_trouble(self, chunk: ChatChunk) -> None:
        error = chunk.error
        if not error and chunk.base_resp and as_integer(chunk.base_resp.get("status_code")):
            error = {"code": chunk.base_resp["status_code"], "message": chunk.base_resp.get("status_msg")}
        if error:
            self._fail(error)
        elif chunk.oddity:
            self._note(chunk.oddity)

    def _fail(self, error: object) -> None:
        self.failure = self.failure or from_error_object(error)

    def _read_choices(self, choices: list[Choice], loose: bool) -> None:
        if len(choices) == 1 and (choices[0].index or 0) == self._choice:
            self._read_choice(choices[0], loose)
            return
        lowest = min(choice.index or 0 for choice in choices)
        if self._choice is None or (lowest < self._choice and self._nothing_shown()):
            self._choice = lowest
        for choice in choices:
            if (choice.index or 0) == self._choice:
                self._read_choice(choice, loose)
            else:
                self._note(f"the server sent several choices: {self._choice} is used")

    def _nothing_shown(self) -> bool:
        emitter = self._emitter
        return not (emitter.content_text or emitter.reasoning_text or emitter.refusal_text or self._calls.calls)

    def _read_choice(self, choice: Choice, loose: bool) -> None:
        delta = choice.delta
        if delta is not None and (choice.message is None is choice.text or delta.says_anything):
            self._read_delta(delta, loose)
        elif choice.message is not None:
            self._read_message(choice.message, loose, summary=delta is not None)
        elif choice.text:
            self._texts.content(choice.text, loose)
        if choice.usage:
            self._usage = read_usage(choice.usage, self._usage)
        if choice.finish_reason is not None and is_reason(choice.finish_reason):
            self._end(choice.finish_reason)
        if choice.error:
            self._fail(choice.error)

    def _end(self, reason: str) -> None:
        """The last reason counts, but for a plain `stop` after one that says more."""
        if self._finish_reason is not None and reason != self._finish_reason:
            self._note(f"the finish reason was first {self._finish_reason!r}, then {reason!r}")
            if reason == "stop":
                return
        self._finish_reason = reason

    def _read_delta(self, delta: ChunkDelta, loose: bool) -> None:
        if delta.reasoning_content is not None:
            self._message_extra.has_reasoning_content = True
        if delta.reasoning_details or delta.thinking_blocks:
            self._message_extra.add_blocks(delta.reasoning_details, delta.thinking_blocks)
        if delta.reasoning_content or delta.reasoning or delta.reasoning_text or delta.thinking:
            self._told_plainly = True
            self._texts.reasoning(self._one_reasoning(delta), loose)
        elif delta.reasoning_details:
            text = details_text(delta.reasoning_details)
            if not self._told_plainly or text != self._emitter.reasoning_text:
                self._texts.reasoning(text, True)
        if delta.content:
            self._texts.content(delta.content, loose)
        if delta.refusal:
            self._texts.refusal(delta.refusal, loose)
        if delta.tool_calls:
            self._read_calls(delta.tool_calls, loose)
        elif delta.function_call is not None:  # beside tool calls it tells the same once more, for old clients
            function = delta.function_call
            self._add_call(FUNCTION_CALL_INDEX, "", function.name or "", function.arguments or "", "function", loose)

    def _one_reasoning(self, delta: ChunkDelta) -> str:
        """The reasoning, where several fields carry it: once if they agree, all of it if they do not."""
        told = ""
        for text in (delta.reasoning_content, delta.reasoning, delta.reasoning_text, delta.thinking):
            if not text or text in told:
                continue
            if told and told not in text:
                self._note("fields for reasoning that differ within a chunk: all are kept")
                told += text
            else:
                told = text
        return told

    def _read_message(self, message: ChunkDelta, loose: bool, *, summary: bool) -> None:
        """The whole answer, or all of it so far: only what the deltas left out counts.

        Args:
            message: what stands where a delta should, or beside an empty one.
            loose: texts may have halves of pairs.
            summary: a delta stands beside it, so that it can only repeat.
        """
        if message.reasoning_content is not None:
            self._message_extra.has_reasoning_content = True
        emitter = self._emitter
        has_calls = bool(self._calls.calls)
        self._read_delta(
            ChunkDelta(
                content=self._left_out(message.content, emitter.content_text, summary),
                refusal=self._left_out(message.refusal, emitter.refusal_text, summary),
                reasoning=self._left_out(self._one_reasoning(message), emitter.reasoning_text, summary),
                reasoning_details=None if emitter.reasoning_text else message.reasoning_details,
                thinking_blocks=None if emitter.reasoning_text else message.thinking_blocks,
                tool_calls=None if summary and has_calls else message.tool_calls,
                function_call=None if summary and has_calls else message.function_call,
            ),
            loose,
        )

    def _left_out(self, told: str | None, known: str | None, summary: bool) -> str | None:
        if not told or not known:
            return told
        if told.startswith(known):
            return told[len(known) :]
        if summary or told.strip() == known.strip():
            if told.strip() != known.strip():
                self._note("a message that differs from the deltas before it was left out")
            return None
        return told

    def _read_calls(self, parts: list[CallPart], loose: bool) -> None:
        self._calls.begin_chunk()
        for position, part in enumerate(parts):
            index = position if part.index is None and len(parts) > 1 else part.index
            function = part.function
            if function is not None:
                name, arguments, kind = function.name, function.arguments, "function"
            elif part.custom is not None:
                name, arguments, kind = part.custom.name, part.custom.input, "custom"
            else:
                name, arguments, kind = part.name, part.arguments, "function"
            self._add_call(index, part.id or "", name or "", arguments or "", kind, loose)
            if part.extra_content:
                self._calls.keep_extra(index, {"extra_content": part.extra_content})

    def _add_call(self, index: int | None, call_id: str, name: str, arguments: str, kind: str, loose: bool) -> None:
        if loose or self._texts.joining:
            arguments = self._texts.joined("" if index is None else str(index), arguments, loose)
        if not (call_id or name or arguments):
            return
        if not self._calls.add(index, call_id, name, arguments, kind):
            self._note(f"a repetition of the whole call of {name or self._calls.last_name!r} was left out")


def _loads_or_text(data: bytes) -> object:
    try:
        return loads(data)
    except ValueError:
        return data.decode("utf-8", "replace")


def _info(failure: UpstreamError) -> ErrorInfo:
    return ErrorInfo(failure.wire_code, str(failure), failure.whose)
