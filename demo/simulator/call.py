"""One call of the model: the HTTP request, and the answer that the simulator plays for it."""

from __future__ import annotations

import hashlib
import secrets
import string
from collections.abc import Mapping
from dataclasses import dataclass

from tailrace.demo.simulator.errors import model_not_found
from tailrace.demo.simulator.improvise import improvise
from tailrace.demo.simulator.ledger import Entry, Ledger
from tailrace.demo.simulator.library import choose_scenario, knows_model
from tailrace.demo.simulator.plan import Plan, make_plan
from tailrace.demo.simulator.request import Asked
from tailrace.demo.simulator.scenario import Fault, Scenario

_LETTERS = string.ascii_letters + string.digits


def made_up(prefix: str, letters: int) -> str:
    """An identifier in OpenAI's format."""
    return prefix + "".join(secrets.choice(_LETTERS) for _ in range(letters))


@dataclass(frozen=True, slots=True)
class Request:
    """An HTTP request, with header names in lower case and the path without its query."""

    method: str
    path: str
    query: str
    headers: Mapping[str, str]
    body: bytes


@dataclass(frozen=True, slots=True)
class Call:
    """The request, how to play its answer, and the faults of this call."""

    asked: Asked
    scenario: Scenario
    faults: tuple[Fault, ...]
    plan: Plan


def due_faults(scenario: Scenario, entry: Entry, ledger: Ledger, key: str) -> tuple[Fault, ...]:
    """Counts this call under its key, and drops the faults that apply only to earlier ones.

    Only calls whose faults depend on the count are counted: otherwise the table would grow with every request.
    """
    if scenario.key is None and all(fault.calls is None for fault in scenario.faults):
        return scenario.faults
    entry.key = scenario.key or key
    number = entry.call = ledger.call(entry.key)
    return tuple(fault for fault in scenario.faults if fault.calls is None or number <= fault.calls)


def take_call(request: Request, entry: Entry, asked: Asked, ledger: Ledger) -> Call:
    """Records the call in its entry, and finds the answer to play.

    Raises:
        ApiError: 404, the model is unknown.
        ScenarioError: the scenario is not valid.
    """
    entry.model, entry.stream = asked.model, asked.stream
    if not knows_model(asked.model):
        raise model_not_found(asked.model)
    scenario = choose_scenario(request.headers.get("x-simulator-scenario"), asked.body, asked.model)
    faults = due_faults(scenario, entry, ledger, hashlib.sha256(request.body).hexdigest()[:16])
    steps = improvise(asked, scenario.seed) if scenario.steps is None else scenario.steps
    plan = make_plan(steps, scenario, input_tokens=asked.input_tokens, max_tokens=asked.max_tokens)
    return Call(asked, scenario, faults, plan)
