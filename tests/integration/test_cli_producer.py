"""The producer's commands as programs: output, exit codes, and that invalid input changes nothing in Redis."""

import asyncio
import json
import os
import pty
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Generator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from redis.asyncio import Redis

from tailrace.broker.keys import rec_key
from tailrace.schemas.outcome import Status
from tailrace.schemas.request import decode_request
from tests.scribe import ANSWER, Scribe

TAILRACE = [sys.executable, "-m", "tailrace"]


class Commands:
    """Runs `tailrace` against one Redis, and writes logs there."""

    def __init__(self, redis_url: str) -> None:
        self.url = redis_url
        self.environment = {**os.environ, "TAILRACE_REDIS_URL": redis_url, "NO_COLOR": ""}

    def run(self, *arguments: str, stdin: str | None = None, **environment: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [*TAILRACE, *arguments],
            env={**self.environment, **environment},
            input=stdin,
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )

    @contextmanager
    def start(self, *arguments: str) -> Generator[subprocess.Popen[str]]:
        with subprocess.Popen(
            [*TAILRACE, *arguments],
            env=self.environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        ) as program:
            try:
                yield program
            finally:
                program.kill()

    def printed(self, *arguments: str, stdin: str | None = None) -> str:
        done = self.run(*arguments, stdin=stdin)
        assert (done.returncode, done.stderr) == (0, "")
        return done.stdout

    def refused(self, *arguments: str, code: int = 1, stdin: str | None = None, **environment: str) -> str:
        """The one line on stderr of a command that fails."""
        done = self.run(*arguments, stdin=stdin, **environment)
        assert (done.returncode, done.stdout) == (code, "")
        assert done.stderr.startswith("tailrace")
        assert done.stderr.count("\n") == 1
        return done.stderr

    def answer(self, request_id: str, status: Status = "completed") -> None:
        async def write(redis: Redis) -> None:
            scribe = Scribe(redis, request_id)
            await scribe.begin()
            await scribe.write(ANSWER)
            await scribe.finish(status)

        self.ask(write)

    def keys(self) -> list[bytes]:
        found: list[bytes] = []

        async def look(redis: Redis) -> None:
            found.extend(await redis.keys())

        self.ask(look)
        return found

    def stored(self, request_id: str) -> Any:
        packed: list[bytes | None] = []

        async def look(redis: Redis) -> None:
            packed.append(await redis.hget(rec_key(request_id), "request"))

        self.ask(look)
        assert packed[0] is not None
        return decode_request(packed[0])

    def ask(self, verb: Callable[[Redis], Any]) -> None:
        async def run() -> None:
            async with Redis.from_url(self.url) as redis:
                await verb(redis)

        asyncio.run(run())


@pytest.fixture
def commands(redis_url: str) -> Commands:
    return Commands(redis_url)


def test_submit_prints_only_the_id_and_stores_the_request(commands: Commands, tmp_path: Path) -> None:
    tools = tmp_path / "tools.json"
    tools.write_text('[{"type": "function", "function": {"name": "search"}}]')
    printed = commands.printed("submit", "--model", "m", "--tools", str(tools), "--assistant-message", "Grüße 🚂")
    request_id = printed.removesuffix("\n")
    assert len(request_id) == 32
    request = commands.stored(request_id)
    assert request.messages == [{"role": "user", "content": "Grüße 🚂"}]
    assert request.tools == [{"type": "function", "function": {"name": "search"}}]
    assert request.interface.use_assistant_message


@pytest.mark.parametrize("way", ["file", "stdin"])
def test_submit_reads_a_whole_request_from_a_file_or_stdin(way: str, commands: Commands, tmp_path: Path) -> None:
    request = {"model": "m", "messages": [{"role": "user", "content": "hi"}], "seed": 7, "metadata": {"a": 1}}
    file = tmp_path / "request.json"
    file.write_text(json.dumps(request))
    name = str(file) if way == "file" else "-"
    printed = commands.printed("submit", "--request", name, "--id", "mine", stdin=json.dumps(request))
    assert printed == "mine\n"
    assert (commands.stored("mine").seed, commands.stored("mine").metadata) == (7, {"a": 1})


def test_submit_is_idempotent_with_an_id(commands: Commands) -> None:
    assert commands.printed("submit", "--id", "mine", "--model", "m", "hi") == "mine\n"
    before = sorted(commands.keys())
    assert commands.printed("submit", "--id", "mine", "--model", "m", "hi") == "mine\n"
    assert sorted(commands.keys()) == before
    assert "other content" in commands.refused("submit", "--id", "mine", "--model", "m", "something else")


