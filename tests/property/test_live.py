"""The live part of a log, whatever is pushed, lost, doubled or late: a reader has every entry once."""

from dataclasses import dataclass, field

from hypothesis import given
from hypothesis import strategies as st

from producers.live import BUFFER_BYTES, BUFFER_ENTRIES, Live
from producers.store import RawEntry
from schemas.ids import BEGINNING, EntryId

PAGE = 4


@dataclass(eq=False)
class Reader:
    """A tail without its waits: reads what is live, else a page of the log, and joins where the log ends."""

    live: Live
    position: EntryId = BEGINNING
    seen: list[RawEntry] = field(default_factory=list[RawEntry])

    def wake(self) -> None:
        pass

    def tick(self) -> None:
        pass

    def read(self, log: list[RawEntry]) -> bool:
        entries = self.live.behind(self.position)
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
def test_what_is_kept_for_one_who_does_not_come_is_bounded(commits: list[tuple[int, int]]) -> None:
    live = Live(0)
    live.readers.append(Reader(live))
    live.start(BEGINNING)
    seq = 0
    for count, size in commits:
        assert live.push(1, seq, [b"x" * size] * count)
        seq += count
        kept = live.behind(live.floor or BEGINNING) or ()
        assert len(kept) <= BUFFER_ENTRIES
        assert sum(len(entry.raw) for entry in kept) <= BUFFER_BYTES
        # what is kept reaches from its floor to the last without a hole
        assert [entry.id.seq for entry in kept] == list(range(seq - len(kept), seq))


def test_what_every_reader_has_is_not_kept() -> None:
    live = Live(0)
    one, other = Reader(live), Reader(live)
    live.readers.extend([one, other])
    live.start(EntryId(1, 0))
    one.position = other.position = EntryId(1, 0)
    for seq in range(1, 50):
        live.push(1, seq, [b"x"])
        assert one.read([])
        assert len(live.behind(live.floor or BEGINNING) or ()) == seq  # the other has taken none yet
    while other.read([]):
        pass
    live.push(1, 50, [b"x"])
    assert [entry.id.seq for entry in live.behind(live.floor or BEGINNING) or ()] == [50]
