"""The publisher on a real Valkey: ids, group commits, fencing, sending again, limits. No entry may be lost."""

import asyncio
from collections.abc import AsyncGenerator, Sequence
from contextlib import asynccontextmanager

import pytest
from redis.asyncio import Redis

from tailrace.broker.keys import log_key, rec_key
from tailrace.demo.valkey import EmbeddedValkey
from tailrace.schemas.errors import AttemptLost, LogFull, StoreFull, StoreRefused, StoreUnavailable
from tailrace.worker.publish.commit_line import CommitLine
from tailrace.worker.publish.commit_replies import Result
from tailrace.worker.publish.log_buffer import Batch
from tailrace.worker.publish.log_writer import MAX_COMMIT_ENTRIES, LogWriter
from tailrace.worker.publish.publisher import Publisher
from tests.proxy import Proxy
from tests.until import until

WAIT_S = 10.0
OWNER = "owner"


@asynccontextmanager
async def publishing(
    url: str,
    *,
    buffer_bytes: int = 1 << 20,
    request_buffer_bytes: int = 1 << 20,
    max_entries: int = 100_000,
    max_bytes: int = 1 << 30,
    patience_s: float = WAIT_S,
) -> AsyncGenerator[Publisher]:
    publisher = Publisher(
        CommitLine(url),
        buffer_bytes=buffer_bytes,
        request_buffer_bytes=request_buffer_bytes,
        max_entries=max_entries,
        max_bytes=max_bytes,
        patience_s=patience_s,
    )
    async with publisher:
        yield publisher


def always() -> bool:
    return True


async def begun(redis: Redis, publisher: Publisher, request_id: str = "a", attempt: int = 1) -> LogWriter:
    """A writer for an attempt whose first entry is written, as `begin` leaves it."""
    await redis.xadd(log_key(request_id), {"e": "begun"}, id=f"{attempt}-0")
    await redis.hset(rec_key(request_id), mapping={"attempt": attempt, "token": OWNER})
    return publisher.open_writer(request_id, attempt, OWNER, always)


async def written(redis: Redis, request_id: str = "a") -> list[tuple[str, bytes]]:
    """Ids and entries of the log after the first entry of attempt 1."""
    entries = await redis.xrange(log_key(request_id), "1-1")
    return [(entry_id.decode(), fields[b"e"]) for entry_id, fields in entries]


def numbered(count: int, start: int = 1) -> list[tuple[str, bytes]]:
    return [(f"1-{number}", b"e%d" % number) for number in range(start, start + count)]


async def test_entries_are_written_in_order_under_ids_without_gaps(redis: Redis, redis_url: str) -> None:
    async with publishing(redis_url) as publisher:
        writer = await begun(redis, publisher)
        for number in range(1, 1001):
            writer.append_entry(b"e%d" % number)
            if number % 7 == 0:
                await asyncio.sleep(0)
        await writer.flush()
    assert await written(redis) == numbered(1000)


async def test_entries_may_have_any_bytes(redis: Redis, redis_url: str) -> None:
    entries = [b"", b"\r\n", b"$3\r\nfoo\r\n", "päñ \U0001f600".encode(), bytes(range(256)), b"x" * 300_000]
    async with publishing(redis_url) as publisher:
        writer = await begun(redis, publisher)
        for entry in entries:
            writer.append_entry(entry)
        await writer.flush()
    assert [entry for _, entry in await written(redis)] == entries


async def test_entries_that_gather_share_one_commit(redis: Redis, redis_url: str) -> None:
    # 50 writers append within one iteration of the event loop.
    async with publishing(redis_url) as publisher:
        writers = [await begun(redis, publisher, f"r{number}") for number in range(50)]
        for writer in writers:
            writer.append_entry(b"e1")
            writer.append_entry(b"e2")
        await asyncio.gather(*(writer.flush() for writer in writers))
        assert publisher.commits == 1
    for number in range(50):
        assert await written(redis, f"r{number}") == numbered(2)


class RecordingLine(CommitLine):
    """A commit line that records how many entries each commit has for each log."""

    def __init__(self, url: str) -> None:
        super().__init__(url)
        self.commits: list[dict[str, int]] = []

    async def commit(self, batches: Sequence[Batch]) -> list[Result]:
        self.commits.append({batch.log.request_id: len(batch.commands) for batch in batches})
        return await super().commit(batches)


