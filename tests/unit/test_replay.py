"""`tailrace replay` as a program: its output and exit codes."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.chat_reading import call, chunk, sse

ARGUMENTS = '{"inner_thoughts":"Hm.","message":"Hello"}'
BODY = sse([call(0, ARGUMENTS, name="send_message", call_id="c1"), chunk(finish_reason="tool_calls")])
COMMAND = [sys.executable, "-m", "tailrace.worker.replay"]


def replay(*argv: str, given: bytes = b"") -> tuple[int, list[dict[str, Any]], str]:
    run = subprocess.run([*COMMAND, *argv], input=given, capture_output=True, timeout=60)
    return run.returncode, [json.loads(line) for line in run.stdout.splitlines()], run.stderr.decode()


def test_the_output_is_the_published_deltas_and_then_the_outcome(tmp_path: Path) -> None:
    path = tmp_path / "answer.sse"
    path.write_bytes(BODY)
    code, lines, errors = replay(str(path))
    assert (code, errors) == (0, "")
    assert lines[:-1] == [
        {"message_type": "reasoning_message", "i": 0, "ms": 0, "reasoning": "Hm.", "source": "non_reasoner_model"},
        {"message_type": "tool_call_message", "i": 1, "ms": 0, "call": 0,
         "tool_call": {"name": "send_message", "tool_call_id": "c1"}},
        {"message_type": "tool_call_message", "i": 1, "ms": 0, "call": 0,
         "tool_call": {"arguments": '{"message":"Hello"}'}},
    ]  # fmt: skip
    outcome = lines[-1]["outcome"]
    assert outcome["status"] == "completed"
    assert outcome["tool_calls"] == [{"id": "c1", "name": "send_message", "arguments": ARGUMENTS, "complete": True}]
    wanted = {
        "status",
        "finish_reason",
        "content",
        "refusal",
        "reasoning",
        "tool_calls",
        "usage",
        "model",
        "upstream_id",
    }
    assert {*wanted, "error"} <= outcome.keys()


def test_options() -> None:
    _, lines, _ = replay("--assistant-message", "-", given=BODY)
    assert lines[-1]["outcome"]["content"] == "Hello"
    _, lines, _ = replay("--no-inner-thoughts", "--api", "chat", "-", given=BODY)
    assert lines[1]["tool_call"]["arguments"] == ARGUMENTS
    _, lines, _ = replay("--think-tags", "-", given=sse([chunk(content="<think>a</think>b", finish_reason="stop")]))
    assert (lines[-1]["outcome"]["reasoning"], lines[-1]["outcome"]["content"]) == ("a", "b")


@pytest.mark.parametrize("line_end", ["\n", "\r\n"])
def test_chunks_as_json_lines(line_end: str) -> None:
    chunks = [chunk(content="a"), chunk(content="b", finish_reason="stop")]
    code, lines, _ = replay("-", given="".join(json.dumps(one) + line_end for one in chunks).encode())
    assert (code, lines[-1]["outcome"]["content"]) == (0, "ab")


def test_a_broken_file_gives_the_deltas_before_the_break() -> None:
    code, lines, errors = replay("-", given=sse([chunk(content="a")], done=False) + b'data: {"cho')
    assert (code, errors) == (1, "")
    assert lines[0]["content"] == "a"
    assert lines[-1]["outcome"]["status"] == "failed"
    assert lines[-1]["outcome"]["error"]["code"] == "upstream_truncated"


@pytest.mark.parametrize("path", ["no-such-file", "."])
def test_a_file_that_cannot_be_read_gives_a_one_line_error(path: str) -> None:
    code, lines, errors = replay(path)
    assert (code, lines) == (1, [])
    assert errors.startswith(f"tailrace replay: {path}: ")
    assert errors.count("\n") == 1


def test_help_has_an_example() -> None:
    run = subprocess.run([*COMMAND, "--help"], capture_output=True, text=True, timeout=60)
    assert run.returncode == 0
    assert "example:" in run.stdout


def test_heavy_dependencies_are_not_imported() -> None:
    script = (
        "import sys; from tailrace.worker.replay import replay; replay(sys.argv[1:]);"
        "print(*sys.modules, file=sys.stderr)"
    )
    run = subprocess.run([sys.executable, "-c", script, "-"], input=BODY, capture_output=True, timeout=60)
    loaded = set(run.stderr.decode().split())
    assert "tailrace.worker.interface.chat.chat_interface" in loaded
    assert not loaded & {
        "openai",
        "arq",
        "redis",
        "pydantic",
        "asyncio",
        "tailrace.worker.interface.responses.responses_interface",
    }
