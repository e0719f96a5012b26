"""Reports the state of a worker to Redis, for `tailrace stats` and `tailrace top`. Knows nothing of jobs or leases."""

import asyncio
import os
import secrets
import socket
from collections.abc import Callable
from contextlib import suppress
from time import monotonic
from typing import NamedTuple, Protocol

from tailrace.schemas.errors import StoreError
from tailrace.schemas.worker_report import WorkerReport, encode_report

REPORT_S = 5.0
REPORTS_PER_ANNOUNCEMENT = 4
LEAVE_S = 1.0
"""How long a worker that stops tries to remove its report. If it cannot, it is shown as silent for a while."""


class WorkerState(NamedTuple):
    """The state of a worker process; `WorkerReport` documents the fields."""

    max_jobs: int
    running: int
    starts: int
    renewed_ago_s: float
    draining: bool


class ReportStore(Protocol):
    """Where reports are written."""

    async def report(self, name: str, encoded: bytes) -> None:
        """Writes the report of the worker with this name. Raises StoreError."""
        ...

    async def announce(self, name: str, *, gone: bool = False) -> None:
        """Lists this worker for a while, or removes it from the list if it is gone. Raises StoreError."""
        ...


class Reporter:
    """Reports the state of one worker process.

    Args:
        store: where the reports are written.
        state: returns the current state.
    """

    def __init__(self, store: ReportStore, state: Callable[[], WorkerState]) -> None:
        self._store = store
        self._state = state
        self._host, self._pid = socket.gethostname(), os.getpid()
        self.name = f"{self._host}:{self._pid}:{secrets.token_hex(4)}"
        self._began = self._reported = monotonic()
        self._starts = 0

    async def run(self) -> None:
        """Reports every `REPORT_S` until it is cancelled. Skips a report if Redis does not answer, and logs nothing."""
        number = 0
        while True:
            with suppress(StoreError):
                await self._store.report(self.name, encode_report(self._report()))
                if number % REPORTS_PER_ANNOUNCEMENT == 0:
                    await self._store.announce(self.name)
                number += 1
            await asyncio.sleep(REPORT_S)

    async def remove_report(self) -> None:
        """Removes the report at the end."""
        with suppress(StoreError, TimeoutError):
            async with asyncio.timeout(LEAVE_S):
                await self._store.announce(self.name, gone=True)

    def _report(self) -> WorkerReport:
        now, state = monotonic(), self._state()
        since_s = max(now - self._reported, 0.001)
        starts_per_s = (state.starts - self._starts) / since_s
        self._reported, self._starts = now, state.starts
        return WorkerReport(
            host=self._host,
            pid=self._pid,
            up_s=round(now - self._began, 1),
            max_jobs=state.max_jobs,
            running=state.running,
            starts=state.starts,
            starts_per_s=round(starts_per_s, 2),
            renewed_ago_s=round(state.renewed_ago_s, 2),
            draining=state.draining,
        )
