"""Runs a coroutine as the main program of a process, on uvloop if it exists."""

import asyncio
import signal
import sys
from collections.abc import Coroutine
from typing import Any


def run_on_uvloop(main: Coroutine[Any, Any, None]) -> None:
    """Runs a coroutine to its end; on Windows, which has no uvloop, on the loop of asyncio."""
    factory = None
    if sys.platform != "win32":
        import uvloop

        factory = uvloop.new_event_loop
    with asyncio.Runner(loop_factory=factory) as runner:
        try:
            runner.run(main)
        finally:
            if sys.platform != "win32":  # the process ends now, so a second signal has no work left to stop
                signal.pthread_sigmask(signal.SIG_BLOCK, (signal.SIGTERM, signal.SIGINT))
