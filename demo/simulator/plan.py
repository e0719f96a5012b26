"""Turns a scenario's steps into fragments: the content of each chunk, for either API.

Pure. Owns the cutting into fragments, the token budget and the count of tokens; a fragment counts as one token.
"""

from __future__ import annotations

import random
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import TypeVar

from tailrace.demo.simulator.scenario import (
    Chunking,
    CustomToolCall,
    Reasoning,
    Refusal,
    Scenario,
    Step,
    Text,
    ToolCall,
)

T = TypeVar("T")

_WORDS = (
    "water wheel mill race river stone gate flow bank reed stream weir sluice grain flour "
    "turn carry slow deep clear over under through along beside early late again"
).split()


@dataclass(frozen=True, slots=True)
class Part:
    """One step and its fragments. `complete` is false if the token limit cut it short.

    `breaks`: numbers of the fragments with which a further summary part of a reasoning step begins.
    """

    step: Step
    fragments: tuple[str, ...]
    complete: bool = True
    breaks: frozenset[int] = frozenset()

    @property
    def text(self) -> str:
        return "".join(self.fragments)

    def spoken(self) -> Iterator[str]:
        """The fragments as one text, with a blank line between summary parts."""
        for number, fragment in enumerate(self.fragments):
            yield f"\n\n{fragment}" if number in self.breaks else fragment

    def sections(self) -> list[tuple[str, ...]]:
        """The fragments of each summary part."""
        bounds = [0, *sorted(self.breaks), len(self.fragments)]
        return [self.fragments[start:end] for start, end in pairwise(bounds) if end > start]


@dataclass(frozen=True, slots=True)
class Plan:
    """All parts of an answer, why it ends, and its token counts.

    `length` is true if the answer was cut by the token limit of the request or the scenario.
    """

    parts: tuple[Part, ...]
    length: bool
    input_tokens: int
    output_tokens: int
    reasoning_tokens: int


def seeded(seed: int | str) -> random.Random:
    """A random generator that nothing else uses."""
    return random.Random(seed)  # noqa: S311 -- texts and paces, no secrets


def filler(chars: int, seed: int) -> str:
    """Generated text of exactly this many characters."""
    rng = seeded(seed)
    words: list[str] = []
    have = 0
    while have < chars:
        word = rng.choice(_WORDS)
        words.append(word)
        have += len(word) + 1
    return " ".join(words)[:chars].ljust(chars, ".")


def cut(text: str, chunking: Chunking) -> tuple[str, ...]:
    """Splits `text` into fragments. No fragment is empty; an empty text has none."""
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


def round_robin(streams: Iterable[Iterator[T]]) -> Iterator[T]:
    """Yields one element of each in turn until all have ended."""
    left = list(streams)
    while left:
        for stream in tuple(left):
            try:
                yield next(stream)
            except StopIteration:
                left.remove(stream)


def _cut_parts(step: Reasoning, chunking: Chunking) -> tuple[tuple[str, ...], frozenset[int]]:
    fragments: list[str] = []
    breaks: set[int] = set()
    for text in step.parts or (step.text,):
        if fragments:
            breaks.add(len(fragments))
        fragments.extend(cut(text, chunking))
    return tuple(fragments), frozenset(breaks)


def _fragments(step: Step, scenario: Scenario) -> tuple[str, ...]:
    chunking = scenario.chunking
    match step:
        case Text(chunks=chunks) if chunks:
            return cut(filler(chunks * chunking.chars, scenario.seed), Chunking(chars=chunking.chars))
        case Text(text=text) | Refusal(text=text) | CustomToolCall(input=text):
            return cut(text, chunking)
        case ToolCall():
            return cut(step.raw, chunking)
        case _:
            return ()


def make_plan(steps: tuple[Step, ...], scenario: Scenario, *, input_tokens: int, max_tokens: int | None) -> Plan:
    """Cuts the steps into at most `max_tokens` fragments."""
    parts: list[Part] = []
    left = max_tokens if max_tokens is not None else -1
    used = reasoned = 0
    length = False
    for step in steps:
        breaks: frozenset[int] = frozenset()
        if isinstance(step, Reasoning):
            fragments, breaks = _cut_parts(step, scenario.chunking)
        else:
            fragments = _fragments(step, scenario)
        if 0 <= left < used + len(fragments):
            fragments, length = fragments[: left - used], True
        used += len(fragments)
        if isinstance(step, Reasoning):
            reasoned += len(fragments)
        parts.append(Part(step, fragments, not length, frozenset(at for at in breaks if at < len(fragments))))
        if length:
            break
    if scenario.finish_reason == "length" and parts and not length:
        length = True
        parts[-1] = replace(parts[-1], complete=False)
    return Plan(tuple(parts), length, input_tokens, used, reasoned)
