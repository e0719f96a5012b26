"""A failover to a replica that lacks the last writes, at every moment of a request's life, by the real scripts."""

from collections.abc import Callable, Iterator, Sequence

import pytest
from redis import Redis

from tests.fault.races import Life, Owner, Step, orders

LOST = (1, 2, 3)
"""How many steps the replica lacks."""


@pytest.fixture
def redis(redis_url: str) -> Iterator[Redis]:
    with Redis.from_url(redis_url) as client:
        yield client


def finishing(life: Life) -> list[list[Step]]:
    owner = Owner(life, "a")
    return [[owner.claim, owner.begin, owner.publish, owner.finish, owner.leave]]


def cancelled(life: Life) -> list[list[Step]]:
    return [*finishing(life), [life.cancel, life.unqueue]]


def taken_over(life: Life) -> list[list[Step]]:
    owner, heir = Owner(life, "a"), Owner(life, "b")
    hung = [owner.claim, owner.begin, owner.publish, owner.publish, owner.end]
    return [hung, [heir.take_over, heir.begin, heir.publish]]


def drained(life: Life) -> list[list[Step]]:
    owner = Owner(life, "a")
    return [[owner.claim, owner.begin, owner.publish, owner.release, owner.leave], [life.cancel]]


def retried(life: Life) -> list[list[Step]]:
    owner = Owner(life, "a")
    return [[owner.claim, owner.begin, owner.publish, owner.next_attempt, owner.begin_again, owner.publish, owner.end]]


@pytest.mark.parametrize("course", [finishing, cancelled, taken_over, drained, retried])
def test_whatever_is_lost_the_request_comes_to_one_end(
    redis: Redis, course: Callable[[Life], Sequence[Sequence[Step]]]
) -> None:
    # given the steps of a request's life in any order, if the server falls back by some steps after any of them, and
    # everyone goes on as if nothing had happened, expect one terminal at the end of the log, with its outcome, and an
    # empty queue
    shape = [len(line) for line in course(Life(redis))]
    for order in orders(*shape):
        for after in range(1, sum(shape) + 1):
            for lost in LOST[:after]:
                life = Life(redis)
                life.snapshot()
                try:
                    for number, step in enumerate(order.of(course(life)), 1):
                        step()
                        if number <= after:
                            life.snapshot()
                        if number == after:
                            life.failover(lost)
                    life.settle()
                    life.check()
                except Exception as error:
                    raise AssertionError(f"in the order {order.places}, without {lost} steps up to {after}") from error
