"""`bench tails`: many tails in one process, through `Client` and the gateway, next to one blocking connection a tail.

The writer is the worker's publisher in its own process; each request has 20 deltas a second. Reader, writer and server
share the machine's cores.
"""

import socket
from time import sleep
from typing import NamedTuple

import msgspec

from bench import tails_gateway
from bench.figures import BenchError, Report
from bench.programs import Fleet, Program, cpu_s
from bench.statistics import median
from bench.tails_reader import Measured
from tailrace.demo.parts import clean_environment
from tailrace.demo.valkey import HOST, EmbeddedValkey

RATE = 20.0
OPEN_WITHIN_S = 60.0
LATE_MS = 50.0
OURS, HUB, PEER = "client", "hub", "xread"
NAMES = {OURS: "Client.tail", HUB: "the hub alone, entries not decoded", PEER: "a blocking XREAD a tail"}
PEER_AT_MOST = 1_000
CONNECTIONS_AT_MOST = 3
UNHEARD = 500


class Effort(NamedTuple):
    """How much is measured: `--quick` or not."""

    counts: tuple[int, ...]
    windows: int
    window_s: float


FULL = Effort((1, 100, 1_000, 5_000), 3, 4.0)
QUICK = Effort((1, 100, 1_000), 1, 1.5)


class Row(NamedTuple):
    """The results of one way for one number of tails: medians over its windows."""

    us_a_delta: float
    p50_ms: float
    p99_ms: float
    delivered_percent: float
    server_percent: float
    writer_us: float
    bytes_a_tail: float
    connections: int


def run(report: Report, *, quick: bool) -> None:
    """Measures every way for every number of tails, one after the other."""
    effort = QUICK if quick else FULL
    for count in effort.counts:
        rows: dict[str, Row] = {}
        for way in (OURS, HUB, PEER):
            if way != PEER or count <= PEER_AT_MOST:
                report.progress(f"{count:,} tails: {NAMES[way]}")
                rows[way] = _measure(way, count, effort)
        _report(report, count, rows)
    for rate in (tails_gateway.EASY_RATE,) if quick else (tails_gateway.EASY_RATE, RATE):
        tails_gateway.tell(report, rate, tails_gateway.measure(report, rate, effort.windows, effort.window_s))
    _report_pushes(report, {mute: _without_readers(report, mute, effort) for mute in (False, True)})


def _without_readers(report: Report, mute: bool, effort: Effort) -> tuple[float, float]:
    """What a delta costs writer and server while there are no readers, in microseconds."""
    report.progress(f"nobody follows, {'without' if mute else 'with'} pushes")
    with EmbeddedValkey() as valkey, Fleet() as fleet:
        arguments = ["-m", "bench.tails_writer", valkey.url, str(UNHEARD), str(RATE), *(["mute"] if mute else [])]
        writer = fleet.start("the writer", arguments, clean_environment({}))
        fleet.wait_for_lines(1, OPEN_WITHIN_S, "writers ready")
        writer.send_line("go")
        costs: list[tuple[float, float]] = []
        for _ in range(effort.windows):
            before = _appended(fleet, writer)
            writer_s, server_s = cpu_s(writer.popen.pid), cpu_s(valkey.pid)
            sleep(effort.window_s)
            writer_s, server_s = cpu_s(writer.popen.pid) - writer_s, cpu_s(valkey.pid) - server_s
            appended = _appended(fleet, writer) - before
            costs.append((writer_s / appended * 1e6, server_s / appended * 1e6))
    return median([cost for cost, _ in costs]), median([cost for _, cost in costs])


def _appended(fleet: Fleet, writer: Program) -> int:
    writer.send_line("how many")
    ((_, line),) = fleet.wait_for_lines(1, OPEN_WITHIN_S, "answers")
    return int(line)


def _report_pushes(report: Report, costs: dict[bool, tuple[float, float]]) -> None:
    case = f"{UNHEARD} requests, nobody follows"
    for index, what in enumerate(("the writer's CPU", "Valkey's CPU")):
        report.figure(case, what, costs[False][index], "us/delta", beside={"without pushes": costs[True][index]})


