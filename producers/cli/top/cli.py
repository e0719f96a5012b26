"""The command `top`. Reads arguments, and imports Textual only when there is a terminal."""

import argparse
import asyncio
import os
import sys
from collections.abc import Sequence
from importlib.util import find_spec

from tailrace.command_line import CommandParser
from tailrace.schemas.errors import SettingsError

TOP_MISSING = "the extra `top` is not installed: pip install 'tailrace[top]'; `tailrace stats` works without it"
NO_TERMINAL = "stdout is not a terminal: use `tailrace stats`, or `tailrace stats --json` for programs"


def top(argv: Sequence[str]) -> int:
    """`tailrace top`: workers, queue, requests in progress and dead letters, live."""
    parser = CommandParser(
        "top",
        description="Show workers, the queue by priority and tenant, requests in progress and dead letters, live.\n"
        "Enter follows the selected request, c cancels it after a confirmation, p pauses, q quits.\n"
        "The Redis user needs the rights of a worker.",
        example="tailrace top\ntailrace top --every 5",
    )
    parser.add_argument("--every", type=_seconds, default=1.0, metavar="S", help="seconds between refreshes (1)")
    parser.add_argument("--runs", type=_count, default=200, metavar="N", help="requests in progress to list (200)")
    given = parser.parse_args(argv)
    if find_spec("textual") is None:
        raise SettingsError(TOP_MISSING)
    if not (sys.stdout.isatty() and sys.stdin.isatty()):
        raise SettingsError(NO_TERMINAL)
    return asyncio.run(_watch(given.every, given.runs))


def _seconds(text: str) -> float:
    try:
        seconds = float(text)
    except ValueError:
        seconds = 0.0
    if not 0.2 <= seconds <= 3_600:
        raise argparse.ArgumentTypeError(f"{text!r} is not a number of seconds from 0.2 to 3600")
    return seconds


def _count(text: str) -> int:
    if not (text.isdecimal() and 1 <= int(text) <= 2_000):
        raise argparse.ArgumentTypeError(f"{text!r} is not a number from 1 to 2000")
    return int(text)


async def _watch(every_s: float, runs_max: int) -> int:
    from tailrace.producers.cli.top.app import Top
    from tailrace.producers.client import Client
    from tailrace.schemas.settings import Settings

    async with Client.from_settings(Settings.from_environment(os.environ)) as client:
        await client.overview(runs_max=1)  # an error is printed as one line, before the screen opens
        app = Top(client, every_s=every_s, runs_max=runs_max)
        await app.run_async()
        return app.return_code or 0
