"""Makes a plan from a seed: requests with their readers and cancels, and faults with their targets and times. Pure.

The same seed and form always make the same plan. What happens then also depends on the machine, so a repetition
usually finds the same violation, but not always.
"""

from collections.abc import Mapping
from random import Random
from typing import Any, Literal

import msgspec

from tests.fault.campaign.answers import Limits, ScriptedAnswer, draw

How = Literal["submit", "enqueue"]
Via = Literal["direct", "proxy"]
ServerFault = Literal["kill_server", "stop_server", "hang_server"]
WorkerFault = Literal["kill_worker", "hang_worker", "drain_worker", "hurry_worker"]
LinkFault = Literal["cut", "delay", "blackhole", "lose_reply", "halve_request"]
FaultKind = ServerFault | WorkerFault | LinkFault | Literal["kill_fleet"]

CLIENTS = -1
"""Target of a fault: the proxy between clients and server."""

TENANTS = ("acme", "initech")
WORKER_SCRIPTS = ("claim", "begin", "finish", "acknowledge", "hand_back", "renew", "release", "next_attempt")
CLIENT_SCRIPTS = ("submit", "cancel")


class PlannedReader(msgspec.Struct, frozen=True):
    """Tails from the beginning. `leaves`: after how many items it disconnects, and for how many seconds."""

    via: Via
    begins_s: float
    leaves: tuple[tuple[int, float], ...]


class PlannedRequest(msgspec.Struct, frozen=True, kw_only=True):
    """A request. Times are seconds: `at_s` since the campaign began, all others since the request was accepted."""

    id: str
    at_s: float
    how: How
    via: Via
    request: dict[str, Any]
    answer: ScriptedAnswer
    again_s: tuple[float, ...]
    conflicts: bool
    cancel_s: tuple[float, ...]
    readers: tuple[PlannedReader, ...]


PoisonKind = Literal["unknown_function", "no_request", "garbage"]


class PlannedPoison(msgspec.Struct, frozen=True):
    """A job that no worker can run: its function is unknown, its request invalid, or its envelope unreadable."""

    id: str
    at_s: float
    kind: PoisonKind


class PlannedFault(msgspec.Struct, frozen=True):
    """`target`: a worker's number or `CLIENTS`; `script`: the script whose reply is lost or whose request is halved."""

    at_s: float
    kind: FaultKind
    target: int = 0
    for_s: float = 0.0
    script: str = ""


class Form(msgspec.Struct, frozen=True, kw_only=True):
    """The settings of a campaign, the same for every seed.

    Attributes:
        name: its name on the command line.
        requests: number of requests.
        active_s: for how many seconds requests and faults begin.
        workers: number of worker processes.
        fault_every_s: the mean time between two faults.
        answers: how long answers take.
        fsync: the server's `appendfsync`. The server is killed only with `always`, which loses no acknowledged write.
        settings: the workers' `TAILRACE_*`, by name without prefix.
        settle_s: how long everything may take to end after the last fault.
        restarts: the most faults that end a worker process, which takes seconds to replace; -1 for any number.
    """

    name: str
    requests: int
    active_s: float
    workers: int
    fault_every_s: float
    answers: Limits
    fsync: Literal["always", "everysec"]
    settings: Mapping[str, str]
    settle_s: float
    restarts: int = -1

    @property
    def lease_s(self) -> float:
        """The workers' lease in seconds."""
        return float(self.settings["LEASE_S"])

    @property
    def tenant_limit(self) -> int:
        """How many requests of one tenant may run at once."""
        return int(self.settings["TENANT_LIMIT"])


SHORT = Form(
    name="short",
    requests=80,
    active_s=8.0,
    workers=3,
    fault_every_s=0.6,
    answers=Limits(0.2, 2.0, (15, 40)),
    fsync="always",
    settings={
        "LEASE_S": "2",
        "POLL_S": "0.5",
        "DRAIN_S": "0.5",
        "MAX_JOBS": "40",
        "MAX_ATTEMPTS": "4",
        "TENANT_LIMIT": "3",
        "FIRST_BYTE_TIMEOUT_S": "2.5",
        "IDLE_TIMEOUT_S": "2.5",
    },
    settle_s=20.0,
    restarts=2,
)
LONG = Form(
    name="long",
    requests=900,
    active_s=540.0,
    workers=4,
    fault_every_s=3.0,
    answers=Limits(0.3, 20.0, (15, 40)),
    fsync="always",
    settings={
        "LEASE_S": "5",
        "DRAIN_S": "3",
        "TENANT_LIMIT": "3",
        "FIRST_BYTE_TIMEOUT_S": "6",
        "IDLE_TIMEOUT_S": "5",
    },
    settle_s=90.0,
)
FORMS = {form.name: form for form in (SHORT, LONG)}


class Plan(msgspec.Struct, frozen=True):
    """Everything that a campaign does."""

    seed: int
    form: Form
    requests: tuple[PlannedRequest, ...]
    poison: tuple[PlannedPoison, ...]
    faults: tuple[PlannedFault, ...]


def make_plan(seed: int, form: Form) -> Plan:
    """Makes the plan of a seed."""
    rng = Random(seed)  # noqa: S311 - repeatable, no secret
    requests = tuple(_request(rng, f"c{seed}-{number}", form) for number in range(form.requests))
    in_order = tuple(sorted(requests, key=lambda request: request.at_s))
    return Plan(seed, form, in_order, tuple(_poison(rng, form, f"p{seed}")), tuple(_faults(rng, form)))


