"""The interface for the Responses API: it turns events into deltas and the outcome.

Owns what each event type means and how a response ends. `item_table.py` finds the item that an event means; the items
know what to emit. Source: OpenAI API reference, "Streaming events" of the Responses API.
"""

from tailrace.schemas.deltas import Delta, ErrorInfo, Usage
from tailrace.schemas.errors import UpstreamError, UpstreamProtocol, UpstreamRefused
from tailrace.schemas.interface_options import InterfaceOptions
from tailrace.schemas.outcome import Outcome, OutputItem, Status, ToolCall
from tailrace.worker.interface.lenient import as_text
from tailrace.worker.interface.responses.call_item import CallItem
from tailrace.worker.interface.responses.event import JsonObject, ResponseEvent, ResponseObject, decode_event
from tailrace.worker.interface.responses.event_types import (
    CALL_EVENTS,
    FAMILY_OF_CHANNEL,
    IGNORED_EVENTS,
    PART_EVENTS,
    TERMINAL_EVENTS,
    TERMINAL_STATUSES,
    TEXT_EVENTS,
    is_of_hosted_tool,
)
from tailrace.worker.interface.responses.item_emitter import ItemEmitter
from tailrace.worker.interface.responses.item_table import ItemTable
from tailrace.worker.interface.responses.text_item import TextItem
from tailrace.worker.interface.responses.text_part import TextChannel, text_of_part
from tailrace.worker.interface.stream_notes import StreamNotes
from tailrace.worker.interface.upstream_error import parse_upstream_error
from tailrace.worker.interface.usage import read_usage

TRUNCATED = "the stream ended without a terminal event"
_SHOWN_BYTES = 120


