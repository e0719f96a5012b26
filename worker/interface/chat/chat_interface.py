"""The interface for Chat Completions: it turns chunks into deltas and the outcome.

Owns the choice that is used, and how the answer ended. docs/providers.md describes how differences between servers are
handled. Knows nothing of SSE, HTTP or time.
"""

from tailrace.schemas.deltas import Delta, ErrorInfo, Usage
from tailrace.schemas.errors import UpstreamError, UpstreamUnavailable
from tailrace.schemas.interface_options import InterfaceOptions
from tailrace.schemas.outcome import Outcome, Status
from tailrace.worker.interface.chat.chunk import ChatChunk, ChunkChoice, decode_chunk
from tailrace.worker.interface.chat.delta_reader import ChatDeltaReader
from tailrace.worker.interface.finish_reasons import Ending, ending_of, is_finish_reason
from tailrace.worker.interface.lenient import as_integer, as_object, decode_leniently
from tailrace.worker.interface.stream_notes import StreamNotes
from tailrace.worker.interface.upstream_error import parse_upstream_error
from tailrace.worker.interface.usage import read_usage

_KEEP_ALIVE_EVENTS = frozenset({"ping", "heartbeat", "keepalive", "keep-alive", "keep_alive"})


class ChatInterface:
    """Reads one model call over Chat Completions, as `StreamInterface` describes it.

    Args:
        options: those of the request.
    """

    def __init__(self, options: InterfaceOptions) -> None:
        self.failure: UpstreamError | None = None
        """The error that the server reported inside the stream, if any."""
        self.notes = StreamNotes()
        self._deltas = ChatDeltaReader(options, self.notes)
        self._emitter = self._deltas.emitter
        self._choice: int | None = None
        self._upstream_id: str | None = None
        self._model: str | None = None
        self._usage: Usage | None = None
        self._finish_reason: str | None = None
        self._drained = False

    @property
    def ended(self) -> bool:
        """Whether a finish reason was seen."""
        return self._finish_reason is not None

    @property
    def usage(self) -> Usage | None:
        """The token counts so far."""
        return self._usage

    @property
    def model(self) -> str | None:
        """The model's name, as sent by the server."""
        return self._model

    @property
    def upstream_id(self) -> str | None:
        """The server's id of the answer."""
        return self._upstream_id

    def read(self, event: str, data: bytes, ms: int = 0) -> list[Delta]:
        """Decodes one event and returns its deltas.

        Raises:
            UpstreamProtocol: the data is not JSON.
        """
        if event and event.lower() in _KEEP_ALIVE_EVENTS:
            return []
        if event == "error":
            self._set_failure(_decode_or_text(data))
            return []
        return self.feed(decode_chunk(data), ms)

    def feed(self, chunk: ChatChunk, ms: int = 0) -> list[Delta]:
        """Reads one chunk and returns its deltas."""
        if self._upstream_id is None and chunk.id:
            self._upstream_id = chunk.id
        if self._model is None and chunk.model:
            self._model = chunk.model
        if chunk.usage or chunk.x_groq:
            self._read_counts(chunk)
        if chunk.choices:
            self._read_choices(chunk.choices, chunk.loose)
        if chunk.error or chunk.base_resp or chunk.oddity:
            self._read_error(chunk)
        return self._emitter.take_deltas(ms)

    def drain(self, ms: int = 0) -> list[Delta]:
        """Returns everything that is still held back."""
        if self._drained:
            return []
        self._drained = True
        self._deltas.drain()
        if self.failure is None and self._finish_reason and ending_of(self._finish_reason) is Ending.FAILED:
            self.failure = UpstreamUnavailable(
                f"the model's server broke off with finish_reason {self._finish_reason!r}", code="upstream_error"
            )
        return self._emitter.take_deltas(ms)

    def finish(self, *, error: ErrorInfo | None = None, cancelled: bool = False) -> Outcome:
        """Returns the outcome. A call whose arguments are not complete JSON is incomplete, however the answer ended."""
        self.drain()
        if error is None and self.failure is not None:
            error = _error_info(self.failure)
        status = self._status(error, cancelled)
        calls = tuple(call.build(answer_ended=status == "completed") for call in self._deltas.calls.calls)
        for call in calls:
            if status == "completed" and not call.complete:
                self.notes.add_note(f"the arguments of {call.name!r} are not whole JSON: the call is incomplete")
        emitter = self._deltas.emitter
        return Outcome(
            status=status,
            finish_reason=self._finish_reason,
            content=emitter.content_text,
            refusal=emitter.refusal_text,
            reasoning=emitter.reasoning_text,
            reasoning_source=emitter.reasoning_source,
            tool_calls=calls,
            usage=self._usage,
            api="chat",
            model=self._model,
            upstream_id=self._upstream_id,
            error=error if status == "failed" else None,
            notes=self.notes.as_tuple(),
            message_extra=self._deltas.message_extra if calls else None,
        )

    def _status(self, error: ErrorInfo | None, cancelled: bool) -> Status:
        if cancelled:
            return "cancelled"
        if error is not None:
            return "failed"
        if self._finish_reason is not None and ending_of(self._finish_reason) is Ending.CUT_OFF:
            return "incomplete"
        return "completed"

    def _read_counts(self, chunk: ChatChunk) -> None:
        if chunk.x_groq:
            if usage := as_object(chunk.x_groq.get("usage")):
                self._usage = read_usage(usage, self._usage)
            if error := chunk.x_groq.get("error"):
                self._set_failure(error)
        if chunk.usage:
            self._usage = read_usage(chunk.usage, self._usage)

    def _read_error(self, chunk: ChatChunk) -> None:
        error = chunk.error
        if not error and chunk.base_resp and as_integer(chunk.base_resp.get("status_code")):
            error = {"code": chunk.base_resp["status_code"], "message": chunk.base_resp.get("status_msg")}
        if error:
            self._set_failure(error)
        elif chunk.oddity:
            self.notes.add_note(chunk.oddity)

    def _set_failure(self, error: object) -> None:
        self.failure = self.failure or parse_upstream_error(error)

    def _read_choices(self, choices: list[ChunkChoice], loose: bool) -> None:
        if len(choices) == 1 and (choices[0].index or 0) == self._choice:
            self._read_choice(choices[0], loose)
            return
        lowest = min(choice.index or 0 for choice in choices)
        if self._choice is None or (lowest < self._choice and self._deltas.has_shown_nothing):
            self._choice = lowest
        for choice in choices:
            if (choice.index or 0) == self._choice:
                self._read_choice(choice, loose)
            else:
                self.notes.add_note(f"the server sent several choices: {self._choice} is used")

    def _read_choice(self, choice: ChunkChoice, loose: bool) -> None:
        delta = choice.delta
        if delta is not None and (choice.message is None is choice.text or delta.has_anything):
            self._deltas.read_delta(delta, loose)
        elif choice.message is not None:
            self._deltas.read_message(choice.message, loose, only_repeats=delta is not None)
        elif choice.text:
            self._deltas.add_text(choice.text, loose)
        if choice.usage:
            self._usage = read_usage(choice.usage, self._usage)
        if choice.finish_reason is not None and is_finish_reason(choice.finish_reason):
            self._set_finish_reason(choice.finish_reason)
        if choice.error:
            self._set_failure(choice.error)

    def _set_finish_reason(self, reason: str) -> None:
        """The last reason counts, except a plain `stop` after a more specific one."""
        if self._finish_reason is not None and reason != self._finish_reason:
            self.notes.add_note(f"the finish reason was first {self._finish_reason!r}, then {reason!r}")
            if reason == "stop":
                return
        self._finish_reason = reason


def _decode_or_text(data: bytes) -> object:
    try:
        return decode_leniently(data)
    except ValueError:
        return data.decode("utf-8", "replace")


def _error_info(failure: UpstreamError) -> ErrorInfo:
    return ErrorInfo(failure.code, str(failure), failure.whose)
