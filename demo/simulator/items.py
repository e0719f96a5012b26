"""The output items of the Responses API, each with its events.

Pure. An event is a JSON object without its `sequence_number`, which only the whole stream determines. Source: API
reference, "Streaming events" of the Responses API, and recorded bodies.
"""

from __future__ import annotations

from collections.abc import Iterator

from tailrace.demo.simulator.plan import Part
from tailrace.demo.simulator.scenario import CustomToolCall, JsonObject, Reasoning, Refusal, Step, ToolCall, WebSearch

_PREFIX: dict[type[Step], str] = {
    Reasoning: "rs_",
    ToolCall: "fc_",
    CustomToolCall: "ctc_",
    WebSearch: "ws_",
}


def item_prefix(step: Step) -> str:
    """The prefix of the ids of such items."""
    return _PREFIX.get(type(step), "msg_")


class Item:
    """One output item.

    Args:
        part: the step it shows.
        index: its place in the output.
        ids: its own id, and a call id if it needs one.
        encrypted: whether a reasoning item has its encrypted content.
    """

    def __init__(self, part: Part, index: int, ids: tuple[str, str], *, encrypted: bool) -> None:
        self._part, self._index, self._encrypted = part, index, encrypted
        self.id, self._call_id = ids

    def events(self) -> Iterator[JsonObject]:
        """From `output_item.added` to `output_item.done`."""
        yield {"type": "response.output_item.added", "output_index": self._index, "item": self._object("in_progress")}
        match self._part.step:
            case Reasoning():
                yield from self._summary()
            case ToolCall():
                yield from self._texts("response.function_call_arguments", "arguments")
            case CustomToolCall():
                yield from self._texts("response.custom_tool_call_input", "input")
            case WebSearch():
                for stage in ("in_progress", "searching", "completed"):
                    yield self._of(f"response.web_search_call.{stage}")
            case _:
                yield from self._content()
        yield {"type": "response.output_item.done", "output_index": self._index, "item": self.done()}

    def done(self) -> JsonObject:
        """The finished item."""
        return self._object("completed" if self._part.complete else "incomplete")

    def _object(self, status: str) -> JsonObject:
        part, ended = self._part, status != "in_progress"
        text = part.text if ended else ""
        match part.step:
            case Reasoning():
                summary = [_summary_text("".join(texts)) for texts in part.sections()] if ended else []
                sealed = {"encrypted_content": f"gAAAA{self.id}"} if self._encrypted else {}
                return {"id": self.id, "type": "reasoning", **sealed, "summary": summary}
            case ToolCall() as step:
                return {"id": self.id, "type": "function_call", "status": status, "arguments": text,
                        "call_id": step.id or self._call_id, "name": step.name}  # fmt: skip
            case CustomToolCall() as step:
                return {"id": self.id, "type": "custom_tool_call", "status": status,
                        "call_id": step.id or self._call_id, "input": text, "name": step.name}  # fmt: skip
            case WebSearch() as step:
                query = {"queries": [step.query], "query": step.query} if ended else {}
                return {"id": self.id, "type": "web_search_call", "status": status,
                        "action": {"type": "search", **query}}  # fmt: skip
            case _:
                content = [self._content_part(text)] if ended else []
                return {"id": self.id, "type": "message", "status": status, "content": content, "role": "assistant"}

    def _of(self, kind: str, **more: object) -> JsonObject:
        return {"type": kind, "item_id": self.id, "output_index": self._index, **more}

    def _texts(self, kind: str, field: str) -> Iterator[JsonObject]:
        for text in self._part.fragments:
            yield self._of(f"{kind}.delta", delta=text)
        yield self._of(f"{kind}.done", **{field: self._part.text})

    def _summary(self) -> Iterator[JsonObject]:
        for number, texts in enumerate(self._part.sections()):
            whole = "".join(texts)
            yield self._of("response.reasoning_summary_part.added", part=_summary_text(""), summary_index=number)
            for text in texts:
                yield self._of("response.reasoning_summary_text.delta", delta=text, summary_index=number)
            yield self._of("response.reasoning_summary_text.done", text=whole, summary_index=number)
            yield self._of("response.reasoning_summary_part.done", part=_summary_text(whole), summary_index=number)

    def _content(self) -> Iterator[JsonObject]:
        part = self._part
        yield self._of("response.content_part.added", content_index=0, part=self._content_part(""))
        if isinstance(part.step, Refusal):
            for text in part.fragments:
                yield self._of("response.refusal.delta", content_index=0, delta=text)
            yield self._of("response.refusal.done", content_index=0, refusal=part.text)
        else:
            for text in part.fragments:
                yield self._of("response.output_text.delta", content_index=0, delta=text, logprobs=[])
            yield self._of("response.output_text.done", content_index=0, logprobs=[], text=part.text)
        yield self._of("response.content_part.done", content_index=0, part=self._content_part(part.text))

    def _content_part(self, text: str) -> JsonObject:
        if isinstance(self._part.step, Refusal):
            return {"type": "refusal", "refusal": text}
        return {"type": "output_text", "annotations": [], "logprobs": [], "text": text}


def _summary_text(text: str) -> JsonObject:
    return {"type": "summary_text", "text": text}
