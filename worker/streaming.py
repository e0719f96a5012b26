"""`OpenAIStreamingInterface`: the interface for one stream of the OpenAI SDK, without queue, log or worker.

A thin shell around `worker/interface/chat/`: it awaits chunks, reads the clock, makes ids and closes the stream. Its
constructor, `process` and accessors have the names that Letta's servers use. Applications import it from
`tailrace.streaming`.
"""

import time
import uuid
from collections.abc import AsyncGenerator, Callable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, Literal

from tailrace.schemas.deltas import FORMAT_VERSION, AttemptStarted, Delta, ErrorInfo, MessageIds, Usage
from tailrace.schemas.ids import message_id
from tailrace.schemas.interface_options import InterfaceOptions
from tailrace.schemas.letta import LettaView
from tailrace.schemas.outcome import Outcome
from tailrace.worker.interface.chat.chat_interface import ChatInterface
from tailrace.worker.interface.chat.chunk import ChatChunk, chunk_from_json

if TYPE_CHECKING:  # importing openai's types loads the whole client
    from openai import AsyncStream
    from openai.types.chat import ChatCompletionChunk


@dataclass(frozen=True, slots=True)
class FunctionCall:
    """The function to call; `arguments` is the raw text, inner thoughts included."""

    name: str
    arguments: str


@dataclass(frozen=True, slots=True)
class ToolCallObject:
    """A tool call in OpenAI's form. `complete` is False if it was cut off: do not run the tool with it."""

    id: str | None
    function: FunctionCall
    complete: bool
    type: Literal["function"] = "function"


class OpenAIStreamingInterface:
    """Turns the chunks of one Chat Completions stream into messages in the Letta form. One instance, one model call.

    Args:
        use_assistant_message: show a call of `send_message` as assistant text.
        put_inner_thoughts_in_kwarg: take the inner thoughts out of tool arguments and show them as reasoning.
        options: all options; if given, it replaces the two above.
        make_uuid: makes the two message ids.
        now: returns the current time, with its zone.
        monotonic_s: a monotonic clock, in seconds.
    """

    def __init__(
        self,
        use_assistant_message: bool = False,
        put_inner_thoughts_in_kwarg: bool = True,
        *,
        options: InterfaceOptions | None = None,
        make_uuid: Callable[[], uuid.UUID] = uuid.uuid4,
        now: Callable[[], datetime] = lambda: datetime.now(UTC),
        monotonic_s: Callable[[], float] = time.monotonic,
    ) -> None:
        chosen = options or InterfaceOptions(use_assistant_message, put_inner_thoughts_in_kwarg)
        self.use_assistant_message = chosen.use_assistant_message
        self.put_inner_thoughts_in_kwarg = chosen.put_inner_thoughts_in_kwarg
        self.letta_assistant_message_id = message_id(str(make_uuid()))
        self.letta_tool_message_id = message_id(str(make_uuid()))
        self._interface = ChatInterface(chosen)
        self._now = now
        self._monotonic_s = monotonic_s
        self._outcome: Outcome | None = None

    async def process(self, stream: "AsyncStream[ChatCompletionChunk]") -> AsyncGenerator[dict[str, Any], None]:
        """Yields messages in the Letta form as the chunks arrive.

        The stream is always closed. Text that was still held back when it ended or failed is yielded before the
        generator ends or raises.

        Args:
            stream: the result of `client.chat.completions.create(..., stream=True)`.

        Raises:
            openai.OpenAIError: every error of the stream, unchanged.
        """
        began_s = self._monotonic_s()
        view = self._view()
        cut_off = ErrorInfo("cancelled", "the reader left the stream before its end", "caller")
        error: ErrorInfo | None = cut_off
        try:
            try:
                async for chunk in stream:
                    for message in _messages(view, self._interface.feed(_plain(chunk), self._ms_since(began_s))):
                        yield message
            except Exception as failure:  # raised again after the held-back text is yielded
                error = ErrorInfo("upstream_error", str(failure) or type(failure).__name__, "provider")
                for message in _messages(view, self._interface.drain(self._ms_since(began_s))):
                    yield message
                raise
            for message in _messages(view, self._interface.drain(self._ms_since(began_s))):
                yield message
            has_end = self._interface.ended or self._interface.failure is not None
            error = None if has_end else _truncated()
        finally:
            cancelled = error is cut_off
            self._outcome = self._interface.finish(error=None if cancelled else error, cancelled=cancelled)
            await stream.close()

    def get_tool_call_object(self) -> ToolCallObject | None:
        """The first tool call of the answer, None if there was none; `outcome` has all of them."""
        calls = self.outcome.tool_calls
        if not calls:
            return None
        return ToolCallObject(calls[0].id, FunctionCall(calls[0].name, calls[0].arguments), calls[0].complete)

    def get_reasoning_content(self) -> str:
        """All reasoning, inner thoughts and native, as one text; empty if there was none."""
        return self.outcome.reasoning or ""

    @property
    def outcome(self) -> Outcome:
        """The outcome of the call.

        Raises:
            RuntimeError: the stream has not ended yet.
        """
        if self._outcome is None:
            raise RuntimeError("there is no outcome until process() has ended")
        return self._outcome

    @property
    def input_tokens(self) -> int:
        """Tokens of the prompt; 0 until the server sends the count."""
        return self._usage.input_tokens or 0

    @property
    def output_tokens(self) -> int:
        """Tokens of the answer; 0 until the server sends the count."""
        return self._usage.output_tokens or 0

    @property
    def model(self) -> str | None:
        """The model's name, as sent by the server."""
        return self._interface.model

    @property
    def message_id(self) -> str | None:
        """The server's id of the answer."""
        return self._interface.upstream_id

    @property
    def _usage(self) -> Usage:
        return self._interface.usage or Usage()

    def _view(self) -> LettaView:
        ids = MessageIds(self.letta_assistant_message_id, self.letta_tool_message_id)
        return LettaView(AttemptStarted(FORMAT_VERSION, 1, self._now().isoformat(), "first", ids))

    def _ms_since(self, began_s: float) -> int:
        return int((self._monotonic_s() - began_s) * 1000)


def _messages(view: LettaView, deltas: list[Delta]) -> Iterator[dict[str, Any]]:
    return map(view.message, deltas)


def _plain(chunk: "ChatCompletionChunk | None") -> ChatChunk:
    """Converts a chunk. The SDK validates nothing, so it may hold any value, and is None if the server sent `null`."""
    return chunk_from_json(None if chunk is None else chunk.model_dump(exclude_unset=True, warnings=False))


def _truncated() -> ErrorInfo:
    return ErrorInfo("upstream_truncated", "the stream ended without a finish reason", "provider")