class ResponsesInterface:
    """Reads one model call over the Responses API, as `StreamInterface` describes it.

    Args:
        options: those of the request.
    """

    def __init__(self, options: InterfaceOptions) -> None:
        self.notes = StreamNotes()
        self._emitter = ItemEmitter(options, self.notes)
        self._take_deltas = self._emitter.deltas.take_deltas
        self._items = ItemTable(self._emitter)
        self._id: str | None = None
        self._model: str | None = None
        self._usage: Usage | None = None
        self._sequence: int | None = None
        self._stored = True
        self._reason: str | None = None
        self._end: str | None = None
        self._error: UpstreamError | None = None
        self._drained = False

    @property
    def ended(self) -> bool:
        """Whether a terminal event was seen."""
        return self._end is not None

    @property
    def failure(self) -> UpstreamError | None:
        """The error that the server reported, or one for a stream that stopped without a terminal event.

        A single `error` event counts only after the last event: a `response.failed` after it is more specific.
        """
        if self._drained and self._end is None and self._error is None:
            return UpstreamProtocol(TRUNCATED, code="upstream_truncated")
        return self._error if self._drained or self._end is not None else None

    @property
    def upstream_id(self) -> str | None:
        """The server's id of the response."""
        return self._id

    @property
    def upstream_sequence(self) -> int | None:
        """The number of the last event, after which a resumed stream continues."""
        return self._sequence

    def read(self, event: str, data: bytes, ms: int = 0) -> list[Delta]:
        """Decodes one event and returns its deltas.

        Raises:
            UpstreamProtocol: the data is not JSON.
        """
        if event in IGNORED_EVENTS:
            return []
        try:
            decoded = decode_event(data, event)
        except ValueError as error:
            shown = data[:_SHOWN_BYTES].decode("utf-8", "replace")
            if event != "error":
                raise UpstreamProtocol(
                    f"an event of the stream is not JSON; it begins with {shown!r}", code="upstream_malformed"
                ) from error
            decoded = ResponseEvent(type="error", error=shown)
        return self.feed(decoded, ms)

    def feed(self, event: ResponseEvent, ms: int = 0) -> list[Delta]:
        """Reads one decoded event and returns its deltas. Events after the terminal event are ignored."""
        if self._end is None and not self._drained:
            self._read_event(event)
        return self._take_deltas(ms)

    def drain(self, ms: int = 0) -> list[Delta]:
        """Returns everything that is still held back."""
        if not self._drained:
            self._drained = True
            for item in self._items:
                item.drain()
            self._emitter.drain()
        return self._take_deltas(ms)

    def finish(self, *, error: ErrorInfo | None = None, cancelled: bool = False) -> Outcome:
        """Returns the outcome. The server's own error takes precedence over `error`, which it has caused."""
        self.drain()
        emitter = ItemEmitter(self._emitter.options, self.notes)
        calls, items, output = self._conclude(emitter)
        status, error = self._status(error, cancelled)
        final = emitter.deltas
        return Outcome(
            status=status,
            finish_reason=self._reason,
            content=final.content_text,
            refusal=final.refusal_text,
            reasoning=final.reasoning_text,
            reasoning_source=final.reasoning_source,
            tool_calls=tuple(calls),
            usage=self._usage,
            api="responses",
            model=self._model,
            upstream_id=self._id,
            upstream_sequence=self._sequence,
            error=error,
            items=tuple(items),
            notes=self.notes.as_tuple(),
            output=tuple(output),
        )

    def _read_event(self, event: ResponseEvent) -> None:
        if event.sequence_number is not None:
            self._sequence = event.sequence_number
        stem, _, ending = event.type.rpartition(".")
        if ending == "delta" and stem in TEXT_EVENTS:
            channel, index = _place(TEXT_EVENTS[stem], event)
            self._text_item(channel, event).add_piece(channel, index, event.delta or "")
        elif ending == "delta" and stem in CALL_EVENTS:
            self._items.call_item(CALL_EVENTS[stem], event.item_id, event.output_index).add_piece(event.delta or "")
        elif ending == "done" and stem in TEXT_EVENTS:
            channel, index = _place(TEXT_EVENTS[stem], event)
            value = event.refusal if event.refusal and channel == "refusal" else event.text
            self._text_item(channel, event).set_final_text(channel, index, value or "")
        elif ending == "done" and stem in CALL_EVENTS:
            value = event.arguments if event.arguments is not None else event.input
            self._items.call_item(CALL_EVENTS[stem], event.item_id, event.output_index).set_final_arguments(
                value or "", event.name
            )
        elif stem in PART_EVENTS:
            self._read_part(event, PART_EVENTS[stem], ending)
        else:
            self._read_rare_event(event)

    def _read_part(self, event: ResponseEvent, default: TextChannel, ending: str) -> None:
        if event.part is None:
            return
        channel, text = text_of_part(event.part, default)
        if text:
            item, (_, index) = self._text_item(channel, event), _place(channel, event)
            if ending == "added":
                item.open_part(channel, index, text)
            else:
                item.set_final_text(channel, index, text)

    def _read_rare_event(self, event: ResponseEvent) -> None:
        match event.type:
            case "response.created" | "response.queued" | "response.in_progress":
                self._read_response(event)
            case "response.output_item.added":
                if event.item is not None:
                    self._items.add_announced(event.item, event.output_index)
            case "response.output_item.done":
                if event.item is not None:
                    self._items.finish_item(event.item, event.output_index)
            case "error" | "response.error":
                self._error = parse_upstream_error(event.error or {"code": event.code, "message": event.message})
            case name if name in TERMINAL_EVENTS:
                self._read_end(event)
            case name if name not in IGNORED_EVENTS and not is_of_hosted_tool(name):
                self.notes.count_unknown_event(name)
            case _:
                pass

    def _read_response(self, event: ResponseEvent) -> None:
        if event.response is not None:
            self._id = event.response.id or self._id
            self._model = event.response.model or self._model
            self._stored = self._stored and event.response.store is not False
            if event.response.usage:
                self._usage = read_usage(event.response.usage, self._usage)

    def _read_end(self, event: ResponseEvent) -> None:
        """Reads a terminal event. Some servers send only `response.completed`: then the response's status counts."""
        self._read_response(event)
        response = event.response or ResponseObject()
        self._items.finish_all(response.output or [])
        named = TERMINAL_EVENTS[event.type]
        self._end = response.status if named == "completed" and response.status in TERMINAL_STATUSES else named
        self._reason = as_text((response.incomplete_details or {}).get("reason"))
        if self._end == "failed" and (response.error or self._error is None):
            self._error = parse_upstream_error(response.error or "the response failed, and the server gave no reason")
        elif self._end == "cancelled":
            self._error = UpstreamRefused(
                "the response was cancelled at the model's server", code="upstream_cancelled", whose="caller"
            )
        elif self._end != "failed" and self._error is not None:
            self.notes.add_note(f"an error event came, but the response ended as {self._end}: {self._error}")
            self._error = None

    def _text_item(self, channel: TextChannel, event: ResponseEvent) -> TextItem:
        return self._items.text_item(FAMILY_OF_CHANNEL[channel], event.item_id, event.output_index)

    def _conclude(self, emitter: ItemEmitter) -> tuple[list[ToolCall], list[JsonObject], list[OutputItem]]:
        """The calls, the items to keep (reasoning, hosted tools), and the order of everything that goes back."""
        calls: list[ToolCall] = []
        items: list[JsonObject] = []
        output: list[OutputItem] = []
        for item in self._items:
            if isinstance(item, CallItem):
                call = item.conclude(emitter, response_completed=self._end == "completed")
                if self._end == "completed" and not call.complete:
                    self.notes.add_note(
                        f"the call of {call.name!r} is not whole, although the response completed: "
                        "the call is incomplete"
                    )
                output.append(OutputItem(call=len(calls)))
                calls.append(call)
                continue
            if isinstance(item, TextItem):
                item.conclude(emitter)
                if item.family == "message":
                    if message := item.as_message():
                        output.append(OutputItem(message=message))
                    continue
            if item.finished is not None:
                if self._goes_back(item.family, item.finished):
                    output.append(OutputItem(item=len(items)))
                items.append(item.finished)
        emitter.drain()
        return calls, items, output

    def _goes_back(self, family: str, item: JsonObject) -> bool:
        """Whether the server accepts the item back: it finds reasoning by its id only if it stored the response."""
        return family != "reasoning" or self._stored or bool(item.get("encrypted_content"))

    def _status(self, error: ErrorInfo | None, cancelled: bool) -> tuple[Status, ErrorInfo | None]:
        if cancelled:
            return "cancelled", None
        if self._error is not None:
            return "failed", ErrorInfo(self._error.code, str(self._error), self._error.whose)
        if error is not None:
            return "failed", error
        if self._end is None:
            return "failed", ErrorInfo("upstream_truncated", TRUNCATED, "provider")
        return ("incomplete" if self._end == "incomplete" else "completed"), None


def _place(channel: TextChannel, event: ResponseEvent) -> tuple[TextChannel, int | None]:
    """Channel and number of the part: summaries are numbered separately."""
    return channel, event.summary_index if channel == "summary" else event.content_index
