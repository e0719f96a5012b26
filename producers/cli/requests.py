"""The commands `submit`, `tail`, `result`, `cancel` and `status`. Reads arguments and files, and prints.

The client and the request's schema are slow to import. They are imported where they are used, so that the help of a
command and a usage error are fast.
"""

import argparse
import json
import math
import os
import sys
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from typing import TYPE_CHECKING, Any, TypeVar

from tailrace.command_line import CommandParser
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
        description="Submit a request and print its id on stdout.",
        example='tailrace submit --model gpt-4.1-mini --tail "Why is the sky blue?"',
    )
    parser.add_argument("text", nargs="?", help="the user's message")
    parser.add_argument("--model", help="the model's name")
    parser.add_argument("--tools", metavar="FILE", help="a JSON list of tools, as in Chat Completions")
    parser.add_argument(
        "--assistant-message", action="store_true", help="show calls of the tool send_message as assistant text"
    )
    parser.add_argument("--id", help="an id of your own, which makes the submit idempotent")
    parser.add_argument("--tenant", help="the tenant; workers serve tenants in turn")
    parser.add_argument(
        "--priority", choices=("high", "normal", "low"), help="high is served before normal, and normal before low"
    )
    parser.add_argument("--request", metavar="FILE", help="the whole request as JSON; - for stdin")
    parser.add_argument("--tail", action="store_true", help="then follow the request, as `tailrace tail` does")
    given = parser.parse_args(argv)
    if given.request is None and not (given.text and given.model):
        parser.error("give a text and --model, or --request FILE")
    if given.request is not None and any(getattr(given, name) for name in _IN_REQUEST):
        parser.error(f"--request contains the whole request: leave {', '.join(_IN_REQUEST.values())} out")
    request = _request(given)
    submitted = _with_client(lambda client: client.submit(request))
    print(submitted.id, flush=True)
    return _follow(submitted.id, None, as_json=False) if given.tail else 0


def tail(argv: Sequence[str]) -> int:
    """`tailrace tail`: follows a request to its end."""
    parser = CommandParser(
        "tail",
        description="Follow a request from its beginning to its end. Ctrl-C leaves the request running.\n"
        "The exit code is 1 if the request failed.",
        example="tailrace tail 0f6e2c9d --after 1-17 --json",
    )
    parser.add_argument("id", help="the request's id")
    parser.add_argument("--after", metavar="CURSOR", help="show only entries after this one, such as 1-17")
    parser.add_argument("--json", action="store_true", help="print one JSON line per entry, with entry_id first")
    parser.add_argument(
        "--collapsed", action="store_true", help="show only the final answer, nothing that a later attempt discards"
    )
    given = parser.parse_args(argv)
    if given.collapsed and given.after is not None:
        parser.error("--collapsed shows the whole answer: leave --after out")
    return _follow(given.id, given.after, as_json=given.json, collapsed=given.collapsed)


def result(argv: Sequence[str]) -> int:
    """`tailrace result`: prints the outcome as JSON."""
    parser = CommandParser(
        "result",
        description="Print the outcome of a request as one JSON object.\n"
        "The exit code is 1 if the request has not ended.",
        example="tailrace result 0f6e2c9d --wait 60 | jq .content",
    )
    parser.add_argument("id", help="the request's id")
    parser.add_argument(
        "--wait", metavar="S", type=_seconds, default=0.0, help="wait up to S seconds for the end of the request"
    )
    given = parser.parse_args(argv)
    outcome = _with_client(lambda client: client.result(given.id, wait_s=given.wait))
    if outcome is None:
        print(f"tailrace result: {given.id} has not ended within {given.wait:g} s; try --wait 60", file=sys.stderr)
        return 1
    from tailrace.schemas.codec import encode_outcome

    _print_json(encode_outcome(outcome))
    return 0


def cancel(argv: Sequence[str]) -> int:
    """`tailrace cancel`: cancels a request."""
    parser = CommandParser(
        "cancel",
        description="Cancel a request. A queued request ends at once. A running request is ended by its worker,\n"
        "and its outcome contains the answer so far.",
        example="tailrace cancel 0f6e2c9d",
    )
    parser.add_argument("id", help="the request's id")
    parser.add_argument("--json", action="store_true", help="print JSON")
    given = parser.parse_args(argv)
    result = _with_client(lambda client: client.cancel(given.id))
    if given.json:
        print(json.dumps({"request_id": given.id, "verdict": result.verdict, "status": result.status}))
        return 0
    messages = {
        "ended": "cancelled before it started",
        "signalled": "its worker was asked to stop",
        "finished": f"nothing to cancel: it is already {result.status}",
    }
    print(messages[result.verdict])
    return 0