def _measure(way: str, count: int, effort: Effort) -> Row:
    options = {"maxclients": "10000", "client-output-buffer-limit": "pubsub 0 0 0"}
    with EmbeddedValkey(options=options) as valkey, Fleet() as fleet:
        environment = clean_environment({})
        arguments = ["-m", "bench.tails_writer", valkey.url, str(count), str(RATE)]
        writer = fleet.start("the writer", arguments, environment)
        fleet.wait_for_lines(1, OPEN_WITHIN_S, "writers ready")
        url = f"{valkey.url}?client_name=tails"
        reader = fleet.start("the reader", ["-m", "bench.tails_reader", way, url, str(count)], environment)
        ((_, opened),) = fleet.wait_for_lines(1, OPEN_WITHIN_S, "readers open")
        writer.send_line("go")
        reader.send_line("1")  # warm-up
        fleet.wait_for_lines(1, OPEN_WITHIN_S, "answers")
        measured: list[Measured] = []
        server: list[float] = []
        written: list[float] = []
        for _ in range(effort.windows):
            server_s, writer_s = cpu_s(valkey.pid), cpu_s(writer.popen.pid)
            reader.send_line(str(effort.window_s))
            ((_, line),) = fleet.wait_for_lines(1, OPEN_WITHIN_S, "answers")
            window = msgspec.json.decode(line, type=Measured)
            if not window.deltas:
                raise BenchError(f"{NAMES[way]}: no delta was delivered")
            measured.append(window)
            server.append((cpu_s(valkey.pid) - server_s) / window.seconds * 100)
            written.append((cpu_s(writer.popen.pid) - writer_s) / window.deltas * 1e6)
        connections = _connections(valkey)
    return Row(
        median([window.cpu_s / window.deltas * 1e6 for window in measured]),
        median([window.p50_ms for window in measured]),
        median([window.p99_ms for window in measured]),
        median([window.deltas / (window.seconds * RATE * count) * 100 for window in measured]),
        median(server),
        median(written),
        float(opened.split(" ")[1]),
        connections,
    )


def _connections(valkey: EmbeddedValkey) -> int:
    """How many Redis connections the reader has."""
    with socket.create_connection((HOST, valkey.port), 5.0) as connection, connection.makefile("rwb") as lines:
        lines.write(b"CLIENT LIST\r\n")
        lines.flush()
        size = int(lines.readline()[1:])
        return lines.read(size).count(b" name=tails ")


def _report(report: Report, count: int, rows: dict[str, Row]) -> None:
    case = f"{count:,} tails"
    ours, peer = rows[OURS], rows.get(PEER)
    note = None if peer else "one connection a tail is not measured for so many tails"

    def beside(field: str) -> dict[str, float] | None:
        return {NAMES[PEER]: getattr(peer, field)} if peer else None

    what = NAMES[OURS]
    report.figure(case, f"{what}, CPU", ours.us_a_delta, "us/delta", beside=beside("us_a_delta"), note=note)
    report.figure(case, f"{NAMES[HUB]}, CPU", rows[HUB].us_a_delta, "us/delta", at_most=4.0 if count >= 1_000 else None)
    report.figure(case, f"{what}, append to item", ours.p50_ms, "ms", beside=beside("p50_ms"))
    report.figure(case, f"{what}, append to item, 99 %", ours.p99_ms, "ms", beside=beside("p99_ms"), at_most=LATE_MS)
    report.figure(case, f"{what}, delivered of {RATE:g}/s a tail", ours.delivered_percent, "%",
                  beside=beside("delivered_percent"))  # fmt: skip
    report.figure(case, f"{what}, memory", ours.bytes_a_tail / 1024, "KiB/tail",
                  beside={NAMES[PEER]: peer.bytes_a_tail / 1024} if peer else None)  # fmt: skip
    # One more connection is for the client's own operations.
    report.figure(case, f"{what}, Redis connections beside the client's own", ours.connections - 1, "connections",
                  beside={NAMES[PEER]: peer.connections} if peer else None, at_most=CONNECTIONS_AT_MOST)  # fmt: skip
    report.figure(case, f"{what}, Valkey's CPU of one core", ours.server_percent, "%", beside=beside("server_percent"))
    report.figure(case, "the writer's CPU, pushes included", ours.writer_us, "us/delta")
