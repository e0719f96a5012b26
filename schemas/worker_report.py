"""What a worker process says of itself, now and then, for those who watch. Nothing hangs on it but what they see."""

import msgspec


class WorkerReport(msgspec.Struct, frozen=True, kw_only=True):
    """How a worker process fares.

    Attributes:
        host: its machine's name.
        pid: its process id there.
        up_s: seconds since it was started.
        max_jobs: requests it runs at once.
        running: requests it runs now.
        starts: how many it has begun since it was started.
        starts_per_s: the same since its last report.
        renewed_ago_s: seconds since its last renewal of leases that was answered.
        draining: whether it takes no more.
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
    """As JSON."""
    return msgspec.json.encode(report)


def decode_report(raw: bytes) -> WorkerReport:
    """Reads a report.

    Raises:
        ValueError: it is none.
    """
    return msgspec.json.decode(raw, type=WorkerReport)
