"""The commands `tailrace demo` and `tailrace simulator`; each imports what it needs when it is called."""

import argparse
import os
import signal
from collections.abc import Sequence
from types import FrameType

from tailrace.command_line import CommandParser

_EXAMPLE = """\
tailrace demo
tailrace demo --watch                                         # a page to watch answers on, until Ctrl-C
REAL=1 OPENAI_API_KEY=... MODEL=gpt-4.1-mini tailrace demo    # the real model, and its bill
"""


def demo(argv: Sequence[str]) -> int:
    """`tailrace demo`: two requests from submit to outcome, on its own Valkey and simulated model."""
    parser = CommandParser(
        "demo",
        description="Shows two requests from submit to outcome: a Valkey, a simulated OpenAI, a worker, viewers. "
        "It uses neither your Redis nor, unless REAL=1, your key. Everything is stopped at the end. "
        "With --watch it submits nothing by itself, and serves the gateway's page instead of viewers.",
        example=_EXAMPLE,
    )
    parser.add_argument("--watch", action="store_true", help="serve a page to watch answers on, until Ctrl-C")
    parser.add_argument(
        "--port", type=_port, default=8000, help="port of that page, on 127.0.0.1 (8000; 0 chooses a free one)"
    )
    given = parser.parse_args(argv)
    signal.signal(signal.SIGTERM, _as_interrupt)  # so that all started processes are stopped then, too
    if given.watch:
        from tailrace.demo.watch import watch

        watch(os.environ, given.port)
    else:
        from tailrace.demo.tour import tour

        tour(os.environ)
    return 0


def simulator(argv: Sequence[str]) -> int:
    """`tailrace simulator`: a simulated OpenAI API for tests."""
    from tailrace.demo.simulator.cli import simulator as run

    return run(argv)


def _port(text: str) -> int:
    if not (text.isdecimal() and int(text) <= 65_535):
        raise argparse.ArgumentTypeError(f"{text!r} is not a port, 0 to 65535")
    return int(text)


def _as_interrupt(number: int, frame: FrameType | None) -> None:
    raise KeyboardInterrupt
