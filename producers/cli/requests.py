"""The producer's commands: submit, tail, result, cancel, status. Reads arguments and files, and prints.

What is slow to import (asyncio, the client, the request's schema) is imported where it is used, so that
`tailrace --help`, which has to import this module, does not wait for it.
"""

import argparse
import json
import math
import os
import sys
from collections.abc import Awaitable, Callable, Sequence
from contextlib import aclosing, suppress
from typing import TYPE_CHECKING, Any, TypeVar

from tailrace.command_line import CommandParser
from tailrace.producers.cli.root import main as main  # the entry point of `tailrace`
from tailrace.schemas.errors import RequestRejected, RequestTooLarge

if TYPE_CHECKING:
    from tailrace.producers.cli.show import View
    from tailrace.producers.client import Client
    from tailrace.schemas.request import GenerationRequest

_Answer = TypeVar("_Answer")

_IN_REQUEST = {
    "text": "text",
    "model": "--model",
    "tools": "--tools",
    "assistant_message": "--assistant-message",
    "tenant": "--tenant",
    "priority": "--priority",
}


def submit(argv: Sequence[str]) -> int:
    """`tailrace submit`: accepts a request and prints its id."""
    parser = CommandParser(
        "submit",
        description="Submit a request and print its id, alone, on stdout.",
        example='tailrace submit --model gpt-4.1-mini --tail "Why is the sky blue?"',
    )
    parser.add_argument("text", nargs="?", help="what the user says")
    parser.add_argument("--model", help="the model's name")
    parser.add_argument("--tools", metavar="FILE", help="a JSON list of tools, as Chat Completions takes them")
    parser.add_argument(
        "--assistant-message", action="store_true", help="show a call of the tool send_message as assistant text"
    )
    parser.add_argument("--id", help="an id of your own: submitting it again is then idempotent")
    parser.add_argument("--tenant", help="on whose behalf: tenants take turns")
    parser.add_argument(
        "--priority", choices=("high", "normal", "low"), help="high goes before normal, normal before low"
    )
    parser.add_argument("--request", metavar="FILE", help="the whole request as JSON; - reads it from stdin")
    parser.add_argument("--tail", action="store_true", help="follow it then, as `tailrace tail` does")
    given = parser.parse_args(argv)
    if given.request is None and not (given.text and given.model):
        parser.error("give a text and --model, or --request FILE")
    if given.request is not None and any(getattr(given, name) for name in _IN_REQUEST):
        parser.error(f"--request holds the whole request: leave {', '.join(_IN_REQUEST.values())} out")
    request = _request(given)
    submitted = _with_client(lambda client: client.submit(request))
    print(submitted.id, flush=True)
    return _follow(submitted.id, None, as_json=False) if given.tail else 0


def tail(argv: Sequence[str]) -> int:
    """`tailrace tail`: follows a request to its end."""
    parser = CommandParser(
        "tail",
        description="Follow a request: what it has said so far, then what comes, up to its end. "
        "Ctrl-C leaves the request running.\nExits with 1 when the request failed.",
        example="tailrace tail 0f6e2c9d --after 1-17 --json",
    )
    parser.add_argument("id", help="the request's id")
    parser.add_argument("--after", metavar="CURSOR", help="only what stands behind this entry, such as 1-17")
    parser.add_argument("--json", action="store_true", help="one JSON line an entry, entry_id first")
    parser.add_argument(
        "--collapsed", action="store_true", help="the answer only when it is final: nothing that a later attempt voids"
    )
    given = parser.parse_args(argv)
    if given.collapsed and given.after is not None:
        parser.error("--collapsed shows the whole answer: leave --after out")
    return _follow(given.id, given.after, as_json=given.json, collapsed=given.collapsed)


def result(argv: Sequence[str]) -> int:
    """`tailrace result`: prints the outcome as JSON."""
    parser = CommandParser(
        "result",
        description="Print the outcome of a request as one JSON object.\nExits with 1 when it has not ended in time.",
        example="tailrace result 0f6e2c9d --wait 60 | jq .content",
    )
    parser.add_argument("id", help="the request's id")
    parser.add_argument("--wait", metavar="S", type=_seconds, default=0.0, help="wait up to S seconds for its end")
    given = parser.parse_args(argv)
    outcome = _with_client(lambda client: client.result(given.id, wait_s=given.wait))
    if outcome is None:
        print(f"tailrace result: {given.id} has not ended within {given.wait:g} s; try --wait 60", file=sys.stderr)
        return 1
    from tailrace.schemas.codec import encode_outcome

    _print_json(encode_outcome(outcome))
    return 0


def cancel(argv: Sequence[str]) -> int:
    """`tailrace cancel`: asks a request to stop."""
    parser = CommandParser(
        "cancel",
        description="Stop a request. One that waits ends at once; one that runs is ended by its worker, "
        "which keeps what there is.",
        example="tailrace cancel 0f6e2c9d",
    )
    parser.add_argument("id", help="the request's id")
    parser.add_argument("--json", action="store_true", help="the answer as JSON")
    given = parser.parse_args(argv)
    verdict = _with_client(lambda client: client.cancel(given.id))
    if given.json:
        print(json.dumps({"request_id": given.id, "verdict": verdict.word, "status": verdict.status}))
        return 0
    words = {
        "ended": "cancelled: it had not begun",
        "signalled": "its worker has been told to stop",
        "finished": f"nothing to stop: it is {verdict.status} already",
    }
    print(words[verdict.word])
    return 0


