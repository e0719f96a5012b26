"""Live readers get every entry once, whatever pushes are lost, duplicated or late."""

from collections.abc import Sequence
from dataclasses import dataclass, field

from hypothesis import given
from hypothesis import strategies as st

from tailrace.producers.store import RawEntry
from tailrace.producers.tail.fanout.live_log import BUFFER_BYTES, BUFFER_ENTRIES, Live
from tailrace.schemas.ids import BEGINNING, EntryId

PAGE = 4


@dataclass(eq=False)
class Reader:
    """A tail: reads what is live, else a page of the log, joins where the log ends; then it waits for what comes."""

    live: Live
    position: EntryId = BEGINNING
    seen: list[RawEntry] = field(default_factory=list[RawEntry])
    waits: bool = False

    def hand(self, run: Sequence[RawEntry]) -> bool:
        waited, self.waits = self.waits, False
        if waited:
            self.seen += run  # it says its new position when it reads again
        return waited

    def wake(self) -> None:
        self.waits = False

    def tick(self) -> None:
        pass

    def read(self, log: list[RawEntry]) -> bool:
        self.position = self.seen[-1].id if self.seen else self.position
        entries = self.live.entries_after(self.position)
        if entries is None:
            floor = self.live.floor
            entries = [entry for entry in log if entry.id > self.position][:PAGE]
            if not entries:
                self.live.start(self.position)
            elif len(entries) < PAGE and floor is None:
                self.live.start(entries[-1].id)
        if entries:
            self.seen += entries
            self.position = entries[-1].id
        self.waits = not entries and self.live.seen == self.position
        return bool(entries)


STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("write"), st.integers(1, 6)),
        st.tuples(st.just("attempt"), st.integers(1, 3)),
        st.tuples(st.just("push"), st.integers(0, 40)),
        st.tuples(st.just("read"), st.integers(0, 2)),
        st.tuples(st.just("lose"), st.just(0)),
    ),
    max_size=60,
)


@given(STEPS)
def test_every_reader_has_the_log_once_and_in_order(steps: list[tuple[str, int]]) -> None:
    live = Live(0)
    readers = [Reader(live) for _ in range(3)]
    live.readers.extend(readers)
    log: list[RawEntry] = []
    commits: list[list[RawEntry]] = []

    def write(first: EntryId, count: int) -> None:
        written = [RawEntry(EntryId(first.attempt, first.seq + n), b"%d-%d" % (first.attempt, n)) for n in range(count)]
        log.extend(written)
        commits.append(written)

    write(EntryId(1, 0), 1)
    for kind, number in steps:
        match kind:
            case "write":
                write(log[-1].id.next(), number)
            case "attempt":
                write(EntryId(log[-1].id.attempt + number, 0), 1)
            case "push":  # any commit so far, again or for the first time
                pushed = commits[-1 - number % len(commits)]
                live.push(*pushed[0].id, [entry.raw for entry in pushed])
            case "read":
                readers[number].read(log)
            case _:
                live.detach()
    # if nothing more comes, and the quiet log is looked at
    if live.seen != log[-1].id:
        live.detach()
    for reader in readers:
        while reader.read(log):
            pass
        assert reader.seen == log


@given(st.lists(st.tuples(st.integers(1, 400), st.integers(0, 5_000)), max_size=20))
def test_the_buffer_for_a_slow_reader_is_bounded(commits: list[tuple[int, int]]) -> None:
    live = Live(0)
    live.readers.append(Reader(live))
    live.start(BEGINNING)
    seq = 0
    for count, size in commits:
        live.push(1, seq, [b"x" * size] * count)
        seq += count
        kept = live.entries_after(live.floor or BEGINNING) or ()
        assert len(kept) <= BUFFER_ENTRIES
        assert sum(len(entry.raw) for entry in kept) <= BUFFER_BYTES
        # what is kept reaches from its floor to the last without a hole
        assert [entry.id.seq for entry in kept] == list(range(seq - len(kept), seq))


def test_entries_that_every_reader_has_are_not_buffered() -> None:
    live = Live(0)
    one, other = Reader(live), Reader(live)
    live.readers.extend([one, other])
    live.start(EntryId(1, 0))
    one.position = other.position = EntryId(1, 0)
    for seq in range(1, 50):
        live.push(1, seq, [b"x"])
        assert one.read([])
        assert len(live.entries_after(live.floor or BEGINNING) or ()) == seq  # the other has taken none yet
    while other.read([]):
        pass
    live.push(1, 50, [b"x"])
    assert [entry.id.seq for entry in live.entries_after(live.floor or BEGINNING) or ()] == [50]


def test_a_waiting_reader_gets_entries_without_buffering() -> None:
    live = Live(0)
    one, other = Reader(live, EntryId(1, 0)), Reader(live, EntryId(1, 0))
    live.readers.extend([one, other])
    live.start(EntryId(1, 0))
    assert not one.read([])
    assert not other.read([])
    live.push(1, 1, [b"x", b"y"])
    assert [entry.id.seq for entry in one.seen] == [entry.id.seq for entry in other.seen] == [1, 2]
    assert not live.entries_after(live.floor or BEGINNING)
    assert not one.read([])
    live.push(1, 2, [b"y", b"z"])  # a part of it is known; the other has not come back yet
    assert [entry.id.seq for entry in one.seen] == [1, 2, 3]
    assert other.read([])
    assert other.seen == one.seen


def test_an_empty_push_moves_no_reader() -> None:
    live = Live(0)
    live.start(EntryId(1, 3))
    live.push(1, 4, [])
    live.push(2, 0, [])
    assert live.seen == EntryId(1, 3)
