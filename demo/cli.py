"""The commands `tailrace demo` and `tailrace simulator`; each imports what it needs when it is called."""

import os
import signal
from collections.abc import Sequence
from types import FrameType

from schemas.command_line import CommandParser

_EXAMPLE = """\
tailrace demo
REAL=1 OPENAI_API_KEY=... MODEL=gpt-4.1-mini tailrace demo    # the real model, and its bill
"""


def demo(argv: Sequence[str]) -> int:
    """`tailrace demo`: two requests from submit to outcome, on a Valkey and a simulated model of its own."""
    parser = CommandParser(
        "demo",
        description="Shows two requests from submit to outcome: a Valkey, a simulated OpenAI, a worker, viewers. "
        "It uses none of your Redis, and no key of yours unless REAL=1. Everything is taken down at the end.",
        example=_EXAMPLE,
    )
    parser.parse_args(argv)
    from demo.tour import tour

    signal.signal(signal.SIGTERM, _as_interrupt)  # what was started is taken down then, too
    tour(os.environ)
    return 0


def simulator(argv: Sequence[str]) -> int:
    """`tailrace simulator`: an OpenAI to test against."""
    from demo.simulator.cli import simulator as run

    return run(argv)


def _as_interrupt(number: int, frame: FrameType | None) -> None:
    raise KeyboardInterrupt
