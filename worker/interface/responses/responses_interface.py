"""The interface for the Responses API: events in, deltas and at last the outcome out.

Owns what each event type means and how a response ends. The items do the rest: `responses_items.py` what they say,
`responses_ledger.py` which one an event means. Source: OpenAI API reference, "Streaming events" of the Responses API.
"""

from collections.abc import Mapping

from tailrace.schemas.deltas import Delta, ErrorInfo, Usage
from tailrace.schemas.errors import UpstreamError, UpstreamProtocol, UpstreamRefused
from tailrace.schemas.interface_options import InterfaceOptions
from tailrace.schemas.outcome import Outcome, OutputItem, Status, ToolCall
from tailrace.worker.interface.lenient import as_text
from tailrace.worker.interface.responses.event import JsonObject, ResponseEvent, ResponseObject, decode_event
from tailrace.worker.interface.responses.items import CallItem, TextItem
from tailrace.worker.interface.responses.ledger import Ledger
from tailrace.worker.interface.responses.notes import Notes
from tailrace.worker.interface.responses.text import Channel, Stage, text_of_part
from tailrace.worker.interface.upstream_error import from_error_object
from tailrace.worker.interface.usage import read_usage

TRUNCATED = "the stream ended without a terminal event"
_SHOWN_BYTES = 120

_TEXTS: Mapping[str, Channel] = {
    "response.output_text": "content",
    "response.refusal": "refusal",
    "response.reasoning_text": "thought",
    "response.reasoning": "thought",
    "response.reasoning_summary_text": "summary",
    "response.reasoning_summary": "summary",
}
"""Events `<key>.delta` and `<key>.done` are a piece and the whole of a text."""

_CALLS: Mapping[str, str] = {
    "response.function_call_arguments": "function_call",
    "response.custom_tool_call_input": "custom_tool_call",
}
"""The same for what a call of the caller's tool says."""

_PARTS: Mapping[str, Channel] = {
    "response.content_part": "content",
    "response.reasoning_part": "thought",
    "response.reasoning_summary_part": "summary",
}
"""Events `<key>.added` and `<key>.done` frame a part; its own type may say more."""

_FAMILY_OF_CHANNEL: Mapping[Channel, str] = {
    "content": "message",
    "refusal": "message",
    "thought": "reasoning",
    "summary": "reasoning",
}

_ENDS: Mapping[str, str] = {
    "response.completed": "completed",
    "response.done": "completed",
    "response.incomplete": "incomplete",
    "response.failed": "failed",
    "response.cancelled": "cancelled",
    "response.canceled": "cancelled",
}
"""Terminal events, and how the response ended."""

_STATUSES = frozenset({"completed", "incomplete", "failed", "cancelled"})
_SILENT = frozenset(
    {"keepalive", "keep-alive", "ping", "heartbeat", "response.heartbeat", "response.output_text.annotation.added"}
)
"""Events without a text of the model's, beside those of hosted tools and audio."""


