"""From a scenario's steps to fragments: what each chunk will carry, whichever API carries it.

Pure. Owns the cutting into fragments, the token budget and the count of tokens; a fragment counts as one token.
"""

from __future__ import annotations

import random
from dataclasses import dataclass

from demo.simulator.scenario import Chunking, CustomToolCall, Reasoning, Refusal, Scenario, Step, Text, ToolCall

_WORDS = (
    "water wheel mill race river stone gate flow bank reed stream weir sluice grain flour "
    "turn carry slow deep clear over under through along beside early late again"
).split()


@dataclass(frozen=True, slots=True)
class Part:
    """One step and the fragments it is sent in. `complete` is false where the token limit cut it short."""

    step: Step
    fragments: tuple[str, ...]
    complete: bool = True

    @property
    def text(self) -> str:
        return "".join(self.fragments)


@dataclass(frozen=True, slots=True)
class Plan:
    """All parts of an answer, why it ends, and what it counts.

    `length` is true when the answer was cut by the token limit, asked for by the request or by the scenario.
    """

    parts: tuple[Part, ...]
    length: bool
    input_tokens: int
    output_tokens: int
    reasoning_tokens: int


def seeded(seed: int | str) -> random.Random:
    """A generator of its own, so that nothing else moves it."""
    return random.Random(seed)  # noqa: S311 -- texts and paces, no secrets


def filler(chars: int, seed: int) -> str:
    """Made-up text of exactly so many characters."""
    rng = seeded(seed)
    words: list[str] = []
    have = 0
    while have < chars:
        word = rng.choice(_WORDS)
        words.append(word)
        have += len(word) + 1
    return " ".join(words)[:chars].ljust(chars, ".")


def cut(text: str, chunking: Chunking) -> tuple[str, ...]:
    """`text` in fragments. No fragment is empty; an empty text has none."""
    if chunking.seed is None:
        return tuple(text[at : at + chunking.chars] for at in range(0, len(text), chunking.chars))
    rng = seeded(f"{chunking.seed}:{text}")
    fragments: list[str] = []
    at = 0
    while at < len(text):
        size = rng.randint(1, 2 * chunking.chars - 1)
        fragments.append(text[at : at + size])
        at += size
    return tuple(fragments)


def _fragments(step: Step, scenario: Scenario) -> tuple[str, ...]:
    chunking = scenario.chunking
    match step:
        case Text(chunks=chunks) if chunks:
            return cut(filler(chunks * chunking.chars, scenario.seed), Chunking(chars=chunking.chars))
        case Text(text=text) | Refusal(text=text) | CustomToolCall(input=text):
            return cut(text, chunking)
        case Reasoning():
            return cut("\n\n".join(step.parts) if step.parts else step.text, chunking)
        case ToolCall():
            return cut(step.raw, chunking)
        case _:
            return ()


def make_plan(steps: tuple[Step, ...], scenario: Scenario, *, input_tokens: int, max_tokens: int | None) -> Plan:
    """Cuts the steps into fragments, no more than `max_tokens` of them."""
    parts: list[Part] = []
    left = max_tokens if max_tokens is not None else -1
    used = reasoned = 0
    length = False
    for step in steps:
        fragments = _fragments(step, scenario)
        if 0 <= left < used + len(fragments):
            fragments, length = fragments[: left - used], True
        used += len(fragments)
        if isinstance(step, Reasoning):
            reasoned += len(fragments)
        parts.append(Part(step, fragments, complete=not length))
        if length:
            break
    if scenario.finish_reason == "length" and parts and not length:
        length = True
        parts[-1] = Part(parts[-1].step, parts[-1].fragments, complete=False)
    return Plan(tuple(parts), length, input_tokens, used, reasoned)
