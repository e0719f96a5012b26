"""Times. Inside a process a time is an integer: milliseconds since 1970 by the clock of Redis.

Owns the one text form, which entries, outcomes and answers contain: ISO 8601, UTC, with milliseconds and `Z`.
"""

from datetime import UTC, datetime

_MAX_MS = 253_402_300_799_999
"""The last millisecond of the year 9999; later times have no text form."""


def iso_of_ms(ms: int) -> str:
    """The time as text, such as `2026-01-01T00:00:00.412Z`."""
    return iso_of(datetime.fromtimestamp(ms / 1000, UTC))


def iso_of(moment: datetime) -> str:
    """The same of an aware datetime."""
    return moment.astimezone(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def ms_of_record(value: bytes | None) -> int:
    """A time as a record in Redis contains it; 0 if it is missing.

    Raises:
        ValueError: it is not a time.
    """
    ms = int(value or b"0")
    if not 0 <= ms <= _MAX_MS:
        raise ValueError(f"not a time in milliseconds: {ms}")
    return ms
