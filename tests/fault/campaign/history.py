"""What happened in a campaign, as the driver saw it, and the state at its end. Values only.

Times are seconds since 1970 by the machine's clock, which all parts share.
"""

from typing import Literal

import msgspec

from tests.fault.campaign.plan import FaultKind, Plan


class SubmitAnswer(msgspec.Struct, frozen=True, kw_only=True):
    """The answer to a submit, after `failed` calls without one."""

    id: str
    asked: float
    answered: float
    result: Literal["accepted", "existing", "conflict"]
    first: bool
    failed: int = 0


class CancelCall(msgspec.Struct, frozen=True, kw_only=True):
    """The answer to a cancel: result and status."""

    id: str
    asked: float
    answered: float
    result: str
    status: str


class Seen(msgspec.Struct, frozen=True, omit_defaults=True):
    """An item of a tail: its cursor and its JSON. Without a cursor it is an event of the reader, not an entry.

    `at`: when a reader event came; entries of the log have times of their own.
    """

    cursor: str | None
    raw: bytes
    at: float = 0.0


class Segment(msgspec.Struct, frozen=True):
    """What a reader saw over one connection. `ended`: `left`, `terminal`, or the error that was raised."""

    after: str | None
    items: list[Seen]
    ended: str


class Reading(msgspec.Struct, frozen=True):
    """Everything that one reader of a request saw."""

    id: str
    reader: int
    segments: list[Segment]


class Disturbance(msgspec.Struct, frozen=True):
    """A fault that was applied. `until`: when the driver had repaired what it broke."""

    kind: FaultKind
    target: int
    began: float
    until: float
    pid: int = 0


class Exit(msgspec.Struct, frozen=True):
    """The end of a worker process. `asked`: the signal that the driver sent, None if it ended by itself."""

    worker: int
    pid: int
    code: int | None
    asked: Literal["SIGKILL", "SIGTERM"] | None
    was_ready: bool
    at: float


class KeyLeft(msgspec.Struct, frozen=True):
    """A key found at the end. `ttl_ms`: -1 without a lifetime."""

    name: str
    kind: str
    ttl_ms: int


class UpstreamCall(msgspec.Struct, frozen=True):
    """A call of the model, from the simulator's ledger."""

    key: str | None
    call: int | None
    path: str
    status: int | None
    ended: str
    began: float
    ended_at: float | None


class Final(msgspec.Struct, frozen=True, kw_only=True):
    """The state at the end. `idle_*`: when all requests had ended, before the workers were drained.

    Attributes:
        idle_queue: ids in the queue.
        idle_running: keys of calls that were still open.
        records: fields of each request's record, without its request; no entry where there is none.
        logs: id and JSON of each entry of each log.
        keys: every key of the server.
        dead: ids in the dead-letter list.
        calls: the simulator's ledger.
        open_connections: connections to the simulator, without the one that asked.
        processes: pids of worker processes that have not ended.
    """

    idle_queue: list[str]
    idle_running: list[str]
    records: dict[str, dict[str, str]]
    logs: dict[str, list[tuple[str, bytes]]]
    keys: list[KeyLeft]
    dead: list[str]
    calls: list[UpstreamCall]
    open_connections: int
    processes: list[int]


class History(msgspec.Struct, frozen=True, kw_only=True):
    """A campaign from start to end."""

    plan: Plan
    submits: list[SubmitAnswer]
    cancels: list[CancelCall]
    readings: list[Reading]
    disturbances: list[Disturbance]
    exits: list[Exit]
    began: float
    repaired: float
    ended: float
    final: Final


def dump(history: History) -> bytes:
    """Encodes a history as JSON; bytes of entries as base64."""
    return msgspec.json.encode(history)


def load(raw: bytes) -> History:
    """Decodes what `dump` encoded."""
    return msgspec.json.decode(raw, type=History)