def test_tail_labels_reasoning_tool_calls_and_text(commands: Commands) -> None:
    commands.printed("submit", "--id", "mine", "--model", "m", "hi")
    commands.answer("mine")
    assert commands.printed("tail", "mine") == (
        "[reasoning] I should look.\n"
        '[tool call] search {"q":"x"}\n'
        "[reasoning] Then say so. Now.\n"
        "[text] Hello\n"
        "[completed]\n"
    )


def test_tail_as_json_prints_the_log_with_entry_ids_first(commands: Commands) -> None:
    commands.printed("submit", "--id", "mine", "--model", "m", "hi")
    commands.answer("mine")
    lines = commands.printed("tail", "mine", "--json").splitlines()
    entries = [json.loads(line) for line in lines]
    assert [next(iter(entry)) for entry in entries] == ["entry_id"] * len(entries)
    assert [entry["entry_id"] for entry in entries] == ["0-1", *(f"1-{seq}" for seq in range(len(ANSWER) + 2))]
    assert entries[2] == {
        "entry_id": "1-1",
        "message_type": "reasoning_message",
        "i": 0,
        "ms": 10,
        "reasoning": "I should ",
        "source": "non_reasoner_model",
    }
    assert commands.printed("tail", "mine", "--json", "--after", "1-4").splitlines() == lines[6:]


def test_a_collapsed_tail_shows_the_final_answer_and_takes_no_cursor(commands: Commands) -> None:
    commands.printed("submit", "--id", "mine", "--model", "m", "hi")
    commands.answer("mine")
    assert commands.printed("tail", "mine", "--collapsed") == commands.printed("tail", "mine")
    assert "--after" in commands.refused("tail", "mine", "--collapsed", "--after", "1-1", code=2)


@pytest.mark.parametrize(("status", "code"), [("completed", 0), ("incomplete", 0), ("cancelled", 0), ("failed", 1)])
def test_tail_exits_with_1_when_the_request_failed(status: Status, code: int, commands: Commands) -> None:
    commands.printed("submit", "--id", "mine", "--model", "m", "hi")
    commands.answer("mine", status)
    done = commands.run("tail", "mine")
    assert (done.returncode, done.stderr) == (code, "")
    assert f"[{status}]" in done.stdout


def test_submit_with_tail_prints_the_id_and_follows(commands: Commands) -> None:
    with commands.start("submit", "--id", "mine", "--model", "m", "--tail", "hi") as program:
        assert program.stdout is not None
        assert program.stdout.readline() == "mine\n"
        commands.answer("mine")
        out, err = program.communicate(timeout=20)
    assert (program.returncode, err) == (0, "")
    assert out.endswith("[text] Hello\n[completed]\n")


def test_ctrl_c_leaves_the_request_running_and_prints_the_command_to_resume(commands: Commands) -> None:
    commands.printed("submit", "--id", "mine", "--model", "m", "hi")

    async def write(redis: Redis) -> None:
        scribe = Scribe(redis, "mine")
        await scribe.begin()
        await scribe.write(ANSWER[:3])

    with commands.start("tail", "mine", "--json") as program:
        commands.ask(write)
        assert program.stdout is not None
        shown = [json.loads(program.stdout.readline())["entry_id"] for _ in range(5)]
        program.send_signal(signal.SIGINT)
        out, err = program.communicate(timeout=20)
    assert (program.returncode, out) == (130, "")
    # the printed command shows exactly the rest
    [hint] = err.strip().splitlines()
    command = hint.partition(": ")[2].split()
    assert command == ["tailrace", "tail", "mine", "--after", shown[-1], "--json"]
    assert json.loads(commands.printed("status", "mine", "--json"))["status"] == "running"

    async def finish(redis: Redis) -> None:
        scribe = Scribe(redis, "mine")
        scribe.last = scribe.last._replace(seq=3)
        await scribe.write(ANSWER[3:])
        await scribe.finish()

    commands.ask(finish)
    rest = [json.loads(line)["entry_id"] for line in commands.printed(*command[1:]).splitlines()]
    assert shown + rest == ["0-1", *(f"1-{seq}" for seq in range(len(ANSWER) + 2))]


