"""What the push connection's bytes become: all of a read at once, more of them for who is behind, and its end."""

from typing import Any

import pytest
from redis import exceptions as redis_errors

from tailrace.producers.tail.fanout import push_wire
from tailrace.producers.tail.fanout.push_wire import HOLD_BYTES, LARGE_READ_BYTES, PushWire
from tests.until import until


def message(text: bytes) -> bytes:
    return b"*3\r\n$7\r\nmessage\r\n$1\r\nc\r\n$%d\r\n%b\r\n" % (len(text), text)


@pytest.fixture
def told() -> list[list[bytes]]:
    """The messages that were told together, each time."""
    return []


@pytest.fixture
async def wire(told: list[list[bytes]]) -> PushWire:
    def tell(said: Any) -> None:
        told.append([message for _, _, message in said])

    return PushWire(tell)


async def test_all_messages_of_a_read_are_told_at_once(wire: PushWire, told: list[list[bytes]]) -> None:
    both = message(b"one") + message(b"two")
    wire.data_received(both + both[:20])
    assert told == [[b"one", b"two"]]
    wire.data_received(both[20:])
    assert told[1:] == [[b"one", b"two"]]


async def test_for_who_is_behind_several_reads_are_told_together(wire: PushWire, told: list[list[bytes]]) -> None:
    large = message(b"x" * LARGE_READ_BYTES)
    wire.data_received(large)
    wire.data_received(large)
    assert not told
    wire.data_received(message(b"last"))
    assert [len(messages) for messages in told] == [3]


async def test_what_is_held_is_told_soon_if_nothing_follows(wire: PushWire, told: list[list[bytes]]) -> None:
    wire.data_received(message(b"x" * LARGE_READ_BYTES))
    await until(lambda: len(told) == 1)


async def test_what_is_held_is_bounded(
    wire: PushWire, told: list[list[bytes]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(push_wire, "HOLD_S", 3_600.0)
    large = message(b"x" * LARGE_READ_BYTES)
    for _ in range(HOLD_BYTES // len(large) + 1):
        wire.data_received(large)
    assert len(told) == 1


async def test_nothing_is_told_of_a_connection_that_is_lost(wire: PushWire, told: list[list[bytes]]) -> None:
    wire.data_received(message(b"x" * LARGE_READ_BYTES))
    wire.connection_lost(None)
    assert isinstance(await wire.lost, redis_errors.ConnectionError)
    wire.send(b"*1\r\n$4\r\nPING\r\n")  # goes nowhere
    assert not told


@pytest.mark.parametrize(
    ("said", "error"),
    [
        (b"-NOPERM no permissions to access one of the channels\r\n", redis_errors.NoPermissionError),
        (b"HTTP/1.1 400 Bad Request\r\n", redis_errors.InvalidResponse),
    ],
)
async def test_a_refusal_and_what_is_no_redis_end_it(said: bytes, error: type[Exception]) -> None:
    wire = PushWire(lambda said: None)
    wire.data_received(said)
    assert isinstance(await wire.lost, error)
