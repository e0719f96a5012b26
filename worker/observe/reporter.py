"""A worker process says how it fares, now and then, for those who watch. Knows neither jobs nor leases."""

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
"""So long a worker that goes tries to say so; one that could not is shown as silent for a while."""


class WorkerState(NamedTuple):
    """How a worker fares; `WorkerReport` says what the words mean."""

    max_jobs: int
    running: int
    starts: int
    renewed_ago_s: float
    draining: bool


class ReportStore(Protocol):
    """What reports need of Redis."""

    async def report(self, name: str, said: bytes) -> None:
        """What this worker says of itself. Raises StoreError."""
        ...

    async def announce(self, name: str, *, gone: bool = False) -> None:
        """This worker is one of those to be seen, for a while; or it goes. Raises StoreError."""
        ...


class Reporter:
    """The reports of one worker process.

    Args:
        store: where they stand.
        state: how things stand now.
    """

    def __init__(self, store: ReportStore, state: Callable[[], WorkerState]) -> None:
        self._store = store
        self._state = state
        self._host, self._pid = socket.gethostname(), os.getpid()
        self.name = f"{self._host}:{self._pid}:{secrets.token_hex(4)}"
        self._began = self._reported = monotonic()
        self._starts = 0

    async def keep(self) -> None:
        """Reports until it is cancelled. A Redis that is away is told nothing, and nobody is told of that."""
        number = 0
        while True:
            with suppress(StoreError):
                await self._store.report(self.name, encode_report(self._report()))
                if number % REPORTS_PER_ANNOUNCEMENT == 0:
                    await self._store.announce(self.name)
                number += 1
            await asyncio.sleep(REPORT_S)

    async def leave(self) -> None:
        """Takes the report back, at the end."""
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
