"""One oddity of servers per test: a body in `tests/fixtures/responses`, and beside it the expected outcome.

The text of each fixture is our own; real servers send its shape, which `oddity` describes.
"""

import json
from pathlib import Path
from typing import Any

import msgspec
import pytest

from tailrace.schemas.codec import encode_outcome
from tailrace.schemas.deltas import AssistantDelta, Delta, ReasoningDelta
from tailrace.schemas.interface_options import InterfaceOptions
from tailrace.worker.interface.stream_decoder import StreamDecoder

FIXTURES = Path(__file__).parents[1] / "fixtures" / "responses"
NAMES = sorted(path.stem for path in FIXTURES.glob("*.sse"))


def read_in_pieces(body: bytes, size: int) -> tuple[list[Delta], dict[str, Any]]:
    decoder = StreamDecoder("responses", InterfaceOptions())
    deltas: list[Delta] = []
    for start in range(0, len(body), size):
        deltas += decoder.feed(body[start : start + size])
    deltas += decoder.close()
    return deltas, msgspec.json.decode(encode_outcome(decoder.finish()))


def add_up(deltas: list[Delta]) -> dict[str, Any]:
    """What a client has at the end if it joins the deltas."""
    sums: dict[str, Any] = {"content": "", "refusal": "", "reasoning": "", "arguments": {}, "names": {}}
    for delta in deltas:
        if isinstance(delta, AssistantDelta):
            sums["content"] += delta.content or ""
            sums["refusal"] += delta.refusal or ""
        elif isinstance(delta, ReasoningDelta):
            sums["reasoning"] += delta.reasoning
        else:
            call, part = str(delta.call), delta.tool_call
            if part.arguments is not None:
                sums["arguments"][call] = sums["arguments"].get(call, "") + part.arguments
            if part.name is not None:
                sums["names"][call] = sums["names"].get(call, "") + part.name
    return sums


def expected_sums(outcome: dict[str, Any]) -> dict[str, Any]:
    """What the deltas must add up to, unless the fixture has other values."""
    made: list[dict[str, Any]] = outcome["tool_calls"]
    calls = list(enumerate(made))
    return {
        "content": outcome["content"] or "",
        "refusal": outcome["refusal"] or "",
        "reasoning": outcome["reasoning"] or "",
        "arguments": {str(number): call["arguments"] for number, call in calls},
        "names": {str(number): call["name"] for number, call in calls},
    }


@pytest.mark.parametrize("size", [1, 7, 1 << 20], ids=["byte by byte", "sevens", "at once"])
@pytest.mark.parametrize("name", NAMES)
def test_a_body_gives_the_expected_outcome_and_deltas(name: str, size: int) -> None:
    # given: a body with one oddity, in pieces of one size
    body = (FIXTURES / f"{name}.sse").read_bytes()
    expected = json.loads((FIXTURES / f"{name}.json").read_text())
    # if: it is read
    deltas, outcome = read_in_pieces(body, size)
    # expect: the outcome of the fixture, and deltas that add up to it
    wanted = expected["outcome"]
    assert {key: outcome.get(key) for key in wanted} == wanted
    assert add_up(deltas) == expected_sums(wanted) | expected.get("deltas", {})


def test_each_fixture_names_its_oddity() -> None:
    # expect: both files of each fixture, and no two with the same oddity
    assert {path.stem for path in FIXTURES.glob("*.json")} == set(NAMES)
    oddities = [json.loads((FIXTURES / f"{name}.json").read_text())["oddity"] for name in NAMES]
    assert all(oddities)
    assert len(set(oddities)) == len(oddities) > 40


def test_the_page_on_providers_has_each_oddity() -> None:
    # expect: the name of each fixture on docs/providers.md
    page = (FIXTURES.parents[2] / "docs" / "providers.md").read_text()
    assert [name for name in NAMES if f"`{name}`" not in page] == []