def status(argv: Sequence[str]) -> int:
    """`tailrace status`: says where a request stands."""
    parser = CommandParser(
        "status", description="Say where a request stands.", example="tailrace status 0f6e2c9d --json"
    )
    parser.add_argument("id", help="the request's id")
    parser.add_argument("--json", action="store_true", help="the answer as JSON")
    given = parser.parse_args(argv)
    stands = _with_client(lambda client: client.status(given.id))
    import msgspec

    if given.json:
        _print_json(msgspec.json.encode(stands))
        return 0
    for name, value in msgspec.structs.asdict(stands).items():
        if value not in (None, False):
            print(f"{name.replace('_', ' '):<16} {_in_words(value)}")
    return 0


def _in_words(value: object) -> str:
    from tailrace.producers.cli.show import visible
    from tailrace.schemas.deltas import ErrorInfo

    if isinstance(value, ErrorInfo):
        value = f"{value.code}: {value.message} ({value.whose}'s move)"
    return "yes" if value is True else visible(str(value), sys.stdout.encoding)


def _print_json(line: bytes) -> None:
    """JSON is UTF-8 (RFC 8259), whatever the terminal's encoding is."""
    sys.stdout.buffer.write(line + b"\n")
    sys.stdout.buffer.flush()


def _with_client(ask: Callable[["Client"], Awaitable[_Answer]]) -> _Answer:
    """One question to a client of the environment's Redis."""
    import asyncio

    async def run() -> _Answer:
        async with await _connect() as client:
            return await ask(client)

    return asyncio.run(run())


async def _connect() -> "Client":
    from tailrace.producers.client import Client
    from tailrace.schemas.settings import Settings

    return await Client.from_settings(Settings.from_environment(os.environ))


def _follow(request_id: str, after: str | None, *, as_json: bool, collapsed: bool = False) -> int:
    import asyncio

    from tailrace.producers.cli.show import CollapsedView, JsonView, TerminalView, wants_colours

    colours = wants_colours(sys.stdout, os.environ)
    view = JsonView(sys.stdout.buffer) if as_json else TerminalView(sys.stdout, colours=colours)
    followed = _Followed(request_id, after)
    try:
        return asyncio.run(followed.to_its_end(CollapsedView(view) if collapsed else view))
    except (KeyboardInterrupt, asyncio.CancelledError):
        print(f"\nthe request goes on; see the rest with: {followed.resume(as_json, collapsed)}", file=sys.stderr)
        return 130


class _Followed:
    """A tail on its way: what has been shown."""

    def __init__(self, request_id: str, after: str | None) -> None:
        self._request_id = request_id
        self._cursor = after

    async def to_its_end(self, view: "View") -> int:
        from tailrace.schemas.deltas import Failed

        _cancel_at_ctrl_c()
        failed = False
        async with await _connect() as client, aclosing(client.tail(self._request_id, self._cursor)) as items:
            async for item in items:
                view.show(item)
                self._cursor = item.cursor or self._cursor
                failed = isinstance(item.entry, Failed)
        return 1 if failed else 0

    def resume(self, as_json: bool, collapsed: bool) -> str:
        """The command that shows the rest."""
        after = f" --after {self._cursor}" if self._cursor and not collapsed else ""
        return f"tailrace tail {self._request_id}{after}{' --collapsed' * collapsed}{' --json' * as_json}"


def _cancel_at_ctrl_c() -> None:
    """Ctrl-C cancels the running task from the loop, between its steps.

    asyncio's own handler cancels it in the middle of a step, and such a cancel is lost when the step then enters a
    timeout that has expired, as redis-py's look at a pooled connection does (`asyncio.timeout(0)`, CPython 3.11).
    """
    import asyncio
    import signal

    task = asyncio.current_task()
    if task is not None:
        with suppress(NotImplementedError):  # Windows
            asyncio.get_running_loop().add_signal_handler(signal.SIGINT, task.cancel)


def _request(given: argparse.Namespace) -> "GenerationRequest":
    from tailrace.schemas.ids import check_request_id
    from tailrace.schemas.request import parse_request

    if given.request is not None:
        request = parse_request(_read("--request", given.request))
        return request if given.id is None else request.model_copy(update={"id": check_request_id(given.id)})
    parameters: dict[str, Any] = {
        "model": given.model,
        "messages": [{"role": "user", "content": given.text}],
        "interface": {"use_assistant_message": given.assistant_message},
        "id": given.id,
        "tenant": given.tenant,
    }
    if given.priority is not None:
        parameters["priority"] = given.priority
    if given.tools is not None:
        parameters["tools"] = _tools(given.tools)
    return parse_request(parameters)


def _tools(name: str) -> list[Any]:
    try:
        tools: Any = json.loads(_read("--tools", name))
    except ValueError as error:
        raise RequestRejected(f"--tools {name}: is not JSON: {error}") from error
    if not isinstance(tools, list):
        raise RequestRejected(f"--tools {name}: give a JSON list of tools")
    return tools  # pyright: ignore[reportUnknownVariableType] - the request checks what is in it


def _read(option: str, name: str) -> bytes:
    from tailrace.schemas.request import MAX_REQUEST_BYTES

    limit = 2 * MAX_REQUEST_BYTES  # JSON may be longer than what is stored; a device file may be endless
    try:
        with open(sys.stdin.fileno() if name == "-" else name, "rb", closefd=name != "-") as file:
            content = file.read(limit + 1)
    except OSError as error:
        raise RequestRejected(f"{option} {name}: cannot be read: {error.strerror}") from error
    if len(content) > limit:
        raise RequestTooLarge(f"{option} {name}: is above {limit:,} bytes, the limit")
    return content


def _seconds(text: str) -> float:
    try:
        seconds = float(text)
    except ValueError:
        seconds = -1.0
    if not (seconds >= 0 and math.isfinite(seconds)):
        raise argparse.ArgumentTypeError(f"{text!r} is not a number of seconds")
    return seconds
