"""The reader of event streams of `bench tails`: many connections to one gateway.

`python -m bench.tails_sse_reader PORT COUNT` prints "open" once every stream has reached the end of its log. Each line
on standard input is a number of seconds, for which it measures; it then prints one JSON line (`Measured`).
"""

import asyncio
import re
import sys
from time import monotonic, monotonic_ns, process_time

import msgspec
import uvloop

from bench.statistics import percentile
from bench.tails_reader import Count, Measured
from tailrace.demo.valkey import HOST

_AT_ONCE = 100
_BEGUN = b"event: attempt_started\n"
_WRITTEN = re.compile(rb'"content":"(\d+)"\}\n')
"""The time at which a delta was appended. Nothing else of a frame is parsed, to leave the CPU to the gateway."""


class Stream(asyncio.Protocol):
    """One connection; records the latency of each delta."""

    def __init__(self, count: Count) -> None:
        self._count = count
        self._rest = b""
        self._begun = b""
        self.opened = asyncio.Event()
        self.closed = False

    def data_received(self, data: bytes) -> None:
        """Searches the new data for deltas."""
        if not self.opened.is_set():
            self._begun += data
            if _BEGUN in self._begun:
                self.opened.set()
        now = monotonic_ns()
        data = self._rest + data
        end = 0
        for found in _WRITTEN.finditer(data):
            end = found.end()
            self._count.deltas += 1
            self._count.late_ns.append(now - int(found[1]))
        self._rest = data[end:][-512:]  # enough for a delta that is split over two reads

    def connection_lost(self, exc: Exception | None) -> None:
        """Records that the gateway closed the stream, which is an error."""
        self.closed = True


async def main(port: int, number: int) -> None:
    """Opens the streams, not all at once, then measures on each command."""
    loop, count = asyncio.get_running_loop(), Count()
    streams: list[Stream] = []
    for first in range(0, number, _AT_ONCE):
        some: list[Stream] = []
        for index in range(first, min(first + _AT_ONCE, number)):
            transport, stream = await loop.create_connection(lambda: Stream(count), HOST, port)
            path = f"/v1/streams/bench-{index}/events"
            transport.write(f"GET {path} HTTP/1.1\r\nhost: {HOST}\r\naccept: text/event-stream\r\n\r\n".encode())
            some.append(stream)
        await asyncio.gather(*(stream.opened.wait() for stream in some))
        streams += some
    print("open", flush=True)
    while line := await asyncio.to_thread(sys.stdin.readline):
        count.reset()
        began, used = monotonic(), process_time()
        await asyncio.sleep(float(line))
        seconds, cpu_s = monotonic() - began, process_time() - used
        if any(stream.closed for stream in streams):
            raise SystemExit("the gateway has closed a stream")
        late_ms = [late / 1e6 for late in count.late_ns] or [0.0]
        measured = Measured(seconds, count.deltas, cpu_s, percentile(late_ms, 50), percentile(late_ms, 99))
        print(msgspec.json.encode(measured).decode(), flush=True)


if __name__ == "__main__":
    uvloop.run(main(int(sys.argv[1]), int(sys.argv[2])))
