"""Cancel against everything it can meet, in every order, by the real scripts: one terminal, with its outcome."""

from collections.abc import Callable, Iterator

import pytest
from redis import Redis

from tailrace.broker.script import Verdict
from tailrace.broker.scripts import CancelStatus
from tests.fault.races import Life, Order, Owner, Step, orders

Lines = tuple[list[Step], ...]


@pytest.fixture
def redis(redis_url: str) -> Iterator[Redis]:
    with Redis.from_url(redis_url) as client:
        yield client


def finishing(owner: Owner) -> list[Step]:
    return [owner.claim, owner.begin, owner.publish, owner.finish, owner.leave]


def draining(owner: Owner) -> list[Step]:
    return [owner.claim, owner.begin, owner.publish, owner.release, owner.finish, owner.leave]


def retrying(owner: Owner) -> list[Step]:
    return [owner.claim, owner.begin, owner.next_attempt, owner.begin_again, owner.finish, owner.leave]


COURSES: dict[str, Callable[[Owner], list[Step]]] = {
    "finish": finishing,
    "drain": draining,
    "retry": retrying,
}


def alone(life: Life, course: Callable[[Owner], list[Step]]) -> Lines:
    """An owner against a cancel that ends what waits and tidies up."""
    return course(Owner(life, "a")), [life.cancel, life.unqueue]


def taken_over(life: Life, course: Callable[[Owner], list[Step]]) -> Lines:
    """An owner that hangs, another that takes over, and a cancel."""
    heir = Owner(life, "b")
    return (
        course(Owner(life, "a")),
        [heir.take_over, heir.begin, heir.end],
        [life.cancel],
    )


def every_order(redis: Redis, lines_of: Callable[[Life], Lines]) -> Iterator[tuple[Life, Order]]:
    """Each order once, played to its end by a worker that finds what is left."""
    shape = [len(line) for line in lines_of(Life(redis))]
    for order in orders(*shape):
        life = Life(redis)
        for step in order.of(lines_of(life)):
            step()
        life.settle()
        yield life, order


def agrees(verdict: Verdict[CancelStatus], status: str) -> bool:
    """Whether a cancel's answer came true. A worker may have been on its way to the end when it was told."""
    match verdict.status:
        case "ended":
            return status == "cancelled"
        case "finished":
            return verdict.text("status") == status
        case word:
            return word == "signalled" and status in ("cancelled", "completed")


@pytest.mark.parametrize("course", COURSES)
@pytest.mark.parametrize("against", [alone, taken_over])
def test_in_every_order_there_is_one_end(
    redis: Redis, against: Callable[[Life, Callable[[Owner], list[Step]]], Lines], course: str
) -> None:
    # given a request, its owner, a cancel, and perhaps a lease that runs out and an heir, if their steps come in any
    # order, expect one terminal at the end of a gapless log, with its outcome, and an empty queue; a cancel that said
    # it had ended the request did, and one that came before any end was not forgotten
    seen: set[str] = set()
    for life, order in every_order(redis, lambda life: against(life, COURSES[course])):
        try:
            status = life.check()
            life.check_gapless()
            [verdict] = life.verdicts
            assert agrees(verdict, status), (verdict, status)
            if verdict.status == "signalled":
                assert status == "cancelled"
            life.cancel()
            assert life.verdicts[-1] == Verdict(CancelStatus.FINISHED, {"status": status.encode()})
            assert life.check() == status
        except AssertionError as error:
            raise AssertionError(f"in the order {order.places}") from error
        seen.add(verdict.status)
    assert {"ended", "signalled"} <= seen  # each end was met; a drained owner finishes nothing itself
