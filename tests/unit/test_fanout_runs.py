"""Several pushes for one reader become one run and one wake-up."""

from collections.abc import Sequence

from tailrace.producers.store import ProducerStore, RawEntry
from tailrace.producers.tail.fanout.fanout import Fanout, Place
from tailrace.schemas.errors import StoreError
from tailrace.schemas.ids import EntryId
from tailrace.schemas.push import encode_pushes


class Waiting(Place):
    """Waits for what follows on its position, and notes what it is handed."""

    def __init__(self, fanout: Fanout, request_id: str) -> None:
        super().__init__(fanout, request_id)
        self.handed: list[list[EntryId]] = []

    def hand(self, run: Sequence[RawEntry]) -> bool:
        self.handed.append([entry.id for entry in run])
        return True


def joined(fanout: Fanout, request_id: str, position: EntryId) -> Waiting:
    place = Waiting(fanout, request_id)
    place.position = position
    fanout.join(request_id, place).start(position)
    return place


async def test_entries_pushed_together_wake_each_reader_once() -> None:
    fanout = Fanout(ProducerStore("redis://localhost:1", timeout_s=1))
    fanout.ended = StoreError("nothing is to be heard")  # so it connects nowhere
    one, other = (joined(fanout, name, EntryId(1, 0)) for name in ("one", "other"))
    messages = [
        encode_pushes([("one", 1, 1, [b"a", b"b"]), ("nobody's", 1, 1, [b"a"])]),
        b"somebody else's",
        encode_pushes([("other", 1, 1, [b"a"]), ("one", 1, 3, [b"c"])]),
    ]
    fanout.pushes_received(messages)
    assert one.handed == [[EntryId(1, 1), EntryId(1, 2), EntryId(1, 3)]]
    assert other.handed == [[EntryId(1, 1)]]


async def test_entries_that_do_not_follow_are_not_part_of_a_run() -> None:
    fanout = Fanout(ProducerStore("redis://localhost:1", timeout_s=1))
    fanout.ended = StoreError("nothing is to be heard")
    place = joined(fanout, "one", EntryId(1, 0))
    fanout.pushes_received(
        [encode_pushes([("one", 1, 1, [b"a"])]), encode_pushes([("one", 1, 1, [b"a"]), ("one", 2, 0, [b"b"])])]
    )
    assert place.handed == [[EntryId(1, 1)], []]  # the second attempt is for it to look at