async def test_a_backlog_is_sent_in_bounded_commits_and_starves_no_writer(redis: Redis, redis_url: str) -> None:
    line = RecordingLine(redis_url)
    async with Publisher(line, buffer_bytes=1 << 30, max_entries=1 << 20, max_bytes=1 << 30) as publisher:
        flood, lone = await begun(redis, publisher, "flood"), await begun(redis, publisher, "lone")
        for number in range(1, 5001):
            flood.append_entry(b"e%d" % number)
        lone.append_entry(b"e1")
        await lone.flush()
        assert line.commits[0]["lone"] == 1  # it did not wait for the flood
        await flood.flush()
    assert max(sum(sizes.values()) for sizes in line.commits) <= MAX_COMMIT_ENTRIES
    assert await written(redis, "flood") == numbered(5000)


async def test_the_backlog_is_behind_while_more_waits_than_a_commit_takes(redis: Redis, redis_url: str) -> None:
    async with publishing(redis_url) as publisher:
        writer = await begun(redis, publisher)
        for number in range(MAX_COMMIT_ENTRIES + 1):
            writer.append_entry(b"e%d" % number)
        assert not writer.backlog.is_behind  # no commit was made yet
        await until(lambda: writer.backlog.is_behind)
        await writer.flush()
        assert not writer.backlog.is_behind


async def test_a_commit_whose_reply_is_lost_is_sent_again(redis: Redis, redis_url: str) -> None:
    # Redis has executed the commit; each entry is still written only once.
    async with Proxy(redis_url) as proxy, publishing(proxy.url) as publisher:
        writers = [await begun(redis, publisher, name) for name in "abc"]
        for turn in range(20):
            if turn % 5 == 0:
                proxy.lose_reply(b"XADD")
            for writer in writers:
                for _ in range(1 + turn % 3):
                    writer.append_entry(b"e%d" % (writer.seq + 1))
            await asyncio.gather(*(writer.flush() for writer in writers))
            assert not proxy.fault_pending
        count = writers[0].seq
    for name in "abc":
        assert await written(redis, name) == numbered(count)


async def test_a_commit_cut_in_its_middle_is_written_whole(redis: Redis, redis_url: str) -> None:
    # Only some logs get their entries at first; in the end no log has a gap or a duplicate.
    async with Proxy(redis_url) as proxy, publishing(proxy.url) as publisher:
        writers = [await begun(redis, publisher, f"r{number}") for number in range(9)]
        proxy.halve_request(b"XADD")
        for writer in writers:
            for number in range(1, 6):
                writer.append_entry(b"e%d" % number)
        await asyncio.gather(*(writer.flush() for writer in writers))
        assert not proxy.fault_pending
    for number in range(9):
        assert await written(redis, f"r{number}") == numbered(5)


async def test_cuts_at_any_time_lose_and_duplicate_nothing(redis: Redis, redis_url: str) -> None:
    async with Proxy(redis_url) as proxy, publishing(proxy.url) as publisher:
        writers = [await begun(redis, publisher, f"r{number}") for number in range(10)]

        async def stream(writer: LogWriter) -> None:
            for number in range(1, 301):
                await writer.wait_for_room()
                writer.append_entry(b"e%d" % number)
                await asyncio.sleep(0)
            await writer.flush()

        async def cut() -> None:
            for _ in range(10):
                proxy.cut()
                await asyncio.sleep(0.01)

        await asyncio.gather(cut(), *(stream(writer) for writer in writers))
    for number in range(10):
        assert await written(redis, f"r{number}") == numbered(300)


async def test_a_restarted_server_gets_what_was_buffered() -> None:
    with EmbeddedValkey(appendonly=True, options={"appendfsync": "always"}) as valkey:
        async with Redis.from_url(valkey.url) as redis, publishing(valkey.url) as publisher:
            writer = await begun(redis, publisher)
            writer.append_entry(b"e1")
            await writer.flush()
            await asyncio.to_thread(valkey.kill)
            for number in range(2, 101):
                writer.append_entry(b"e%d" % number)
            await asyncio.sleep(0)
            await asyncio.to_thread(valkey.start)
            await writer.flush()
            assert await written(redis) == numbered(100)


async def test_a_later_attempt_fences_off_this_one(redis: Redis, redis_url: str) -> None:
    async with publishing(redis_url) as publisher:
        writer = await begun(redis, publisher)
        await redis.xadd(log_key("a"), {"e": "begun"}, id="2-0")
        writer.append_entry(b"late")
        with pytest.raises(AttemptLost):
            await writer.flush()
        with pytest.raises(AttemptLost):
            writer.append_entry(b"later")
    assert await written(redis) == [("2-0", b"begun")]