def test_a_broken_pipe_ends_tail_quietly(commands: Commands) -> None:
    commands.printed("submit", "--id", "mine", "--model", "m", "hi")
    commands.answer("mine")
    reading, writing = os.pipe()
    os.close(reading)
    with subprocess.Popen(
        [*TAILRACE, "tail", "mine"], env=commands.environment, stdout=writing, stderr=subprocess.PIPE, text=True
    ) as program:
        os.close(writing)
        _, err = program.communicate(timeout=20)
    assert (program.returncode, err) == (141, "")


def _on_a_terminal(commands: Commands, arguments: Sequence[str], **environment: str) -> str:
    mine, theirs = pty.openpty()
    with subprocess.Popen(
        [*TAILRACE, *arguments],
        env={**commands.environment, "TERM": "xterm", **environment},
        stdin=subprocess.DEVNULL,
        stdout=theirs,
        stderr=subprocess.PIPE,
    ):
        os.close(theirs)
        shown = b""
        try:
            while piece := os.read(mine, 4096):
                shown += piece
        except OSError:  # Linux raises this when the other side has closed the terminal
            pass
    os.close(mine)
    return shown.decode()


def test_colours_are_used_only_on_terminals_that_support_them(commands: Commands) -> None:
    commands.printed("submit", "--id", "mine", "--model", "m", "hi")
    commands.answer("mine")
    assert "\x1b[" in _on_a_terminal(commands, ["tail", "mine"])
    assert "\x1b" not in _on_a_terminal(commands, ["tail", "mine"], NO_COLOR="1")
    assert "\x1b" not in _on_a_terminal(commands, ["tail", "mine"], TERM="dumb")
    assert "\x1b" not in commands.printed("tail", "mine")


def test_result_prints_the_outcome(commands: Commands) -> None:
    commands.printed("submit", "--id", "mine", "--model", "m", "hi")
    assert "has not ended within 0 s" in commands.refused("result", "mine")
    assert "has not ended within 0.1 s" in commands.refused("result", "mine", "--wait", "0.1")
    with commands.start("result", "mine", "--wait", "30") as program:
        commands.answer("mine")
        out, err = program.communicate(timeout=20)
    assert (program.returncode, err) == (0, "")
    outcome = json.loads(out)
    assert (outcome["status"], outcome["content"], outcome["request_id"]) == ("completed", "Hello", "mine")


def test_cancel_prints_what_it_did(commands: Commands) -> None:
    commands.printed("submit", "--id", "mine", "--model", "m", "hi")
    assert commands.printed("cancel", "mine") == "cancelled before it started\n"
    assert commands.printed("cancel", "mine") == "nothing to cancel: it is already cancelled\n"
    printed = json.loads(commands.printed("cancel", "mine", "--json"))
    assert printed == {"request_id": "mine", "verdict": "finished", "status": "cancelled"}


def test_status_prints_text_or_json(commands: Commands) -> None:
    commands.printed("submit", "--id", "mine", "--model", "m", "hi")
    assert "status           queued\n" in commands.printed("status", "mine")
    printed = json.loads(commands.printed("status", "mine", "--json"))
    assert (printed["request_id"], printed["status"], printed["model"], printed["attempt"]) == (
        "mine",
        "queued",
        "m",
        0,
    )


BAD_SUBMITS: dict[str, tuple[list[str], int, str | None, str]] = {
    "no arguments": ([], 2, None, "give a text and --model"),
    "no model": (["hi"], 2, None, "give a text and --model"),
    "no text": (["--model", "m"], 2, None, "give a text and --model"),
    "an empty text": (["--model", "m", ""], 2, None, "give a text and --model"),
    "an unknown option": (["--model", "m", "--modle", "x", "hi"], 2, None, "--modle"),
    "an abbreviated option": (["--mod", "m", "hi"], 2, None, "--mod"),
    "two texts": (["--model", "m", "hi", "there"], 2, None, "there"),
    "an option without value": (["hi", "--model"], 2, None, "--model"),
    "a request and a text": (["--request", "-", "hi"], 2, "{}", "leave text"),
    "an invalid id": (["--id", "a b", "--model", "m", "hi"], 1, None, "id 'a b' cannot be used"),
    "an id too long": (["--id", "x" * 65, "--model", "m", "hi"], 1, None, "cannot be used"),
    "an id of another request's": (["--id", "a\nb", "--request", "-"], 1, '{"model":"m","messages":[]}', "messages"),
    "a tools file that does not exist": (["--tools", "/nonexistent", "--model", "m", "hi"], 1, None, "cannot be read"),
    "a folder for tools": (["--tools", "/", "--model", "m", "hi"], 1, None, "cannot be read"),
    "tools that are not JSON": (["--tools", "-", "--model", "m", "hi"], 1, "[", "is not JSON"),
    "tools from an endless file": (["--tools", "/dev/zero", "--model", "m", "hi"], 1, None, "the limit"),
    "tools that are not a list": (["--tools", "-", "--model", "m", "hi"], 1, "{}", "give a JSON list"),
    "tools that are not objects": (["--tools", "-", "--model", "m", "hi"], 1, "[1]", "tools.0"),
    "an empty request": (["--request", "-"], 1, "", "Invalid JSON"),
    "a request that is no JSON": (["--request", "-"], 1, "{", "Invalid JSON"),
    "a request that is no object": (["--request", "-"], 1, "[]", "object"),
    "a request without end": (["--request", "/dev/zero"], 1, None, "the limit"),
    "a request with an unknown name": (["--request", "-"], 1, '{"model":"m","messages":[{"role":"user"}],"x":1}', "x:"),
    "a request with n": (["--request", "-"], 1, '{"model":"m","messages":[{"role":"user"}],"n":2}', "n: leave it out"),
}


