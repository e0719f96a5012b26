"""The one text form of times."""

from datetime import datetime

import pytest

from tailrace.schemas.times import iso_of_ms, ms_of_record


@pytest.mark.parametrize(
    ("ms", "text"),
    [(0, "1970-01-01T00:00:00.000Z"), (1, "1970-01-01T00:00:00.001Z"), (1_767_226_500_412, "2026-01-01T00:15:00.412Z")],
)
def test_a_time_as_text(ms: int, text: str) -> None:
    assert iso_of_ms(ms) == text


def test_no_millisecond_is_rounded_away() -> None:
    times = range(1_767_226_500_000, 1_767_226_502_000)
    assert [round(datetime.fromisoformat(iso_of_ms(ms)).timestamp() * 1000) for ms in times] == list(times)


@pytest.mark.parametrize("value", [b"-1", b"x", b"99999999999999999999", b"253402300800000"])
def test_what_is_no_time_is_refused(value: bytes) -> None:
    with pytest.raises(ValueError, match=r"time|int"):
        ms_of_record(value)


def test_a_record_without_the_time_gives_zero() -> None:
    assert (ms_of_record(None), ms_of_record(b""), ms_of_record(b"253402300799999")) == (0, 0, 253_402_300_799_999)