async def test_a_lost_reply_followed_by_a_later_attempt_is_lost(redis: Redis, redis_url: str) -> None:
    # Another attempt begins before a commit that was executed is sent again.
    async with Proxy(redis_url) as proxy, publishing(proxy.url) as publisher:
        writer = await begun(redis, publisher)
        writer.append_entry(b"e1")
        await writer.flush()
        proxy.refusing = True
        proxy.lose_reply(b"XADD")
        writer.append_entry(b"e2")
        await until(lambda: not proxy.fault_pending)

        async def reached_redis() -> bool:
            return await redis.xlen(log_key("a")) == 3

        await until(reached_redis)
        await redis.xadd(log_key("a"), {"e": "begun"}, id="2-0")
        proxy.refusing = False
        with pytest.raises(AttemptLost):
            await writer.flush()
    assert await written(redis) == [*numbered(2), ("2-0", b"begun")]


async def test_entries_of_an_expired_lease_are_discarded(redis: Redis, redis_url: str) -> None:
    held = True
    async with publishing(redis_url) as publisher:
        await redis.xadd(log_key("a"), {"e": "begun"}, id="1-0")
        writer = publisher.open_writer("a", 1, OWNER, lambda: held)
        writer.append_entry(b"e1")
        await writer.flush()
        held = False
        writer.append_entry(b"e2")
        with pytest.raises(AttemptLost, match="lease"):
            await writer.flush()
        assert publisher.buffered_bytes == 0
    assert await written(redis) == numbered(1)


@pytest.mark.parametrize("count", [1, 2])
async def test_a_deleted_log_is_not_created_again(redis: Redis, redis_url: str, count: int) -> None:
    async with publishing(redis_url) as publisher:
        writer = await begun(redis, publisher)
        await redis.delete(log_key("a"))
        for _ in range(count):
            writer.append_entry(b"e")
        with pytest.raises(AttemptLost, match="gone"):
            await writer.flush()
    assert not await redis.exists(log_key("a"))


async def test_one_bad_log_does_not_harm_the_others_in_its_commit(redis: Redis, redis_url: str) -> None:
    async with publishing(redis_url) as publisher:
        lost, wrong, good = [await begun(redis, publisher, name) for name in ("lost", "wrong", "good")]
        await redis.xadd(log_key("lost"), {"e": "begun"}, id="7-0")
        await redis.delete(log_key("wrong"))
        await redis.set(log_key("wrong"), "no stream")
        for writer in (lost, wrong, good):
            writer.append_entry(b"e1")
            writer.append_entry(b"e2")
        await good.flush()
        with pytest.raises(AttemptLost):
            await lost.flush()
        with pytest.raises(StoreRefused):
            await wrong.flush()
    assert await written(redis, "good") == numbered(2)


async def test_a_full_server_is_waited_for(redis: Redis, redis_url: str, valkey: EmbeddedValkey) -> None:
    # Redis has no memory for a while; in the end the log has no gap.
    async with publishing(redis_url) as publisher:
        writer = await begun(redis, publisher)
        valkey.ask("CONFIG SET maxmemory 1")
        try:
            for number in range(1, 51):
                writer.append_entry(b"e%d" % number)
            await until(lambda: publisher.commits >= 2)
            assert await written(redis) == []
        finally:
            valkey.ask("CONFIG SET maxmemory 0")
        await writer.flush()
    assert await written(redis) == numbered(50)


@pytest.mark.parametrize("count", [1, 2])
async def test_a_server_full_for_too_long_fails_the_writer(
    redis: Redis, redis_url: str, valkey: EmbeddedValkey, count: int
) -> None:
    async with publishing(redis_url, patience_s=0.05) as publisher:
        writer = await begun(redis, publisher)
        valkey.ask("CONFIG SET maxmemory 1")
        try:
            for _ in range(count):
                writer.append_entry(b"e")
            with pytest.raises(StoreFull):
                await writer.flush()
        finally:
            valkey.ask("CONFIG SET maxmemory 0")
        assert publisher.buffered_bytes == 0
    assert await written(redis) == []


async def test_a_replica_is_waited_for_until_it_is_primary_again(
    redis: Redis, redis_url: str, valkey: EmbeddedValkey
) -> None:
    async with publishing(redis_url) as publisher:
        writer = await begun(redis, publisher)
        valkey.ask("REPLICAOF 127.0.0.1 1")
        try:
            writer.append_entry(b"e1")
            writer.append_entry(b"e2")
            await until(lambda: publisher.commits >= 2)
        finally:
            valkey.ask("REPLICAOF NO ONE")
        await writer.flush()
    assert await written(redis) == numbered(2)


async def test_a_user_who_is_locked_out_for_a_while(redis: Redis, redis_url: str, valkey: EmbeddedValkey) -> None:
    # The password is invalid for a while, as during a rotation.
    user = "ACL SETUSER rotated on >pw ~* &* +@all"
    valkey.ask(user)
    try:
        async with publishing(redis_url.replace("//", "//rotated:pw@")) as publisher:
            writer = await begun(redis, publisher)
            writer.append_entry(b"e1")
            await writer.flush()
            valkey.ask("ACL DELUSER rotated")
            before = publisher.commits
            writer.append_entry(b"e2")
            await until(lambda: publisher.commits >= before + 2)
            valkey.ask(user)
            await writer.flush()
    finally:
        valkey.ask("ACL DELUSER rotated")
    assert await written(redis) == numbered(2)