@pytest.mark.parametrize("case", BAD_SUBMITS)
def test_an_invalid_submit_prints_one_line_and_stores_nothing(case: str, commands: Commands) -> None:
    arguments, code, stdin, expected = BAD_SUBMITS[case]
    assert expected in commands.refused("submit", *arguments, code=code, stdin=stdin)
    assert commands.keys() == []


@pytest.mark.parametrize(
    ("arguments", "code", "expected"),
    [
        (["tail"], 2, "id"),
        (["tail", "nobody"], 1, "no request has the id 'nobody'"),
        (["tail", "a\nb"], 1, "no request has the id"),
        (["tail", "mine", "--after", "x"], 1, "'x' is not a cursor"),
        (["tail", "mine", "--after", "7-7"], 1, "it ends at 0-1"),
        (["result", "nobody"], 1, "no request has the id 'nobody'"),
        (["result", "mine", "--wait", "-1"], 2, "'-1' is not a number of seconds"),
        (["result", "mine", "--wait", "soon"], 2, "'soon' is not a number of seconds"),
        (["result", "mine", "--wait", "nan"], 2, "is not a number of seconds"),
        (["result", "mine", "--wait", "inf"], 2, "is not a number of seconds"),
        (["cancel", "nobody"], 1, "no request has the id 'nobody'"),
        (["status", "nobody"], 1, "no request has the id 'nobody'"),
        (["status"], 2, "id"),
    ],
)
def test_other_invalid_input_prints_one_line(
    arguments: list[str], code: int, expected: str, commands: Commands
) -> None:
    commands.printed("submit", "--id", "mine", "--model", "m", "hi")
    assert expected in commands.refused(*arguments, code=code)


@pytest.mark.parametrize("command", ["tail", "result", "cancel", "status", "submit"])
def test_an_unreachable_redis_prints_one_line_soon(command: str, commands: Commands, unused_tcp_port: int) -> None:
    arguments = ["--model", "m", "hi"] if command == "submit" else ["mine"]
    url = f"redis://127.0.0.1:{unused_tcp_port}/0"
    began_s = time.monotonic()
    assert "cannot be reached" in commands.refused(command, *arguments, TAILRACE_REDIS_URL=url)
    assert time.monotonic() - began_s < 10  # arq alone would try five times, one second apart


@pytest.mark.parametrize("url", ["http://h", "localhost:6379", "", "redis://h:x"])
def test_an_invalid_url_prints_one_line_that_names_the_setting(url: str, commands: Commands) -> None:
    assert "TAILRACE_REDIS_URL: " in commands.refused("status", "mine", TAILRACE_REDIS_URL=url)


def test_an_unknown_setting_prints_one_line(commands: Commands) -> None:
    assert "TAILRACE_REDIS_ULR is not a setting" in commands.refused("status", "mine", TAILRACE_REDIS_ULR="x")


def test_a_full_redis_prints_one_line_and_stores_nothing(commands: Commands) -> None:
    async def fill(redis: Redis) -> None:
        await redis.config_set("maxmemory", 1)

    async def release(redis: Redis) -> None:
        await redis.config_set("maxmemory", 0)

    commands.ask(fill)
    try:
        assert "out of memory" in commands.refused("submit", "--model", "m", "hi")
    finally:
        commands.ask(release)
    assert commands.keys() == []
