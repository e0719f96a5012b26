"""The table that translates Redis errors: every row, driven by the exceptions that redis-py really raises."""

import asyncio

import pytest
from redis import exceptions as redis_errors
from redis._parsers.base import BaseParser
from redis.asyncio import Redis

from tailrace.broker.clients import asking
from tailrace.broker.errors import CLOSED_CONNECTION, RULES, reply_error, store_error
from tailrace.producers.link import Link
from tailrace.schemas.errors import StoreError, StoreFull, StoreRefused, StoreUnavailable

URL = "redis://user:s3cret@10.0.0.7:6390/0"
PLACE = "10.0.0.7:6390"

REPLIES = {
    "NOAUTH Authentication required.": StoreRefused,
    "WRONGPASS invalid username-password pair or user is disabled.": StoreRefused,
    "NOPERM User reader has no permissions to run the 'xadd' command": StoreRefused,
    "OOM command not allowed when used memory > 'maxmemory'.": StoreFull,
    "READONLY You can't write against a read only replica.": StoreUnavailable,
    "LOADING Redis is loading the dataset in memory": StoreUnavailable,
    "MOVED 7 10.0.0.8:6379": StoreRefused,
    "ASK 7 10.0.0.8:6379": StoreRefused,
    "CROSSSLOT Keys in request don't hash to the same slot": StoreRefused,
    "BUSY Redis is busy running a script.": StoreUnavailable,
    "CLUSTERDOWN The cluster is down": StoreUnavailable,
    "MASTERDOWN Link with MASTER is down and replica-serve-stale-data is set to 'no'.": StoreUnavailable,
    "MISCONF Redis is configured to save RDB snapshots, but it is unable to persist to disk.": StoreUnavailable,
    "NOREPLICAS Not enough good replicas to write.": StoreUnavailable,
    "TRYAGAIN Multiple keys request during rehashing of slot": StoreUnavailable,
    "UNBLOCKED force unblock from blocking operation, instance state changed": StoreUnavailable,
    "ERR max number of clients reached": StoreUnavailable,
    "ERR DB index is out of range": StoreRefused,
    "BUSYGROUP Consumer Group name already exists": StoreRefused,
    "WRONGTYPE Operation against a key holding the wrong kind of value": StoreRefused,
}
"""Error replies of Redis, and what each becomes."""

EXCEPTIONS = {
    redis_errors.AuthorizationError("no"): StoreRefused,
    redis_errors.InvalidResponse("Protocol Error: b'HTTP'"): StoreRefused,
    redis_errors.TimeoutError("Timeout reading from 10.0.0.7:6390"): StoreUnavailable,
    redis_errors.ConnectionError("Connection closed by server."): StoreUnavailable,
    redis_errors.MaxConnectionsError("Too many connections"): StoreUnavailable,
    redis_errors.WatchError("Watched variable changed."): StoreUnavailable,
    ConnectionResetError(104, "Connection reset by peer"): StoreUnavailable,
    TimeoutError(): StoreUnavailable,
    RuntimeError(f"unable to perform operation on <TCPTransport>; {CLOSED_CONNECTION}"): StoreUnavailable,
}
"""What redis-py, a socket or uvloop raises without a reply."""


def raised(reply: str) -> Exception:
    """The exception with which redis-py answers an error reply."""
    return BaseParser.parse_error(reply)  # pyright: ignore[reportUnknownMemberType] - not annotated


ALL = {**{raised(reply): ours for reply, ours in REPLIES.items()}, **EXCEPTIONS}


@pytest.mark.parametrize(("error", "ours"), ALL.items(), ids=lambda case: getattr(case, "__name__", str(case)))
def test_each_error_has_one_meaning(error: Exception, ours: type[StoreError]) -> None:
    found = store_error(error, PLACE)
    assert type(found) is ours
    assert PLACE in str(found)


@pytest.mark.parametrize(("reply", "ours"), REPLIES.items(), ids=str)
def test_a_reply_read_without_redis_py_means_the_same(reply: str, ours: type[StoreError]) -> None:
    assert type(store_error(reply_error(reply), PLACE)) is ours


def test_every_row_of_the_table_decides_a_case() -> None:
    def row(error: Exception) -> int:
        return next(
            number
            for number, rule in enumerate(RULES)
            if isinstance(error, rule.kinds) and (not rule.replies or str(error).startswith(rule.replies))
        )

    assert {row(error) for error in ALL} == set(range(len(RULES)))
    replies = {reply for rule in RULES for reply in rule.replies}
    assert {start for start in replies if any(str(error).startswith(start) for error in ALL)} == replies


@pytest.mark.parametrize(
    "error", [RuntimeError("something else"), redis_errors.DataError("no type for Redis")], ids=repr
)
def test_a_fault_of_ours_stays_what_it_is(error: Exception) -> None:
    with pytest.raises(type(error), match=str(error)):
        store_error(error, PLACE)


@pytest.mark.parametrize(("error", "ours"), ALL.items(), ids=lambda case: getattr(case, "__name__", str(case)))
async def test_workers_and_producers_get_the_same_error(error: Exception, ours: type[StoreError]) -> None:
    link = Link(URL, timeout_s=5)
    async with Redis.from_url(URL) as redis:
        with pytest.raises(StoreError) as of_worker:
            async with asking(redis):
                raise error
        with pytest.raises(StoreError) as of_producer:
            async with link.asking():
                raise error
    await link.close()
    assert type(of_worker.value) is type(of_producer.value) is ours
    assert str(of_worker.value) == str(of_producer.value)
    assert "s3cret" not in str(of_worker.value)


async def test_what_takes_too_long_is_named_with_its_limit() -> None:
    async with Redis.from_url(URL) as redis:
        with pytest.raises(StoreUnavailable, match=rf"Redis at {PLACE} did not answer within 0\.01 s"):
            async with asking(redis, 0.01):
                await asyncio.Event().wait()