async def test_unread_replies_are_never_taken_for_those_of_a_later_commit(
    redis: Redis, redis_url: str, valkey: EmbeddedValkey
) -> None:
    # The first commit is refused in its middle; the second one must get the error of its own log.
    async with publishing(redis_url) as publisher:
        first = await begun(redis, publisher)
        valkey.ask("REPLICAOF 127.0.0.1 1")
        try:
            for _ in range(5):
                first.append_entry(b"e")
            await until(lambda: publisher.commits >= 1)
            first.close()
        finally:
            valkey.ask("REPLICAOF NO ONE")
        lost = await begun(redis, publisher, "lost")
        await redis.delete(log_key("lost"))
        lost.append_entry(b"e1")
        with pytest.raises(AttemptLost):
            await lost.flush()


async def test_a_server_that_is_away_too_long_fails_the_writer(redis: Redis, redis_url: str) -> None:
    async with Proxy(redis_url) as proxy, publishing(proxy.url, patience_s=0.05) as publisher:
        writer = await begun(redis, publisher)
        proxy.refusing = True
        proxy.cut()
        writer.append_entry(b"e")
        with pytest.raises(StoreUnavailable):
            await writer.flush()


async def test_a_full_buffer_pauses_its_reader_until_redis_answers(redis: Redis, redis_url: str) -> None:
    # Redis is stalled: `wait_for_room` waits at the limit of bytes, and everything is written afterwards.
    async with Proxy(redis_url) as proxy, publishing(proxy.url, request_buffer_bytes=2000) as publisher:
        writer, other = await begun(redis, publisher), await begun(redis, publisher, "b")
        proxy.stall()
        most = 0

        async def read_upstream() -> None:
            nonlocal most
            for _ in range(500):
                await writer.wait_for_room()
                writer.append_entry(b"e%d" % (writer.seq + 1))
                most = max(most, writer.buffer.buffered_bytes)

        reading = asyncio.create_task(read_upstream())
        await until(lambda: writer.buffer.buffered_bytes >= 2000)
        await asyncio.sleep(0)
        assert not reading.done()
        await other.wait_for_room()  # its own buffer is empty, and the one of the process is not full
        proxy.resume()
        await reading
        await writer.flush()
    assert most < 2200
    assert await written(redis) == numbered(500)


async def test_the_full_buffer_of_the_process_pauses_all_readers(redis: Redis, redis_url: str) -> None:
    async with Proxy(redis_url) as proxy, publishing(proxy.url, buffer_bytes=1000) as publisher:
        writer, other = await begun(redis, publisher), await begun(redis, publisher, "b")
        proxy.stall()
        writer.append_entry(b"x" * 1000)
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(other.wait_for_room(), 0.05)
        proxy.resume()
        await asyncio.wait_for(other.wait_for_room(), WAIT_S)


@pytest.mark.parametrize("limits", [{"max_entries": 5}, {"max_bytes": 10}])
async def test_a_log_has_a_maximum(redis: Redis, redis_url: str, limits: dict[str, int]) -> None:
    async with publishing(redis_url, **limits) as publisher:
        writer = await begun(redis, publisher)
        for number in range(1, 6):
            writer.append_entry(b"e%d" % number)
        for _ in range(2):
            with pytest.raises(LogFull):
                writer.append_entry(b"e6")
        await writer.flush()
    assert await written(redis) == numbered(5)


async def test_a_closed_writer_discards_what_was_not_sent(redis: Redis, redis_url: str) -> None:
    async with publishing(redis_url) as publisher:
        writer = await begun(redis, publisher)
        writer.append_entry(b"e1")
        writer.close()
        assert publisher.buffered_bytes == 0
        other = await begun(redis, publisher, "b")
        other.append_entry(b"e1")
        await other.flush()
    assert await written(redis) == []
    assert await written(redis, "b") == numbered(1)


async def test_a_publisher_that_ends_fails_its_writers(redis: Redis, redis_url: str) -> None:
    async with Proxy(redis_url) as proxy, publishing(proxy.url) as publisher:
        writer = await begun(redis, publisher)
        proxy.stall()
        writer.append_entry(b"e1")
        flushing = asyncio.create_task(writer.flush())
        await asyncio.sleep(0)
    with pytest.raises(StoreUnavailable):
        await flushing
    with pytest.raises(StoreUnavailable):
        publisher.open_writer("b", 1, OWNER, always)
