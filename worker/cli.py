"""The commands `tailrace worker` and `tailrace replay`: read arguments and environment, and start the program."""

import argparse
import asyncio
import os
import signal
import sys
from collections.abc import Sequence

from redis.asyncio import Redis

from tailrace.broker.clients import asking, blocking_pool
from tailrace.broker.keys import HEALTH
from tailrace.broker.time_limits import REPLY_TIMEOUT_S
from tailrace.command_line import CommandParser, print_error
from tailrace.schemas.errors import StoreError, TailraceError
from tailrace.schemas.redis_url import parse_redis_url
from tailrace.schemas.settings import Settings
from tailrace.telemetry.logging import log_to
from tailrace.worker.fleet import METRICS_PIPE, child_command, when_the_parent_dies

CHILD = "--child-of-a-fleet"
"""The option of a process that a fleet starts. It is not for people, so the help does not list it."""

_EXAMPLE = "OPENAI_API_KEY=... TAILRACE_REDIS_URL=redis://127.0.0.1:6379/0 tailrace worker --processes 2"
_MORE = """\
SIGTERM (or Ctrl-C) drains: it starts no new jobs and gives running ones a grace period. A second one ends that period.
Settings are TAILRACE_* variables. OPENAI_API_KEY, OPENAI_BASE_URL and OPENAI_ORG_ID configure the model's server.
"""


def worker(argv: Sequence[str]) -> int:
    """`tailrace worker`: runs worker processes until a signal ends them.

    Args:
        argv: the arguments after the name of the command.

    Raises:
        TailraceError: the worker cannot start; the message says what to do.
    """
    options = _parser().parse_args(argv)
    settings = Settings.from_environment(os.environ)
    given = {name: getattr(options, name) for name in ("max_jobs", "metrics_port")}
    settings = settings.model_copy(update={name: value for name, value in given.items() if value is not None})
    if options.check:
        return _check(settings)
    return _run(settings, options.processes, is_child=options.child, metrics_pipe=options.metrics_pipe)


def replay(argv: Sequence[str]) -> int:
    """`tailrace replay`: turns a recorded response into deltas, without Redis."""
    from tailrace.worker.replay import replay as run  # imported here, because `tailrace worker` does not need it

    return run(argv)


def _parser() -> CommandParser:
    parser = CommandParser(
        "worker",
        description="Runs requests from the queue, streams their responses into logs and persists the outcomes.",
        example=_EXAMPLE,
        more=_MORE,
    )
    parser.add_argument("--processes", type=_count, default=1, metavar="N", help="worker processes (default: 1)")
    parser.add_argument(
        "--max-jobs",
        type=_count,
        metavar="N",
        help="requests that a process runs at once (default: TAILRACE_MAX_JOBS or 200)",
    )
    parser.add_argument(
        "--metrics-port",
        type=_port,
        metavar="PORT",
        help="serve /metrics and /healthz of all processes here (default: TAILRACE_METRICS_PORT or none)",
    )
    parser.add_argument("--check", action="store_true", help="start nothing; exit 0 if a worker of this queue is alive")
    parser.add_argument(CHILD, action="store_true", dest="child", help=argparse.SUPPRESS)
    parser.add_argument(METRICS_PIPE, type=int, dest="metrics_pipe", help=argparse.SUPPRESS)
    return parser


def _count(text: str) -> int:
    try:
        count = int(text)
    except ValueError:
        count = 0
    if not 1 <= count <= 100_000:
        raise argparse.ArgumentTypeError(f"{text!r} is not a number from 1 to 100000")
    return count


def _port(text: str) -> int:
    if not (text.isdecimal() and int(text) <= 65_535):
        raise argparse.ArgumentTypeError(f"{text!r} is not a port, 0 to 65535")
    return int(text)


def _run(settings: Settings, processes: int, *, is_child: bool, metrics_pipe: int | None) -> int:
    # Imported here, because arq and the SDK take a second to load, and --help and --check do not need them.
    from tailrace.worker.app import run_fleet, run_worker
    from tailrace.worker.event_loop import run_on_uvloop

    log_to(sys.stderr, settings.log_format, settings.log_level)

    async def run_process() -> None:
        if is_child:
            when_the_parent_dies(lambda: signal.raise_signal(signal.SIGTERM))
        await run_worker(settings, os.environ, metrics_pipe=metrics_pipe)

    if processes == 1:
        run_on_uvloop(run_process())
    else:
        asyncio.run(
            run_fleet(settings, os.environ, child_command([CHILD, "--max-jobs", str(settings.max_jobs)]), processes)
        )
    return 0


def _check(settings: Settings) -> int:
    try:
        health = asyncio.run(_read_health(settings.queue_url))
    except StoreError as error:
        raise error.with_context(before=f"{settings.servers()[settings.queue_url]}: ") from error
    if health is None:
        place = parse_redis_url(settings.queue_url).place
        print(f"tailrace worker: no worker of {place} is alive", file=sys.stderr)
        return 1
    print(f"a worker is alive: {health.decode(errors='replace')}")
    return 0


async def _read_health(url: str) -> bytes | None:
    """The health check that a worker has written within the last minute or so; None if no worker has."""
    async with Redis.from_pool(blocking_pool(url, 1, reply_s=REPLY_TIMEOUT_S)) as redis, asking(redis):
        return await redis.get(HEALTH)


def _child(argv: Sequence[str]) -> int:
    """Runs a child of a fleet. It has no root command that prints an error as one line."""
    try:
        return worker(argv)
    except TailraceError as error:
        print_error(f"tailrace worker: {error}")
        return 1


if __name__ == "__main__":
    sys.exit(_child(sys.argv[1:]))
