"""The report that a worker process writes every few seconds, for people who watch. Nothing else depends on it."""

import msgspec


class WorkerReport(msgspec.Struct, frozen=True, kw_only=True):
    """The state of a worker process.

    Attributes:
        host: the name of its machine.
        pid: its process id.
        up_s: seconds since it started.
        max_jobs: how many requests it may run at once.
        running: how many it runs now.
        starts: how many it has started in all.
        starts_per_s: how many it has started per second since its last report.
        renewed_ago_s: seconds since Redis last answered a renewal of its leases.
        draining: whether it is draining, and starts no more.
    """

    host: str
    pid: int
    up_s: float
    max_jobs: int
    running: int
    starts: int
    starts_per_s: float
    renewed_ago_s: float
    draining: bool


def encode_report(report: WorkerReport) -> bytes:
    """Encodes a report as JSON."""
    return msgspec.json.encode(report)


def decode_report(raw: bytes) -> WorkerReport:
    """Reads a report.

    Raises:
        ValueError: it is not a report.
    """
    return msgspec.json.decode(raw, type=WorkerReport)