def status(argv: Sequence[str]) -> int:
    """`tailrace status`: prints the state of a request."""
    parser = CommandParser(
        "status",
        description="Print the state of a request: status, attempt, counts, times and error.",
        example="tailrace status 0f6e2c9d\ntailrace status 0f6e2c9d --json",
    )
    parser.add_argument("id", help="the request's id")
    parser.add_argument("--json", action="store_true", help="print JSON")
    given = parser.parse_args(argv)
    found = _with_client(lambda client: client.status(given.id))
    import msgspec

    if given.json:
        _print_json(msgspec.json.encode(found))
        return 0
    for name, value in msgspec.structs.asdict(found).items():
        if value not in (None, False):
            print(f"{name.replace('_', ' '):<16} {_value_text(value)}")
    return 0


def _value_text(value: object) -> str:
    from tailrace.producers.cli.show import visible
    from tailrace.schemas.deltas import ErrorInfo

    if isinstance(value, ErrorInfo):
        value = f"{value.code}: {value.message} (action: {value.whose})"
    return "yes" if value is True else visible(str(value), sys.stdout.encoding)


def _print_json(line: bytes) -> None:
    """Prints JSON as UTF-8 (RFC 8259), whatever the terminal's encoding is."""
    sys.stdout.buffer.write(line + b"\n")
    sys.stdout.buffer.flush()


def _with_client(ask: Callable[["Client"], Awaitable[_Answer]]) -> _Answer:
    """Runs one call of a client for the Redis of the environment."""
    import asyncio

    async def run() -> _Answer:
        async with _client() as client:
            return await ask(client)

    return asyncio.run(run())


def _client() -> "Client":
    from tailrace.producers.client import Client
    from tailrace.schemas.settings import Settings

    return Client.from_settings(Settings.from_environment(os.environ))


def _follow(request_id: str, after: str | None, *, as_json: bool, collapsed: bool = False) -> int:
    import asyncio

    from tailrace.producers.cli.show import CollapsedView, JsonView, TerminalView, wants_colours

    colours = wants_colours(sys.stdout, os.environ)
    view = JsonView(sys.stdout.buffer) if as_json else TerminalView(sys.stdout, colours=colours)
    followed = _Followed(request_id, after)
    try:
        return asyncio.run(followed.show_to_end(CollapsedView(view) if collapsed else view))
    except (KeyboardInterrupt, asyncio.CancelledError):
        resume = followed.resume_command(as_json, collapsed)
        print(f"\nthe request is still running; to follow the rest: {resume}", file=sys.stderr)
        return 130


class _Followed:
    """Follows one request, and remembers its cursor for `resume_command`."""

    def __init__(self, request_id: str, after: str | None) -> None:
        self._request_id = request_id
        self._cursor = after

    async def show_to_end(self, view: "View") -> int:
        from tailrace.schemas.deltas import Failed

        _cancel_at_ctrl_c()
        failed = False
        async with _client() as client, client.tail(self._request_id, self._cursor) as tail:
            async for item in tail:
                view.show(item)
                self._cursor = item.cursor or self._cursor
                failed = isinstance(item.entry, Failed)
        return 1 if failed else 0

    def resume_command(self, as_json: bool, collapsed: bool) -> str:
        """The command that follows the rest."""
        after = f" --after {self._cursor}" if self._cursor and not collapsed else ""
        return f"tailrace tail {self._request_id}{after}{' --collapsed' * collapsed}{' --json' * as_json}"


def _cancel_at_ctrl_c() -> None:
    """Makes Ctrl-C cancel the running task between its steps.

    asyncio's own handler cancels in the middle of a step. Such a cancellation is lost if the step then enters an
    expired timeout, as redis-py does when it checks a pooled connection (`asyncio.timeout(0)`, CPython 3.11).
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
    return tools  # pyright: ignore[reportUnknownVariableType] - the request's schema checks the items


def _read(option: str, name: str) -> bytes:
    from tailrace.schemas.request import MAX_REQUEST_BYTES

    limit = 2 * MAX_REQUEST_BYTES  # JSON may be longer than the stored request, and a device file may be endless
    try:
        with open(sys.stdin.fileno() if name == "-" else name, "rb", closefd=name != "-") as file:
            content = file.read(limit + 1)
    except OSError as error:
        raise RequestRejected(f"{option} {name}: cannot be read: {error.strerror}") from error
    if len(content) > limit:
        raise RequestTooLarge(f"{option} {name}: is larger than {limit:,} bytes, the limit")
    return content


def _seconds(text: str) -> float:
    try:
        seconds = float(text)
    except ValueError:
        seconds = -1.0
    if not (seconds >= 0 and math.isfinite(seconds)):
        raise argparse.ArgumentTypeError(f"{text!r} is not a number of seconds")
    return seconds
