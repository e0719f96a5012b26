"""The Lua scripts, one a verb: loads `lua/`, names keys and arguments, reads verdicts. Sends nothing to Redis itself.

Every script bears being sent twice: a client may repeat one whose reply was lost.
"""

from collections.abc import Mapping
from functools import cached_property
from importlib.resources import files
from math import isfinite
from types import MappingProxyType
from typing import Any, NamedTuple

from tailrace.broker import keys as names
from tailrace.schemas.priority import DEFAULT_PRIORITY

Argument = str | bytes | int


class Verdict(NamedTuple):
    """A script's answer: a word, and what it says beside it."""

    word: str
    fields: dict[str, bytes]

    def text(self, name: str) -> str:
        """A field as text."""
        return self.fields[name].decode()

    def number(self, name: str) -> int:
        """A field as a whole number."""
        return int(self.fields[name])


class Script:
    """A verb of the protocol.

    Args:
        name: file name in `lua/` without its ending.
        keys: names of KEYS, in order.
        args: names of ARGV, in order.
        words: every word its verdict may begin with.
        seldom: what those of `args` are that a caller may leave out.
        lanes: whether it works on lanes, so needs `_lanes.lua`.

    Each works either on one request's record and log, or on the queue: they may stand on different servers.
    """

    def __init__(
        self,
        name: str,
        keys: tuple[str, ...],
        args: tuple[str, ...],
        words: frozenset[str],
        seldom: Mapping[str, Argument],
        lanes: bool,
    ) -> None:
        self.name = name
        self.keys = keys
        self.args = args
        self.words = words
        self._seldom = seldom
        self._lanes = lanes

    @cached_property
    def text(self) -> str:
        """The Lua source, prelude included. Flags, where it has some, go before all (Redis, "Script flags")."""
        folder = files("tailrace.broker") / "lua"
        own = (folder / f"{self.name}.lua").read_text()
        flags, own = own.split("\n", 1) if own.startswith("#!") else ("", own)
        parts = ["_prelude", "_lanes"] if self._lanes else ["_prelude"]
        sources = [(folder / f"{part}.lua").read_text() for part in parts]
        lines = [_PUSH_NAMES, _LANE_NAMES, *sources, own] if self._lanes else [_PUSH_NAMES, *sources, own]
        return "\n".join([flags, *lines] if flags else lines)

    def call(self, **given: Argument) -> tuple[list[Argument], list[Argument]]:
        """KEYS and ARGV in their order, from arguments by name."""
        given = {**self._seldom, **given}
        if given.keys() != {*self.keys, *self.args}:
            raise TypeError(f"{self.name} takes {self.keys + self.args}, got {tuple(given)}")
        return [given[name] for name in self.keys], [given[name] for name in self.args]

    def verdict(self, reply: list[bytes]) -> Verdict:
        """Reads a reply: a word, then names and values."""
        word, rest = reply[0].decode(), reply[1:]
        if word not in self.words:
            raise ValueError(f"{self.name} answered {word!r}")
        return Verdict(word, {name.decode(): value for name, value in zip(rest[::2], rest[1::2], strict=True)})


_PUSH_NAMES = f"local PUSH, PUSH_SHARDS = '{names.PUSH}', {names.PUSH_SHARDS}"
_LANE_NAMES = f"""local LANES, PARKED, WATCHED, LANE, RUNNING = \
'{names.LANES}', '{names.PARKED}', '{names.WATCHED}', '{names.lane_key("")}', '{names.running_key("")}'
local WAKE, WAKE_LIFE_S, STATE_LIFE_S = '{names.WAKE}', {names.WAKE_LIFETIME_S}, {names.QUEUE_STATE_LIFETIME_S}
local OUTBOX_LIFE_S = {names.OUTBOX_LIFETIME_S}
"""


def _script(
    name: str,
    keys: str,
    args: str,
    words: str,
    seldom: Mapping[str, Argument] = MappingProxyType({}),
    lanes: bool = False,
) -> Script:
    return Script(name, tuple(keys.split()), tuple(args.split()), frozenset(words.split()), seldom, lanes)


