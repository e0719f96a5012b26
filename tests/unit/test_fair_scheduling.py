"""Readers of answers share the event loop with each other and with everything else."""

import asyncio

from tailrace.worker.attempt.fair_scheduling import SLICE_S, FairScheduler, TimeSlice


class Clock:
    """A clock that the test advances."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


async def test_readers_that_never_wait_go_on_one_in_each_round() -> None:
    # given: a hundred readers whose bytes have always arrived, each piece worth a whole slice
    clock, taken = Clock(), [0] * 100
    scheduler = FairScheduler(clock)

    async def read(number: int) -> None:
        time_slice = TimeSlice(scheduler)
        for _ in range(1_000):  # bounded, so that a reader that keeps the loop fails the test instead of blocking it
            time_slice.piece_arrived()
            taken[number] += 1
            clock.now += SLICE_S
            assert not time_slice.piece_read()
            await time_slice.wait_if_over()

    reading = [asyncio.create_task(read(number)) for number in range(len(taken))]
    await asyncio.sleep(0)
    before = sum(taken)
    rounds = 500
    for _ in range(rounds):
        await asyncio.sleep(0)
    for task in reading:
        task.cancel()
    await asyncio.wait(reading)
    # expect: at most one piece in each round of the loop, and the same number for all readers
    assert 0 < sum(taken) - before <= rounds
    assert max(taken) - min(taken) <= 1


async def test_a_reader_that_had_to_wait_for_its_piece_goes_on_at_once() -> None:
    # given: a reader whose piece arrived after more than a slice
    clock = Clock()
    time_slice = TimeSlice(FairScheduler(clock))
    clock.now += 2 * SLICE_S
    time_slice.piece_arrived()
    # expect: it does not wait for a round of the loop, unless its slice is ended
    assert time_slice.piece_read()
    assert not waits(time_slice)
    time_slice.end_early()
    assert not time_slice.piece_read()
    assert waits(time_slice)


def waits(time_slice: TimeSlice) -> bool:
    """Whether going on takes at least a round of the loop."""
    stepping = time_slice.wait_if_over()
    try:
        stepping.send(None)
    except StopIteration:
        return False
    stepping.close()
    return True
