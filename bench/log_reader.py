"""A cheap reader of a few logs, the same for every writer: one blocking XREAD over all logs.

`python -m bench.log_reader REDIS_PORT LOG...` prints "ready". Each line on standard input is a number of seconds, for
which it reads new entries; it then prints one JSON line (`Lateness`). The text of a delta is the time at which the
feeder sent it.
"""

import re
import socket
import sys
from time import monotonic, monotonic_ns
from typing import Any

import hiredis
import msgspec

from bench.feeder import CLOCK_DIGITS
from bench.statistics import percentile

BLOCK_MS = 100
_SENT = re.compile(rb'"content": ?"(\d{%d})' % CLOCK_DIGITS)
_READ_BYTES = 65_536


class Lateness(msgspec.Struct, frozen=True):
    """The time from sending by the feeder to reading here, in milliseconds."""

    deltas: int
    p50_ms: float
    p99_ms: float
    max_ms: float


class Logs:
    """A connection to Redis and the positions in its logs."""

    def __init__(self, port: int, logs: list[bytes]) -> None:
        self._connection = socket.create_connection(("127.0.0.1", port))
        self._replies = hiredis.Reader()
        self._places = dict.fromkeys(logs, b"0-0")

    def go_to_end(self) -> None:
        """Skips the entries that exist now."""
        for log in self._places:
            last = self._ask(b"XREVRANGE", log, b"+", b"-", b"COUNT", b"1")
            self._places[log] = last[0][0] if last else b"0-0"

    def next(self) -> list[bytes]:
        """The next entries; none if none arrive within BLOCK_MS."""
        read = self._ask(b"XREAD", b"BLOCK", b"%d" % BLOCK_MS, b"STREAMS", *self._places.keys(), *self._places.values())
        entries: list[bytes] = []
        for log, items in read or ():
            self._places[log] = items[-1][0]
            entries += [fields[1] for _, fields in items]
        return entries

    def _ask(self, *words: bytes) -> Any:
        packed = b"".join(b"$%d\r\n%b\r\n" % (len(word), word) for word in words)
        self._connection.sendall(b"*%d\r\n%b" % (len(words), packed))
        while (reply := self._replies.gets()) is False:
            self._replies.feed(self._connection.recv(_READ_BYTES))
        if isinstance(reply, Exception):
            raise reply
        return reply


def measure(logs: Logs, seconds: float) -> Lateness:
    """Reads for so many seconds."""
    logs.go_to_end()
    late_ms: list[float] = []
    ends = monotonic() + seconds
    while monotonic() < ends:
        entries = logs.next()
        now = monotonic_ns()
        late_ms += [(now - int(sent[1])) / 1e6 for entry in entries if (sent := _SENT.search(entry))]
    known = late_ms or [0.0]
    return Lateness(len(late_ms), percentile(known, 50), percentile(known, 99), max(known))


def main(port: int, names: list[str]) -> None:
    """Measures on each command, until standard input ends."""
    logs = Logs(port, [name.encode() for name in names])
    print("ready", flush=True)
    for line in sys.stdin:
        print(msgspec.json.encode(measure(logs, float(line))).decode(), flush=True)


if __name__ == "__main__":
    main(int(sys.argv[1]), sys.argv[2:])
