"""A case of `bench tails`: many event streams through one gateway, each on its own connection.

The writer is the same as in the other cases; the gateway is `tailrace gateway` in its own process.
"""

from typing import NamedTuple

import msgspec

from bench.figures import BenchError, Report
from bench.programs import Fleet, Program, cpu_s
from bench.statistics import median
from bench.tails_reader import Measured, rss_bytes
from tailrace.demo.parts import clean_environment
from tailrace.demo.valkey import EmbeddedValkey

CONNECTIONS = 1_000
EASY_RATE = 5.0
"""Deltas a second per request at which one gateway keeps up, so that its latency is not that of a backlog."""

NAME = "SSE through the gateway"
OPEN_WITHIN_S = 60.0
_GATEWAY = ("-m", "tailrace", "gateway", "--open", "--port", "0")


class Row(NamedTuple):
    """The results: medians over the windows."""

    us_a_delta: float
    p50_ms: float
    p99_ms: float
    delivered_percent: float
    server_percent: float
    bytes_a_stream: float


def measure(report: Report, rate: float, windows: int, window_s: float) -> Row:
    """Opens the streams, then measures.

    Args:
        report: receives progress.
        rate: deltas a second per request.
        windows: how many windows are measured.
        window_s: the length of a window.

    Raises:
        BenchError: a program ended, was not ready in time, or no delta was delivered.
    """
    report.progress(f"{CONNECTIONS:,} connections, {rate:g} deltas/s each: {NAME}")
    with EmbeddedValkey() as valkey, Fleet() as fleet:
        environment = clean_environment({"TAILRACE_REDIS_URL": valkey.url})
        writer = fleet.start(
            "the writer", ["-m", "bench.tails_writer", valkey.url, str(CONNECTIONS), str(rate)], environment
        )
        fleet.wait_for_lines(1, OPEN_WITHIN_S, "writers ready")
        gateway = fleet.start("the gateway", _GATEWAY, environment)
        ((_, listens),) = fleet.wait_for_lines(1, OPEN_WITHIN_S, "gateways ready")
        before = rss_bytes(gateway.popen.pid)
        port = listens.rpartition(":")[2]
        reader = fleet.start("the reader", ["-m", "bench.tails_sse_reader", port, str(CONNECTIONS)], environment)
        fleet.wait_for_lines(1, OPEN_WITHIN_S, "readers open")
        held = (rss_bytes(gateway.popen.pid) - before) / CONNECTIONS
        writer.send_line("go")
        _window(fleet, reader, 1.0)  # warm-up
        gateway_us: list[float] = []
        server: list[float] = []
        measured: list[Measured] = []
        for _ in range(windows):
            gateway_s, server_s = cpu_s(gateway.popen.pid), cpu_s(valkey.pid)
            window = _window(fleet, reader, window_s)
            gateway_us.append((cpu_s(gateway.popen.pid) - gateway_s) / window.deltas * 1e6)
            server.append((cpu_s(valkey.pid) - server_s) / window.seconds * 100)
            measured.append(window)
    return Row(
        median(gateway_us),
        median([window.p50_ms for window in measured]),
        median([window.p99_ms for window in measured]),
        median([window.deltas / (window.seconds * rate * CONNECTIONS) * 100 for window in measured]),
        median(server),
        held,
    )


def tell(report: Report, rate: float, row: Row) -> None:
    """Prints the results for a rate."""
    case = f"{CONNECTIONS:,} connections, {rate:g} deltas/s each"
    report.figure(case, f"{NAME}, the gateway's CPU", row.us_a_delta, "us/delta")
    report.figure(case, f"{NAME}, append to frame", row.p50_ms, "ms")
    report.figure(case, f"{NAME}, append to frame, 99 %", row.p99_ms, "ms")
    report.figure(case, f"{NAME}, delivered", row.delivered_percent, "%")
    report.figure(case, f"{NAME}, the gateway's memory", row.bytes_a_stream / 1024, "KiB/connection")
    report.figure(case, f"{NAME}, Valkey's CPU of one core", row.server_percent, "%")


def _window(fleet: Fleet, reader: Program, seconds: float) -> Measured:
    reader.send_line(str(seconds))
    ((_, line),) = fleet.wait_for_lines(1, OPEN_WITHIN_S, "answers")
    window = msgspec.json.decode(line, type=Measured)
    if not window.deltas:
        raise BenchError(f"{NAME}: no delta was delivered")
    return window
