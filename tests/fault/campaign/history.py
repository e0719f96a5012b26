"""What happened in a campaign, as the driver saw it, and how everything stood at its end. Values only.

Times are seconds since 1970 by the machine's clock, which all parts share.
"""

from typing import Literal

import msgspec

from tests.fault.campaign.plan import FaultKind, Plan


class Answered(msgspec.Struct, frozen=True, kw_only=True):
    """A submit that was answered, after `failed` calls that were not."""

    id: str
    asked: float
    answered: float
    word: Literal["accepted", "standing", "conflict"]
    first: bool
    failed: int = 0


class CancelCall(msgspec.Struct, frozen=True, kw_only=True):
    """A cancel that was answered: its word and status."""

    id: str
    asked: float
    answered: float
    word: str
    status: str


class Seen(msgspec.Struct, frozen=True, omit_defaults=True):
    """An item of a tail: its cursor, None for what the reader itself says, and its JSON.

    `at`: when the reader said it; an entry of the log has times of its own.
    """

    cursor: str | None
    raw: bytes
    at: float = 0.0


class Segment(msgspec.Struct, frozen=True):
    """What a reader saw from coming to leaving. `ended`: `left`, `terminal`, or what was raised."""

    after: str | None
    items: list[Seen]
    ended: str


class Reading(msgspec.Struct, frozen=True):
    """All that one reader of a request saw."""

    id: str
    reader: int
    segments: list[Segment]


class Disturbance(msgspec.Struct, frozen=True):
    """A fault that was done. `until`: when what it broke was whole again, as far as the driver can tell."""

    kind: FaultKind
    target: int
    began: float
    until: float
    pid: int = 0


class Exit(msgspec.Struct, frozen=True):
    """The end of a worker process. `asked`: the signal the driver sent it, None when it ended by itself."""

    place: int
    pid: int
    code: int | None
    asked: Literal["SIGKILL", "SIGTERM"] | None
    was_ready: bool
    at: float


class KeyLeft(msgspec.Struct, frozen=True):
    """A key found at the end. `ttl_ms`: -1 without lifetime."""

    name: str
    kind: str
    ttl_ms: int


class UpstreamCall(msgspec.Struct, frozen=True):
    """A call as the simulator's ledger has it."""

    key: str | None
    call: int | None
    path: str
    status: int | None
    ended: str
    began: float
    ended_at: float | None


class Final(msgspec.Struct, frozen=True, kw_only=True):
    """How everything stood. `idle_*`: when all requests had ended, before the workers were told to go.

    Attributes:
        idle_queue: ids in the queue.
        idle_running: keys of calls that the simulator still answered.
        records: fields of each request's record, without its request; no entry where there is none.
        logs: id and JSON of each entry of each log.
        keys: every key of the server.
        dead: ids in the dead-letter list.
        calls: the simulator's ledger.
        open_connections: to the simulator, without the one that asked.
        processes: pids of worker processes still there.
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
    """A campaign from begin to end."""

    plan: Plan
    submits: list[Answered]
    cancels: list[CancelCall]
    readings: list[Reading]
    disturbances: list[Disturbance]
    exits: list[Exit]
    began: float
    healed: float
    ended: float
    final: Final


def dump(history: History) -> bytes:
    """As JSON; bytes of entries as base64."""
    return msgspec.json.encode(history)


def load(raw: bytes) -> History:
    """A history that was dumped."""
    return msgspec.json.decode(raw, type=History)