SUBMIT = _script(
    "submit",
    "rec log",
    "request digest api model timeout_ms retention_ms accepted tenant priority retry_of",
    "accepted standing conflict",
    seldom={"tenant": "", "priority": DEFAULT_PRIORITY, "retry_of": ""},
)
BEGIN = _script(
    "begin",
    "rec log",
    "attempt token attempt_started crashes",
    "begun again stale finished unknown",
    seldom={"crashes": 0},
)
FAIL = _script("fail", "rec", "attempt token failures", "counted stale")
FINISH = _script(
    "finish",
    "rec log",
    "attempt token terminal_id terminal outcome status failures error dead hold_ms",
    "finished again stale ended unknown gap",
    seldom={"failures": 0, "error": "", "dead": 0, "hold_ms": 0},
)
EPITAPH = _script("epitaph", "rec", "bytes_max", "dead none spared")
BURY = _script(
    "bury",
    "dead letter job",
    "id error died_ms attempt failures crashes drains tenant request with_envelope life_ms entries_max bytes_max",
    "buried",
    seldom={"died_ms": 0, "attempt": 0, "failures": 0, "drains": 0, "tenant": "", "request": ""},
)
CANCEL = _script(
    "cancel",
    "rec log",
    "channel request_id terminal outcome hold_ms",
    "ended signalled finished unknown",
    seldom={"hold_ms": 0},
)
STORED = _script("stored", "rec", "attempt", "released kept unknown")
RELEASE = _script("release", "rec", "attempt token", "released stale")
SIGNS = _script("signs", "lease queue health", "id lane since_ms", "held waiting lost", lanes=True)
ENQUEUE = _script(
    "enqueue", "queue lease job", "id lane envelope life_ms since_ms wake_tokens_max", "enqueued standing", lanes=True
)
UNQUEUE = _script("unqueue", "queue lease state job retry outbox", "id lane", "removed held unfinished", lanes=True)
CLAIM = _script(
    "claim",
    "queue wake",
    "limit lease_ms token again wake_life_s state_life_s tenant_limit tenant_limits",
    "claimed",
    seldom={"tenant_limit": 0, "tenant_limits": b"\x80"},  # no limit, an empty map in msgpack
    lanes=True,
)
RENEW = _script("renew", "queue", "lease_ms leases", "renewed", lanes=True)
ACKNOWLEDGE = _script(
    "acknowledge",
    "queue lease state job retry abort outbox",
    "id token attempt",
    "acknowledged again stale unfinished",
    lanes=True,
)
HAND_BACK = _script(
    "hand_back",
    "queue wake lease state",
    "id token attempt delay_ms why wake_life_s state_life_s cut_off",
    "handed_back again stale",
    seldom={"cut_off": 0},
    lanes=True,
)
TRIAL = _script("trial", "lease state", "token alone", "noted stale")
ANNOUNCE = _script("announce", "workers worker", "name gone life_ms", "noted gone")
OVERVIEW = _script(
    "overview", "queue workers dead outbox refused", "lanes_max begun_max workers_max", "seen", lanes=True
)
NEXT_ATTEMPT = _script("next_attempt", "lease state", "token state_life_s above", "minted stale", seldom={"above": 0})


class ClaimedJob(NamedTuple):
    """A job that claim gave out.

    Attributes:
        blamed: whether a worker died while this job was on trial alone.
        score: when it was due, in ms.
        envelope: arq's, empty when it has expired.
    """

    id: str
    attempt: int
    why: str
    crashes: int
    blamed: bool
    score: int
    envelope: bytes


class Claim(NamedTuple):
    """The answer of claim. `next_s`: until the next job is due, None without one; `left`: some are due now."""

    jobs: list[ClaimedJob]
    next_s: float | None
    left: bool


def read_claim(reply: list[bytes]) -> Claim:
    """Reads the reply of claim, the one that is a list of jobs.

    What arq could never have enqueued, an id that is no text, is left out: it must not take a worker down with it.
    """
    word, next_ms, left, *fields = reply
    if word.decode() not in CLAIM.words:
        raise ValueError(f"claim answered {word!r}")
    jobs = [
        ClaimedJob(job_id.decode(), int(attempt), why.decode(), int(crashes), blamed == b"1", _whole(score), envelope)
        for job_id, attempt, why, crashes, blamed, score, envelope in zip(*[iter(fields)] * 7, strict=True)
        if _is_text(job_id)
    ]
    return Claim(jobs, None if next_ms == b"-1" else int(next_ms) / 1000, left == b"1")


class Overview(NamedTuple):
    """The answer of overview. `lanes`: lane, how many wait, since when in ms. `runs`: id, under a lease, handed back,
    attempt, crashes. `workers`: name, ms until what it said is forgotten, what it said. `outbox`: how many outcomes
    wait for their database, since when in ms, how many it has refused."""

    now_ms: int
    begun: int
    dead: int
    deferred: int
    lanes: list[tuple[bytes, int, bytes]]
    runs: list[tuple[bytes, int, int, int, int]]
    workers: list[tuple[bytes, int, bytes]]
    outbox: tuple[int, int, int]

    @property
    def outbox_age_s(self) -> float:
        """How long the outcome that waits longest for the database has."""
        since_ms = self.outbox[1]
        return max(self.now_ms - since_ms, 0) / 1000 if since_ms >= 0 else 0.0


def read_overview(reply: list[Any]) -> Overview:
    """Reads the reply of overview, which is made of lists."""
    word, *rest = reply
    if word.decode() not in OVERVIEW.words:
        raise ValueError(f"overview answered {word!r}")
    return Overview(*rest)


def _is_text(job_id: bytes) -> bool:
    try:
        job_id.decode()
    except UnicodeDecodeError:
        return False
    return True


def _whole(score: bytes) -> int:
    """A score in ms; 0 for one without end, which is somebody's own idea of due."""
    number = float(score)
    return int(number) if isfinite(number) else 0
