"""The command `tailrace`: finds commands by entry points, imports only the one called. Owns exit codes and error lines.

Exit codes: 0 done, 1 an error that a line on stderr names, 2 wrong usage, 130 interrupted, 141 nobody reads the output.
Knows nothing of what commands do; imports nothing slow, so that `tailrace --help` answers at once.
"""

import difflib
import os
import sys
from collections.abc import Callable, Sequence
from importlib.metadata import EntryPoint, entry_points, version

from tailrace.command_line import say
from tailrace.schemas.errors import TailraceError

GROUP = "tailrace.commands"

_SUMMARIES = {
    "submit": "submit a request; prints its id",
    "tail": "follow a request: reasoning, tool calls and text as they arrive",
    "result": "print the outcome as JSON",
    "cancel": "stop a request, waiting or running",
    "status": "say where a request stands",
    "dead": "list, show, retry and drop requests that could not be run",
    "stats": "say how things stand: workers, queue, running requests",
    "top": "watch all of that live, in a terminal",
    "sink": "write outcomes from Redis into a database",
    "results": "look after the database of outcomes",
    "doctor": "look at Redis, the model's server and the settings, and say what to do",
    "gateway": "serve all of that over HTTP, with event streams for browsers",
    "key": "make, list and drop API keys of the gateway",
    "worker": "run requests: queue to model to stream",
    "replay": "turn a recorded response into deltas, without Redis",
    "demo": "show it all on a Valkey and a simulated model of its own",
    "simulator": "serve a simulated model",
}
"""One line a command, here because asking the command would import it. In the order of the help."""

_EXAMPLE = """\
example:
  id=$(tailrace submit --model gpt-4.1-mini "Why is the sky blue?") && tailrace tail "$id"

Redis is TAILRACE_REDIS_URL (redis://127.0.0.1:6379/0). `tailrace COMMAND --help` says more.
"""


def main(argv: Sequence[str] | None = None) -> int:
    """Runs one command.

    Args:
        argv: the arguments without the program's name; those of this process when left out.

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
        say(f"tailrace: there is no command {name[:80]!r}{meant}")
        return 2
    return _run(name, found, arguments[1:])


def _run(name: str, found: EntryPoint, arguments: Sequence[str]) -> int:
    try:
        command: Callable[[Sequence[str]], int] = found.load()
        code = command(arguments)
        sys.stdout.flush()  # here, where a reader that has gone is still caught
        return code
    except TailraceError as error:
        say(f"tailrace {name}: {error}")
        return 1
    except KeyboardInterrupt:
        return 130
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)  # or the interpreter complains when it flushes at its end
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
