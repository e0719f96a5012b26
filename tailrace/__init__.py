"""Tailrace: a message-queue stream worker for LLM answers.

Everything that a web tier or a reader needs is imported from here: `from tailrace import Client`. Each name is loaded
when it is first used, so that `import tailrace` costs nothing. `tailrace.gateway` has the web gateway to mount, and
`tailrace.streaming` the interface for streams of the OpenAI SDK.
"""

TYPE_CHECKING = False  # not from typing, whose import would take longer than all else here
if TYPE_CHECKING:
    from tailrace.producers.answers import CancelResult, Status, Submission
    from tailrace.producers.client import Client
    from tailrace.producers.options import ClientOptions
    from tailrace.producers.queue.dead_letters import DeadLetter, DeadLetterContent, DeadLetters
    from tailrace.producers.queue.overview import Overview, Run, SeenWorker, WaitingLane
    from tailrace.producers.sync.client import SyncClient, SyncDeadLetters
    from tailrace.producers.sync.tail import SyncStream, SyncTail
    from tailrace.producers.tail.collapsed_state import Collapsed, CollapsedCall
    from tailrace.producers.tail.fanout.fanout import Following
    from tailrace.producers.tail.letta import LettaItem
    from tailrace.producers.tail.log_tail import Tailed
    from tailrace.producers.tail.snapshot import Snapshot
    from tailrace.producers.tail.tail import Stream, Tail
    from tailrace.producers.tokens import TokenSigner
    from tailrace.schemas.deltas import (
        Accepted,
        AssistantDelta,
        AttemptStarted,
        Cancelled,
        Completed,
        Delta,
        ErrorInfo,
        Failed,
        Gap,
        Incomplete,
        LogEntry,
        MessageIds,
        ReaderEvent,
        ReasoningDelta,
        RetryScheduled,
        Stalled,
        Terminal,
        ToolCallDelta,
        ToolCallPart,
        Usage,
    )
    from tailrace.schemas.errors import (
        AccessDenied,
        AttemptLost,
        CursorInvalid,
        DeadlineExceeded,
        LimitExceeded,
        LogFull,
        RequestConflict,
        RequestFailed,
        RequestRejected,
        RequestTooLarge,
        ResultsUnavailable,
        SettingsError,
        StoreError,
        StoreFull,
        StoreRefused,
        StoreUnavailable,
        TailError,
        TailraceError,
        TextDiscarded,
        TokenInvalid,
        UnknownRequest,
        UpstreamError,
        UpstreamProtocol,
        UpstreamRefused,
        UpstreamUnavailable,
    )
    from tailrace.schemas.interface_options import InterfaceOptions
    from tailrace.schemas.outcome import Outcome, OutputItem, ToolCall
    from tailrace.schemas.request import GenerationRequest
    from tailrace.schemas.results import Stored
    from tailrace.schemas.settings import Settings

    __version__: str

_MODULES = {
    "producers.answers": "CancelResult Status Submission",
    "producers.client": "Client",
    "producers.options": "ClientOptions",
    "producers.queue.dead_letters": "DeadLetter DeadLetterContent DeadLetters",
    "producers.queue.overview": "Overview Run SeenWorker WaitingLane",
    "producers.sync.client": "SyncClient SyncDeadLetters",
    "producers.sync.tail": "SyncStream SyncTail",
    "producers.tail.collapsed_state": "Collapsed CollapsedCall",
    "producers.tail.fanout.fanout": "Following",
    "producers.tail.letta": "LettaItem",
    "producers.tail.log_tail": "Tailed",
    "producers.tail.snapshot": "Snapshot",
    "producers.tail.tail": "Stream Tail",
    "producers.tokens": "TokenSigner",
    "schemas.deltas": (
        "Accepted AssistantDelta AttemptStarted Cancelled Completed Delta ErrorInfo Failed Gap Incomplete "
        "LogEntry MessageIds ReaderEvent ReasoningDelta RetryScheduled Stalled Terminal ToolCallDelta "
        "ToolCallPart Usage"
    ),
    "schemas.errors": (
        "AccessDenied AttemptLost CursorInvalid DeadlineExceeded LimitExceeded LogFull RequestConflict RequestFailed "
        "RequestRejected RequestTooLarge ResultsUnavailable SettingsError StoreError StoreFull StoreRefused "
        "StoreUnavailable TailError TailraceError TextDiscarded TokenInvalid UnknownRequest UpstreamError "
        "UpstreamProtocol UpstreamRefused UpstreamUnavailable"
    ),
    "schemas.interface_options": "InterfaceOptions",
    "schemas.outcome": "Outcome OutputItem ToolCall",
    "schemas.request": "GenerationRequest",
    "schemas.results": "Stored",
    "schemas.settings": "Settings",
}
"""The module of each name."""

# fmt: off
__all__ = [  # a literal, for type checkers
    "Accepted", "AccessDenied", "AssistantDelta", "AttemptLost", "AttemptStarted", "CancelResult", "Cancelled",
    "Client", "ClientOptions", "Collapsed", "CollapsedCall", "Completed", "CursorInvalid", "DeadLetter",
    "DeadLetterContent", "DeadLetters", "DeadlineExceeded", "Delta", "ErrorInfo", "Failed", "Following", "Gap",
    "GenerationRequest", "Incomplete", "InterfaceOptions", "LettaItem", "LimitExceeded", "LogEntry", "LogFull",
    "MessageIds", "Outcome", "OutputItem", "Overview", "ReaderEvent", "ReasoningDelta", "RequestConflict",
    "RequestFailed", "RequestRejected", "RequestTooLarge", "ResultsUnavailable", "RetryScheduled", "Run",
    "SeenWorker", "Settings", "SettingsError", "Snapshot", "Stalled", "Status", "StoreError", "StoreFull",
    "StoreRefused", "StoreUnavailable", "Stored", "Stream", "Submission", "SyncClient", "SyncDeadLetters",
    "SyncStream", "SyncTail", "Tail", "TailError", "Tailed", "TailraceError", "Terminal", "TextDiscarded",
    "TokenInvalid", "TokenSigner", "ToolCall", "ToolCallDelta", "ToolCallPart", "UnknownRequest", "UpstreamError",
    "UpstreamProtocol", "UpstreamRefused", "UpstreamUnavailable", "Usage", "WaitingLane", "__version__",
]
# fmt: on


if not TYPE_CHECKING:  # so that type checkers report a name that does not exist

    def __getattr__(name):
        from importlib import import_module

        if name == "__version__":
            from importlib.metadata import version

            value = version("tailrace")
        else:
            module = next((module for module, names in _MODULES.items() if name in names.split()), None)
            if module is None:
                raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
            value = getattr(import_module(f"tailrace.{module}"), name)
        globals()[name] = value
        return value


def __dir__() -> list[str]:
    return __all__
