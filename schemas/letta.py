"""The Letta form of a delta (`id`, `date`, `otid`, ...), derived only from the entries of the log."""

from datetime import datetime, timedelta
from typing import Any

from tailrace.schemas.deltas import AssistantDelta, AttemptStarted, Delta, ReasoningDelta, ReasoningSource
from tailrace.schemas.ids import otid


class LettaView:
    """Turns the deltas of one attempt into the full messages of a Letta server.

    Args:
        attempt: the attempt's first entry (`N-0` of the log), with the two message ids and the time.

    Pass the deltas in the order of the log. Each message has the `source`, which only the first delta of a run carries;
    a view that starts in the middle of a run leaves it out until the next run.
    """

    def __init__(self, attempt: AttemptStarted) -> None:
        self._ids = attempt.ids
        self._began_at = datetime.fromisoformat(attempt.at)
        self._run: int | None = None
        self._source: ReasoningSource | None = None

    def message(self, delta: Delta) -> dict[str, Any]:
        """The full message for one delta, without nulls and ready for JSON. A refusal becomes assistant content."""
        if delta.i != self._run:
            self._run, self._source = delta.i, None
        of_message = self._ids.assistant if isinstance(delta, AssistantDelta) else self._ids.tool
        message: dict[str, Any] = {
            "id": of_message,
            "date": (self._began_at + timedelta(milliseconds=delta.ms)).isoformat(timespec="milliseconds"),
            "message_type": delta.__struct_config__.tag,
            "otid": otid(of_message, delta.i),
        }
        return message | self._payload(delta)

    def _payload(self, delta: Delta) -> dict[str, Any]:
        if isinstance(delta, ReasoningDelta):
            self._source = delta.source or self._source
            return {"reasoning": delta.reasoning} | ({"source": self._source} if self._source else {})
        if isinstance(delta, AssistantDelta):
            return {"content": delta.content if delta.content is not None else delta.refusal}
        part = delta.tool_call
        named = {"name": part.name, "arguments": part.arguments, "tool_call_id": part.tool_call_id}
        return {"tool_call": {key: value for key, value in named.items() if value is not None}}
