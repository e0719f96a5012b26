"""The command `tailrace simulator`: serves until it is stopped."""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import os
import signal
import sys
from collections.abc import Coroutine, Sequence
from typing import Any

from tailrace.command_line import CommandParser
from tailrace.demo.simulator.ledger import Entry
from tailrace.demo.simulator.server import Simulator

_EXAMPLE = """\
tailrace simulator --port 8080
curl -N http://127.0.0.1:8080/v1/chat/completions -H 'authorization: Bearer any' \\
  -d '{"model": "sim-letta", "stream": true, "messages": [{"role": "user", "content": "Hello"}]}'
"""
_MORE = """\
Prints one line of JSON with its base URL on stdout when it is ready. GET /__sim/requests lists its requests.
"""


def _rate(text: str) -> float:
    try:
        rate = float(text)
    except ValueError:
        rate = -1.0
    if not 0 <= rate <= 1_000_000:
        raise argparse.ArgumentTypeError(f"{text!r} is not a rate from 0 to 1000000")
    return rate


def _port(text: str) -> int:
    if not (text.isascii() and text.isdecimal() and len(text) <= 5 and int(text) <= 65_535):
        raise argparse.ArgumentTypeError(f"{text!r} is not a port from 0 to 65535")
    return int(text)


def _parser() -> CommandParser:
    parser = CommandParser(
        "simulator",
        description="A server that behaves like OpenAI's API, and fails if a scenario asks for it.",
        example=_EXAMPLE,
        more=_MORE,
    )
    parser.add_argument("--host", default="127.0.0.1", help="address to listen on (default %(default)s)")
    parser.add_argument("--port", type=_port, default=8080, help="port; 0 chooses a free one (default %(default)s)")
    parser.add_argument("--key", help="the required API key (default: any that is not empty)")
    parser.add_argument("--chunks-per-s", type=_rate, default=0.0, metavar="N",
                        help="pace of streams whose scenario has none; 0: as fast as they are read")  # fmt: skip
    parser.add_argument("--quiet", action="store_true", help="no line on stderr for each request")
    return parser


def _tell(entry: Entry) -> None:
    if not entry.n:  # a request about the simulator itself
        return
    took_ms = ((entry.ended_s or entry.started_s) - entry.started_s) * 1000
    what = f"{entry.method} {entry.path} {entry.model or '-'}"
    print(f"{what} {entry.status or '-'} {entry.ended} {entry.chunks_sent} chunks {took_ms:.0f} ms", file=sys.stderr)


def _silent(entry: Entry) -> None:
    """Prints nothing."""


async def _serve(options: argparse.Namespace) -> int:
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, stop.set)
    simulator = Simulator(
        options.host,
        options.port,
        key=options.key,
        chunks_per_s=options.chunks_per_s,
        on_end=_silent if options.quiet else _tell,
    )
    try:
        await simulator.__aenter__()
    except OSError as error:
        reason = os.strerror(error.errno) if error.errno else str(error)
        print(f"tailrace simulator: cannot listen on {options.host}:{options.port}: {reason}; choose another --port",
              file=sys.stderr)  # fmt: skip
        return 1
    async with contextlib.AsyncExitStack() as stack:
        stack.push_async_exit(simulator.__aexit__)
        print(json.dumps({"url": simulator.url}), flush=True)
        await stop.wait()
    return 0


def _run(main: Coroutine[Any, Any, int]) -> int:
    try:
        import uvloop
    except ImportError:  # not available on Windows
        return asyncio.run(main)
    return uvloop.run(main)


def simulator(argv: Sequence[str]) -> int:
    """Runs the simulator until SIGINT or SIGTERM. Returns the exit code."""
    return _run(_serve(_parser().parse_args(argv)))