class ResponsesInterface:
    """One model call through the Responses API, as `tailrace.worker.interface.protocol.Interface` describes it.

    Args:
        options: how the answer is turned into deltas.
    """

    def __init__(self, options: InterfaceOptions) -> None:
        self._notes = Notes()
        self._stage = Stage(options, self._notes.add)
        self._items = Ledger(self._stage)
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
        """A terminal event was seen."""
        return self._end is not None

    @property
    def failure(self) -> UpstreamError | None:
        """The error the server reported, or that it stopped without an end.

        An `error` event alone counts once nothing more is read, since the `response.failed` that follows it says more.
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
        """The number of the last event: where a re-attached stream goes on."""
        return self._sequence

    def read(self, event: str, data: bytes, ms: int = 0) -> list[Delta]:
        """Decodes and takes in one event.

        Raises:
            UpstreamProtocol: the data is no JSON.
        """
        if event in _SILENT:
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
        """Takes in one decoded event. Nothing after the terminal event counts."""
        if self._end is None and not self._drained:
            self._take(event)
        return self._stage.emitter.take(ms)

    def drain(self, ms: int = 0) -> list[Delta]:
        """All that is still held back."""
        if not self._drained:
            self._drained = True
            for item in self._items:
                item.drain()
            self._stage.drain()
        return self._stage.emitter.take(ms)

    def finish(self, *, error: ErrorInfo | None = None, cancelled: bool = False) -> Outcome:
        """What the call came to. The server's own error goes before `error`, which then is only its consequence."""
        self.drain()
        stage = Stage(self._stage.options, self._notes.add)
        calls, items, output = self._conclude(stage)
        status, told = self._judge(error, cancelled)
        said = stage.emitter
        return Outcome(
            status=status,
            finish_reason=self._reason,
            content=said.content_text,
            refusal=said.refusal_text,
            reasoning=said.reasoning_text,
            reasoning_source=said.reasoning_source,
            tool_calls=tuple(calls),
            usage=self._usage,
            api="responses",
            model=self._model,
            upstream_id=self._id,
            upstream_sequence=self._sequence,
            error=told,
            items=tuple(items),
            notes=self._notes.all(),
            output=tuple(output),
        )

    def _take(self, event: ResponseEvent) -> None:
        if event.sequence_number is not None:
            self._sequence = event.sequence_number
        stem, _, ending = event.type.rpartition(".")
        if ending == "delta" and stem in _TEXTS:
            channel, index = _place(_TEXTS[stem], event)
            self._text_item(channel, event).piece(channel, index, event.delta or "")
        elif ending == "delta" and stem in _CALLS:
            self._items.call(_CALLS[stem], event.item_id, event.output_index).piece(event.delta or "")
        elif ending == "done" and stem in _TEXTS:
            channel, index = _place(_TEXTS[stem], event)
            value = event.refusal if event.refusal and channel == "refusal" else event.text
            self._text_item(channel, event).settle(channel, index, value or "")
        elif ending == "done" and stem in _CALLS:
            value = event.arguments if event.arguments is not None else event.input
            self._items.call(_CALLS[stem], event.item_id, event.output_index).settle(value or "", event.name)
        elif stem in _PARTS:
            self._take_part(event, _PARTS[stem], ending)
        else:
            self._take_rare(event)

    def _take_part(self, event: ResponseEvent, default: Channel, ending: str) -> None:
        if event.part is None:
            return
        channel, text = text_of_part(event.part, default)
        if text:
            item, (_, index) = self._text_item(channel, event), _place(channel, event)
            if ending == "added":
                item.open(channel, index, text)
            else:
                item.settle(channel, index, text)

    def _take_rare(self, event: ResponseEvent) -> None:
        match event.type:
            case "response.created" | "response.queued" | "response.in_progress":
                self._take_response(event)
            case "response.output_item.added":
                if event.item is not None:
                    self._items.added(event.item, event.output_index)
            case "response.output_item.done":
                if event.item is not None:
                    self._items.finished(event.item, event.output_index)
            case "error" | "response.error":
                self._error = from_error_object(event.error or {"code": event.code, "message": event.message})
            case name if name in _ENDS:
                self._take_end(event)
            case name if name not in _SILENT and not _is_of_hosted_tool(name):
                self._notes.skipped(name)
            case _:
                pass

    def _take_response(self, event: ResponseEvent) -> None:
        if event.response is not None:
            self._id = event.response.id or self._id
            self._model = event.response.model or self._model
            self._stored = self._stored and event.response.store is not False
            if event.response.usage:
                self._usage = read_usage(event.response.usage, self._usage)

    def _take_end(self, event: ResponseEvent) -> None:
        """A terminal event. Some servers know one only, `response.completed`: there the response's status counts."""
        self._take_response(event)
        response = event.response or ResponseObject()
        self._items.output(response.output or [])
        named = _ENDS[event.type]
        self._end = response.status if named == "completed" and response.status in _STATUSES else named
        self._reason = as_text((response.incomplete_details or {}).get("reason"))
        if self._end == "failed" and (response.error or self._error is None):
            self._error = from_error_object(response.error or "the response failed, and the server did not say why")
        elif self._end == "cancelled":
            self._error = UpstreamRefused(
                "the response was cancelled at the model's server", code="upstream_cancelled", whose="caller"
            )
        elif self._end != "failed" and self._error is not None:
            self._notes.add(f"an error event came before the end, which then was {self._end}: {self._error}")
            self._error = None

    def _text_item(self, channel: Channel, event: ResponseEvent) -> TextItem:
        return self._items.text(_FAMILY_OF_CHANNEL[channel], event.item_id, event.output_index)

    def _conclude(self, stage: Stage) -> tuple[list[ToolCall], list[JsonObject], list[OutputItem]]:
        """The calls, the items to keep (reasoning, hosted tools), and the order of everything that goes back."""
        calls: list[ToolCall] = []
        items: list[JsonObject] = []
        output: list[OutputItem] = []
        for item in self._items:
            if isinstance(item, CallItem):
                call = item.conclude(stage, self._end == "completed")
                if self._end == "completed" and not call.complete:
                    self._notes.add(f"the call of {call.name!r} is not whole, though the response is: incomplete")
                output.append(OutputItem(call=len(calls)))
                calls.append(call)
                continue
            if isinstance(item, TextItem):
                item.conclude(stage)
                if item.family == "message":
                    if message := item.as_message():
                        output.append(OutputItem(message=message))
                    continue
            if item.finished is not None:
                if self._goes_back(item.family, item.finished):
                    output.append(OutputItem(item=len(items)))
                items.append(item.finished)
        stage.drain()
        return calls, items, output

    def _goes_back(self, family: str, item: JsonObject) -> bool:
        """Whether the server takes the item back: it cannot find reasoning by its id alone if it did not store it."""
        return family != "reasoning" or self._stored or bool(item.get("encrypted_content"))

    def _judge(self, error: ErrorInfo | None, cancelled: bool) -> tuple[Status, ErrorInfo | None]:
        if cancelled:
            return "cancelled", None
        if self._error is not None:
            return "failed", ErrorInfo(self._error.wire_code, str(self._error), self._error.whose)
        if error is not None:
            return "failed", error
        if self._end is None:
            return "failed", ErrorInfo("upstream_truncated", TRUNCATED, "provider")
        return ("incomplete" if self._end == "incomplete" else "completed"), None


def _place(channel: Channel, event: ResponseEvent) -> tuple[Channel, int | None]:
    """Channel and the number of the part: summaries have a count of their own."""
    return channel, event.summary_index if channel == "summary" else event.content_index


def _is_of_hosted_tool(event_type: str) -> bool:
    """Progress of a tool the provider runs (its item says it all in the end), or audio, which is not streamed."""
    return event_type.startswith(("response.mcp_", "response.audio", "response.compaction")) or "_call" in event_type
