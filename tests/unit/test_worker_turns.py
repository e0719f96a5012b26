"""Readers share the event loop: with the others, and with what must not wait."""

import asyncio

from tailrace.worker.attempt.fair_scheduling import TURN_S, Turn, Turns


class Clock:
    """A clock that goes on when told."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


async def test_readers_who_never_wait_leave_short_rounds_to_the_others() -> None:
    # given: a hundred readers whose bytes are always there, each piece worth a turn
    clock, taken = Clock(), [0] * 100
    turns = Turns(clock)

    async def read(number: int) -> None:
        turn = Turn(turns)
        for _ in range(1_000):  # bounded, so that a reader who keeps the loop fails the test and does not hang it
            turn.has()
            taken[number] += 1
            clock.now += TURN_S
            assert not turn.lasts()
            await turn.may_go_on()

    reading = [asyncio.create_task(read(number)) for number in range(len(taken))]
    await asyncio.sleep(0)
    before = sum(taken)
    rounds = 500
    for _ in range(rounds):
        await asyncio.sleep(0)
    for task in reading:
        task.cancel()
    await asyncio.wait(reading)
    # expect: one piece a round of the loop at most, and the readers by turns
    assert 0 < sum(taken) - before <= rounds
    assert max(taken) - min(taken) <= 1


async def test_who_had_to_wait_goes_on_at_once() -> None:
    # given: another reader in the gate, and one whose piece came after a while
    clock = Clock()
    turns = Turns(clock)
    turn = Turn(turns)
    clock.now += 2 * TURN_S
    turn.has()
    # expect: no round of the loop is lost, unless the turn was ended
    assert turn.lasts()
    assert not waits(turn)
    turn.ends()
    assert not turn.lasts()
    assert waits(turn)


def waits(turn: Turn) -> bool:
    """Whether going on takes a round of the loop, or more."""
    stepping = turn.may_go_on()
    try:
        stepping.send(None)
    except StopIteration:
        return False
    stepping.close()
    return True
