"""The requests that the simulator received and how each ended; tests and benchmarks read it at `/__sim/requests`.

Owns the bounded history and the counts of calls by key. Knows no sockets; the caller passes the times.
"""

from __future__ import annotations

from collections import Counter, deque
from typing import Literal

import msgspec

How = Literal["open", "completed", "error", "client_closed", "cut", "rst", "stopped"]


class Entry(msgspec.Struct, kw_only=True):
    """One request. Times are by this machine's monotonic clock, in seconds; its calls are counted under `key`.

    `ended`: open (still running), completed (its last byte was passed to the system), error (answered with an error
    status), client_closed, cut and rst (by the scenario), stopped (with the simulator).
    """

    n: int
    method: str
    path: str
    model: str | None = None
    stream: bool = False
    key: str | None = None
    call: int | None = None
    status: int | None = None
    started_s: float
    first_byte_s: float | None = None
    ended_s: float | None = None
    ended: How = "open"
    chunks_sent: int = 0

    def end(self, how: How, now_s: float) -> None:
        """Records the end of the request; a later call changes nothing."""
        if self.ended == "open":
            self.ended, self.ended_s = how, now_s


class Ledger:
    """The last requests, the total number of requests, and how often each key was called."""

    def __init__(self, keep: int = 10_000) -> None:
        self._entries: deque[Entry] = deque(maxlen=keep)
        self._calls: Counter[str] = Counter()
        self._total = 0

    def open(self, method: str, path: str, now_s: float) -> Entry:
        """A new entry; requests about the simulator itself get one that is not kept."""
        if path.startswith("/__sim"):
            return Entry(n=0, method=method, path=path, started_s=now_s)
        self._total += 1
        entry = Entry(n=self._total, method=method, path=path, started_s=now_s)
        self._entries.append(entry)
        return entry

    def call(self, key: str) -> int:
        """The number of this call with this key, from 1."""
        self._calls[key] += 1
        return self._calls[key]

    def entries(self) -> list[Entry]:
        return list(self._entries)

    def report(self, open_connections: int, now_s: float) -> bytes:
        running = sum(entry.ended == "open" for entry in self._entries)
        return msgspec.json.encode(
            {
                "now_s": now_s,
                "open_connections": open_connections,
                "total": self._total,
                "running": running,
                "requests": self.entries(),
            }
        )

    def reset(self) -> None:
        """Removes all entries; running requests continue without one."""
        self._entries.clear()
        self._calls.clear()
        self._total = 0
