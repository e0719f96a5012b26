"""The buffer of one log: ids, batches, limits, and the count of bytes."""

import pytest

from tailrace.broker.wire import packed
from tailrace.schemas.errors import LogFull
from tailrace.worker.publish.log_buffer import OVERHEAD_BYTES, Batch, ByteCount, LogBuffer


def buffer(total: ByteCount | None = None, *, max_entries: int = 100, max_bytes: int = 1000) -> LogBuffer:
    return LogBuffer("r", 3, "token", max_entries=max_entries, max_bytes=max_bytes, total=total or ByteCount())


def filled(count: int, total: ByteCount | None = None) -> LogBuffer:
    log = buffer(total)
    for number in range(1, count + 1):
        log.add_entry(b"e%d" % number)
    return log


def take_all(log: LogBuffer) -> Batch:
    return log.take_batch(1000, 1_000_000)


def test_batches_follow_one_another_without_gaps() -> None:
    log = filled(5)
    batches = [log.take_batch(2, 1_000_000) for _ in range(3)]
    assert [(batch.first, batch.entries) for batch in batches] == [
        (1, [b"e1", b"e2"]),
        (3, [b"e3", b"e4"]),
        (5, [b"e5"]),
    ]
    assert batches[0].commands[1] == packed(b"XADD", log.key, b"NOMKSTREAM", b"3-2", b"e", b"e2")
    assert not log.has_untaken


def test_a_batch_ends_at_its_size_and_has_at_least_one_entry() -> None:
    log = filled(3)
    size = 2 + OVERHEAD_BYTES
    assert log.take_batch(1000, size + 1).entries == [b"e1", b"e2"]
    assert log.take_batch(1000, 1).entries == [b"e3"]


def test_a_batch_given_back_is_the_next_one() -> None:
    log = filled(3)
    batch = log.take_batch(2, 1_000_000)
    log.give_back(batch)
    log.add_entry(b"e4")
    again = take_all(log)
    assert (again.first, again.entries) == (1, [b"e1", b"e2", b"e3", b"e4"])


def test_bytes_count_until_they_are_written() -> None:
    total = ByteCount()
    log, other = filled(2, total), filled(1, total)
    size = 2 + OVERHEAD_BYTES
    assert (log.buffered_bytes, other.buffered_bytes, total.value) == (2 * size, size, 3 * size)
    batch = log.take_batch(1, 1_000_000)
    assert (log.buffered_bytes, total.value) == (2 * size, 3 * size)
    log.mark_written(batch)
    assert (log.buffered_bytes, total.value, log.written_seq, log.unwritten_entries) == (size, 2 * size, 1, 1)


def test_discarded_bytes_are_counted_no_more() -> None:
    total = ByteCount()
    log = filled(2, total)
    batch = log.take_batch(1, 1_000_000)
    log.discard()
    log.mark_written(batch)  # the commit was in flight
    log.give_back(batch)
    assert (log.buffered_bytes, total.value, log.has_untaken) == (0, 0, False)


def test_a_buffer_that_changes_its_publisher_takes_its_bytes_along() -> None:
    before, after = ByteCount(), ByteCount()
    log = filled(2, before)
    log.count_in(after)
    assert (before.value, after.value) == (0, log.buffered_bytes)
    log.mark_written(take_all(log))
    assert (before.value, after.value) == (0, 0)


@pytest.mark.parametrize(("max_entries", "max_bytes"), [(2, 1000), (100, 4)])
def test_what_is_over_the_limit_is_refused_and_the_rest_stays(max_entries: int, max_bytes: int) -> None:
    log = buffer(max_entries=max_entries, max_bytes=max_bytes)
    log.add_entry(b"e1")
    log.add_entry(b"e2")
    for _ in range(2):
        with pytest.raises(LogFull):
            log.add_entry(b"e3")
    assert take_all(log).entries == [b"e1", b"e2"]
