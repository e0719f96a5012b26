"""The command `tailrace`: finds its commands by entry points and imports only the one called. Owns the exit codes.

Exit codes: 0 success, 1 an error, printed as one line on stderr, 2 wrong usage, 130 interrupted, 141 broken pipe.
Knows nothing of what the commands do, and imports nothing slow, so that `tailrace --help` is fast.
"""

import difflib
import os
import sys
from collections.abc import Callable, Sequence
from importlib.metadata import EntryPoint, entry_points, version

from tailrace.command_line import print_error
from tailrace.schemas.errors import TailraceError

GROUP = "tailrace.commands"

_SUMMARIES = {
    "submit": "submit a request and print its id",
    "tail": "follow a request: reasoning, tool calls and text as they arrive",
    "result": "print the outcome of a request as JSON",
    "cancel": "cancel a request, queued or running",
    "status": "print the state of a request",
    "dead": "list, show, retry and drop dead letters",
    "stats": "print workers, queue and requests in progress",
    "top": "show the same live, in a terminal",
    "sink": "write outcomes from Redis into a database",
    "results": "manage the database of outcomes",
    "doctor": "check Redis, the model's server and the settings",
    "gateway": "serve requests and event streams over HTTP",
    "key": "make, list and remove API keys of the gateway",
    "worker": "run requests from the queue",
    "replay": "turn a recorded response into deltas, without Redis",
    "demo": "run everything once, with a Valkey and a simulated model",
    "simulator": "serve a simulated model",
}
"""One line per command, in the order of the help. They are here because reading them from a command imports it."""

_EXAMPLE = """\
example:
  id=$(tailrace submit --model gpt-4.1-mini "Why is the sky blue?") && tailrace tail "$id"

TAILRACE_REDIS_URL is the URL of Redis (redis://127.0.0.1:6379/0). See also `tailrace COMMAND --help`.
"""


def main(argv: Sequence[str] | None = None) -> int:
    """Runs one command.

    Args:
        argv: the arguments without the program's name; by default those of this process.

    Returns:
        The exit code.
    """
    arguments = list(sys.argv[1:] if argv is None else argv)
    if not arguments or arguments[0] in ("-h", "--help"):
        print(_help(), file=sys.stdout if arguments else sys.stderr, end="")
        return 0 if arguments else 2
    if arguments[0] == "--version":
        print(f"tailrace {version('tailrace')}")
        return 0
    name = arguments[0]
    found = _commands().get(name)
    if found is None:
        near = difflib.get_close_matches(name, _commands(), n=1)
        meant = f"; did you mean `tailrace {near[0]}`?" if near else "; `tailrace --help` lists them"
        print_error(f"tailrace: there is no command {name[:80]!r}{meant}")
        return 2
    return _run(name, found, arguments[1:])


def _run(name: str, found: EntryPoint, arguments: Sequence[str]) -> int:
    try:
        command: Callable[[Sequence[str]], int] = found.load()
        code = command(arguments)
        sys.stdout.flush()  # here, where a broken pipe is still caught
        return code
    except TailraceError as error:
        print_error(f"tailrace {name}: {error}")
        return 1
    except KeyboardInterrupt:
        return 130
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)  # the interpreter flushes stdout at exit
        return 141


def _commands() -> dict[str, EntryPoint]:
    return {found.name: found for found in entry_points(group=GROUP)}


def _help() -> str:
    names = _commands()
    known = [name for name in _SUMMARIES if name in names]
    others = sorted(name for name in names if name not in _SUMMARIES)
    lines = [f"  {name:<10} {_SUMMARIES.get(name, '')}".rstrip() for name in (*known, *others)]
    return "\n".join(
        (
            "usage: tailrace [--help] [--version] COMMAND ...",
            "",
            "A message-queue stream worker for LLM answers.",
            "",
            "commands:",
            *lines,
            "",
            _EXAMPLE,
        )
    )
