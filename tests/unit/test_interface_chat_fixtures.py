"""One oddity of servers per test: a body in `tests/fixtures/chat`, and beside it the expected outcome.

The text of each fixture is our own; real servers send its shape, which `oddity` describes.
"""

import json
from pathlib import Path
from typing import Any

import msgspec
import pytest

from tailrace.schemas.codec import encode_outcome
from tailrace.schemas.deltas import Delta
from tests.chat_reading import check_indexes, joined, read

FIXTURES = Path(__file__).parents[1] / "fixtures" / "chat"
NAMES = sorted(path.stem for path in FIXTURES.glob("*.sse"))


def add_up(deltas: list[Delta]) -> dict[str, Any]:
    """What a client has at the end if it joins the deltas."""
    texts = joined(deltas)
    sums: dict[str, Any] = {key: texts.get((key, None)) for key in ("content", "refusal", "reasoning")}
    for key in ("name", "id", "arguments"):
        sums[key] = {str(number): text for (kind, number), text in texts.items() if kind == key and text}
    return sums


def expected_sums(outcome: dict[str, Any]) -> dict[str, Any]:
    """What the deltas must add up to, unless the fixture has other values."""
    sums: dict[str, Any] = {key: outcome[key] for key in ("content", "refusal", "reasoning")}
    for key in ("name", "id", "arguments"):
        sums[key] = {str(number): call[key] for number, call in enumerate(outcome["tool_calls"]) if call[key]}
    return sums


@pytest.mark.parametrize("name", NAMES)
def test_a_body_gives_the_expected_outcome_and_deltas(name: str) -> None:
    # given: a body with one oddity
    body = (FIXTURES / f"{name}.sse").read_bytes()
    expected = json.loads((FIXTURES / f"{name}.json").read_text())
    # if: it is read, at once and in pieces of 11 bytes
    for size in (len(body), 11):
        deltas, result = read([body[start : start + size] for start in range(0, len(body), size)])
        outcome: dict[str, Any] = msgspec.json.decode(encode_outcome(result), type=dict[str, Any])
        # expect: the outcome of the fixture, and deltas that add up to it
        wanted: dict[str, Any] = {"notes": []} | expected["outcome"]
        assert {key: outcome.get(key) for key in wanted} == wanted
        assert (result.error.code if result.error else None) == expected.get("error_code")
        assert add_up(deltas) == expected_sums(wanted) | expected.get("deltas", {})
        check_indexes(deltas)


def test_each_fixture_names_its_oddity() -> None:
    # expect: both files of each fixture, and no two with the same oddity
    assert {path.stem for path in FIXTURES.glob("*.json")} == set(NAMES)
    oddities = [json.loads((FIXTURES / f"{name}.json").read_text())["oddity"] for name in NAMES]
    assert all(oddities)
    assert len(set(oddities)) == len(oddities) > 90