def _poison(rng: Random, form: Form, prefix: str) -> list[PlannedPoison]:
    kinds: tuple[PoisonKind, ...] = ("unknown_function", "no_request", "garbage")
    return [PlannedPoison(f"{prefix}-{kind}", rng.uniform(0, form.active_s), kind) for kind in kinds]


def _request(rng: Random, request_id: str, form: Form) -> PlannedRequest:
    request, answer, lasts_s = draw(rng, request_id, form.answers)
    how: How = "enqueue" if rng.random() < 0.2 else "submit"
    if how == "submit":  # a plain `enqueue_job` has no lane
        request |= _tenant_and_priority(rng)
    return PlannedRequest(
        id=request_id,
        at_s=rng.uniform(0, form.active_s),
        how=how,
        via=_via(rng),
        request=request,
        answer=answer,
        again_s=tuple(rng.uniform(0, lasts_s * 1.5) for _ in range(rng.choice((0, 0, 1, 2)))),
        conflicts=how == "submit" and rng.random() < 0.1,
        cancel_s=_cancels(rng, lasts_s),
        readers=tuple(_reader(rng, lasts_s) for _ in range(rng.choice((1, 1, 2, 3)))),
    )


def _tenant_and_priority(rng: Random) -> dict[str, Any]:
    tenant: dict[str, Any] = {"tenant": rng.choice(TENANTS)} if rng.random() < 0.4 else {}
    return tenant | ({"priority": rng.choice(("high", "low"))} if rng.random() < 0.2 else {})


def _cancels(rng: Random, lasts_s: float) -> tuple[float, ...]:
    if rng.random() < 0.8:
        return ()
    first_s = 0.0 if rng.random() < 0.2 else rng.uniform(0, lasts_s * 1.2)
    return (first_s, first_s + rng.uniform(0, 0.5)) if rng.random() < 0.3 else (first_s,)


def _reader(rng: Random, lasts_s: float) -> PlannedReader:
    times = rng.choice((0, 1, 2, 4))
    leaves = tuple((rng.randint(1, 40), rng.choice((0.0, rng.uniform(0, 1.0)))) for _ in range(times))
    return PlannedReader(_via(rng), rng.choice((0.0, rng.uniform(0, lasts_s * 1.3))), leaves)


def _via(rng: Random) -> Via:
    return rng.choice(("direct", "proxy"))


_WEIGHTS: dict[FaultKind, int] = {
    "kill_worker": 12,
    "hang_worker": 12,
    "drain_worker": 9,
    "hurry_worker": 3,
    "kill_fleet": 1,
    "kill_server": 5,
    "stop_server": 3,
    "hang_server": 4,
    "cut": 14,
    "delay": 6,
    "blackhole": 12,
    "lose_reply": 14,
    "halve_request": 5,
}

_RESTARTS: frozenset[FaultKind] = frozenset({"kill_worker", "drain_worker", "hurry_worker", "kill_fleet"})


def _faults(rng: Random, form: Form) -> list[PlannedFault]:
    left_out: set[FaultKind] = set() if form.fsync == "always" else {"kill_server"}
    faults: list[PlannedFault] = []
    at_s = rng.uniform(0, form.fault_every_s)
    while at_s < form.active_s:
        spent = sum(fault.kind in _RESTARTS for fault in faults) == form.restarts
        kinds: list[FaultKind] = [kind for kind in _WEIGHTS if not ((spent and kind in _RESTARTS) or kind in left_out)]
        kind = rng.choices(kinds, [_WEIGHTS[kind] for kind in kinds])[0]
        faults.append(_fault(rng, at_s, kind, form))
        at_s += rng.expovariate(1 / form.fault_every_s)
    return faults


def _fault(rng: Random, at_s: float, kind: FaultKind, form: Form) -> PlannedFault:
    lease_s = form.lease_s
    worker = rng.randrange(form.workers)
    link = rng.randrange(CLIENTS, form.workers)
    match kind:
        case "kill_worker" | "drain_worker" | "hurry_worker":
            return PlannedFault(at_s, kind, worker, rng.choice((0.0, rng.uniform(0, lease_s))))
        case "hang_worker":
            return PlannedFault(at_s, kind, worker, lease_s * rng.choice((0.2, 0.6, 1.2, 2.0)))
        case "kill_fleet":
            return PlannedFault(at_s, kind, 0, rng.uniform(0, lease_s))
        case "kill_server" | "stop_server":
            return PlannedFault(at_s, kind, 0, rng.uniform(0, 1.0))
        case "hang_server":
            return PlannedFault(at_s, kind, 0, rng.uniform(0.1, min(1.5 * lease_s, 4.0)))
        case "delay":
            return PlannedFault(at_s, kind, link, rng.uniform(0.5, 2.0))
        case "blackhole":
            return PlannedFault(at_s, kind, link, rng.choice((0.3, 1.0, min(1.5 * lease_s, 7.0))))
        case "lose_reply" | "halve_request":
            script = rng.choice(CLIENT_SCRIPTS if link == CLIENTS else WORKER_SCRIPTS)
            return PlannedFault(at_s, kind, link, 0.0, script)
        case _:
            return PlannedFault(at_s, kind, link)
