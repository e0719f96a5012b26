"""Starts worker processes (`queue_program.py`) for the queue's fault tests, and reads the events of their jobs."""

import json
import subprocess
import sys
from collections.abc import Callable, Generator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from arq.connections import ArqRedis

from tests.fault.queue_program import EVENTS

LEASE_S = 1.0

Start = Callable[..., subprocess.Popen[bytes]]

_PROGRAM = Path(__file__).with_name("queue_program.py")
_SHORT = {"lease_s": LEASE_S, "poll_s": 0.2, "drain_s": 0.2}


def worker_process(url: str, **settings: Any) -> subprocess.Popen[bytes]:
    """Starts one worker with short times, which `settings` override. The caller ends it."""
    return subprocess.Popen([sys.executable, _PROGRAM, url, json.dumps({**_SHORT, **settings})])


@contextmanager
def queue_workers(url: str, **settings: Any) -> Generator[Start]:
    """Yields a function that starts workers with these settings and more. All are killed at the end of the block."""
    workers: list[subprocess.Popen[bytes]] = []

    def start(**more: Any) -> subprocess.Popen[bytes]:
        workers.append(worker_process(url, **{**settings, **more}))
        return workers[-1]

    try:
        yield start
    finally:
        for worker in workers:
            worker.kill()
            worker.wait()


async def events(client: ArqRedis) -> list[dict[str, Any]]:
    """The events that jobs have recorded, in order."""
    return [json.loads(entry) for entry in await client.lrange(EVENTS, 0, -1)]
