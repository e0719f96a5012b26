"""The demo: two requests from submit to outcome, with a viewer that is killed half way and resumed from its cursor.

Owns the order of steps and their messages. Every step is a command that a user would type.
"""

import json
import os
import sys
from collections.abc import Mapping
from contextlib import ExitStack

from tailrace.demo.parts import DemoError, Part, run
from tailrace.demo.stage import set_up
from tailrace.producers.cli.show import TerminalView, wants_colours
from tailrace.producers.tail.log_tail import Tailed
from tailrace.schemas.codec import decode_entry
from tailrace.schemas.deltas import TERMINALS

SEEN_BEFORE_KILL = 12

_SEND_MESSAGE = {
    "type": "function",
    "function": {
        "name": "send_message",
        "description": "Says something to the user.",
        "parameters": {
            "type": "object",
            "properties": {
                "inner_thoughts": {"type": "string", "description": "Your private reasoning, always first."},
                "message": {"type": "string", "description": "What the user reads."},
                "request_heartbeat": {"type": "boolean"},
            },
            "required": ["inner_thoughts", "message"],
        },
    },
}


def tour(environment: Mapping[str, str]) -> None:
    """Runs the demo on standard output.

    Args:
        environment: with `REAL=1` the real server is used, with its `OPENAI_*`; otherwise only the simulator.

    Raises:
        TailraceError: a part of the demo has failed.
    """
    with ExitStack() as running:
        stage = set_up(environment, running, _say)
        _letta_style(stage.model, stage.environment)
        _plain(stage.plain_model, stage.environment)
        _say("done; stopping everything")


def _letta_style(model: str, environment: Mapping[str, str]) -> None:
    request = {
        "model": model,
        "messages": [
            {"role": "user", "content": "Hello, I am new here. Greet me with send_message, in two sentences."}
        ],
        "tools": [_SEND_MESSAGE],
        "interface": {"use_assistant_message": False},
    }
    _command("submit --request -", "a Letta-style request: a tool call with inner thoughts")
    request_id = run(["submit", "--request", "-"], environment, json.dumps(request))
    print(request_id)
    _command(f"tail {request_id}")
    cursor = _follow(request_id, None, environment, kill_after=SEEN_BEFORE_KILL)
    if cursor is not None:
        _say(f"the viewer was killed at entry {cursor}; the request continues without it")
        _command(f"tail {request_id} --after {cursor}", "a new viewer continues where the old one stopped")
        _follow(request_id, cursor, environment)
    _outcome(request_id, environment)


def _plain(model: str, environment: Mapping[str, str]) -> None:
    _command(f'submit --model {model} "What is a tailrace?"', "a plain request")
    request_id = run(["submit", "--model", model, "What is a tailrace?"], environment)
    print(request_id)
    _command(f"tail {request_id}")
    _follow(request_id, None, environment)
    _outcome(request_id, environment)


def _follow(
    request_id: str, after: str | None, environment: Mapping[str, str], kill_after: int | None = None
) -> str | None:
    """Shows what a viewer process receives; returns the cursor at which it was killed, None if it saw the end."""
    view = TerminalView(sys.stdout, colours=wants_colours(sys.stdout, os.environ))
    arguments = ["tail", request_id, "--json", *(["--after", after] if after else [])]
    with Part("the viewer", arguments, environment) as viewer:
        for seen, line in enumerate(viewer.lines(), start=1):
            cursor: str | None = json.loads(line)["entry_id"]
            entry = decode_entry(line.encode())
            view.show(Tailed(cursor, entry, line.encode()))
            if isinstance(entry, TERMINALS):
                return None
            if kill_after is not None and seen >= kill_after and cursor is not None:
                viewer.kill()
                print()
                return cursor
    raise DemoError("the viewer ended before the request did" + viewer.last_words)


def _outcome(request_id: str, environment: Mapping[str, str]) -> None:
    _command(f"result --wait 60 {request_id}", "the outcome, persisted in the same step as the last entry")
    outcome = json.loads(run(["result", "--wait", "60", request_id], environment))
    print(
        json.dumps(
            {name: value for name, value in outcome.items() if value not in (None, [], {})},
            indent=2,
            ensure_ascii=False,
        )
    )


def _say(text: str) -> None:
    print(f"\n── {text}", flush=True)


def _command(command: str, why: str = "") -> None:
    if why:
        _say(why)
    print(f"$ tailrace {command}", flush=True)
