"""SyncClient on a real Valkey: many threads, a fork, interrupts."""

import asyncio
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import msgspec
import pytest
from redis.asyncio import Redis

from tailrace.broker.keys import push_channel, push_shard, rec_key
from tailrace.producers.client import Client
from tailrace.producers.sync.client import SyncClient
from tailrace.schemas.deltas import Completed, ErrorInfo
from tailrace.schemas.errors import CursorInvalid, RequestRejected, StoreUnavailable, UnknownRequest
from tailrace.worker.attempt.request_store import Store
from tests.scribe import ANSWER, Scribe

HELLO: list[dict[str, Any]] = [{"role": "user", "content": "hello"}]
ALL = ["0-1", *(f"1-{seq}" for seq in range(len(ANSWER) + 2))]


@pytest.fixture
def client(redis_url: str) -> Iterator[SyncClient]:
    with SyncClient(redis_url) as connected:
        yield connected


def answer(redis_url: str, request_id: str) -> None:
    async def write() -> None:
        async with Redis.from_url(redis_url) as redis:
            await Scribe(redis, request_id).answer()

    asyncio.run(write())


def followers(redis_url: str, request_id: str = "one") -> int:
    """How many connections are subscribed to the channel of a request."""

    async def count() -> int:
        async with Redis.from_url(redis_url) as redis:
            ((_, number),) = await redis.pubsub_numsub(push_channel(push_shard(request_id)))
            return number

    return asyncio.run(count())


def wait_until(condition: Callable[[], bool]) -> None:
    deadline_s = time.monotonic() + 10
    while not condition():
        assert time.monotonic() < deadline_s, "it did not come to that"
        time.sleep(0.005)


def test_every_method_works_without_a_loop(client: SyncClient, redis_url: str) -> None:
    submitted = client.submit(id="one", model="m", messages=HELLO)
    assert (submitted.id, client.status("one").status, client.result("one")) == ("one", "queued", None)
    answer(redis_url, "one")
    items = list(client.tail("one"))
    assert [item.cursor for item in items] == ALL
    assert [item.cursor for item in client.tail("one", after="1-4")] == ALL[6:]
    assert [item.cursor for item in client.tail("one", after="1-4").letta()] == ALL[6:]
    outcome = client.result("one", wait_s=5)
    assert outcome is not None
    assert outcome.content == "Hello"
    assert client.cancel("one") == ("finished", "completed")


def test_dead_letters_work_without_a_loop(client: SyncClient, redis_url: str) -> None:
    # given a dead request and a job that never was one, expect both listed and shown, the one tried again, once, the
    # other dropped
    client.submit(id="one", model="m", messages=HELLO)
    bury(redis_url, "one", "no request")
    assert {letter.id for letter in client.dead.list()} == {"one", "no request"}
    letter, content = client.dead.show("one")
    assert (letter.error.code, content.request and content.request["model"]) == ("worker_crashed", "m")
    with pytest.raises(RequestRejected):
        client.dead.retry("no request")
    again = client.dead.retry("one")
    assert client.status(again.id).retry_of == "one"
    with pytest.raises(UnknownRequest):
        client.dead.retry("one")
    client.dead.drop("no request")
    assert client.dead.list() == []


def bury(redis_url: str, *job_ids: str) -> None:
    error = ErrorInfo("worker_crashed", "its workers died", "operator")

    async def write() -> None:
        async with Redis.from_url(redis_url) as redis:
            ended = {
                "status": "failed",
                "dead": 1,
                "error": msgspec.json.encode(error),
                "finished_ms": time.time_ns() // 10**6,
            }
            for job_id in job_ids:
                if await redis.exists(rec_key(job_id)):
                    await redis.hset(rec_key(job_id), mapping=ended)
                await Store(redis).add_dead_letter(job_id, error, crashes=3, with_envelope=False)

    asyncio.run(write())


def test_entering_a_tail_checks_id_and_cursor(client: SyncClient) -> None:
    with pytest.raises(UnknownRequest):
        client.tail("nobody").__enter__()
    client.submit(id="one", model="m", messages=HELLO)
    with pytest.raises(CursorInvalid):
        client.tail("one", after="x").__enter__()
    with pytest.raises(CursorInvalid):
        client.tail("one", after="9-9").__enter__()


def test_a_tail_that_is_not_entered_raises_with_its_first_item(client: SyncClient) -> None:
    for items in (client.tail("nobody"), client.tail("nobody").letta(), client.tail("nobody").text()):
        with pytest.raises(UnknownRequest):
            next(items)
    with pytest.raises(RequestRejected):
        client.submit(model="m")


def test_it_connects_when_it_is_used_and_raises_when_it_cannot(unused_tcp_port: int) -> None:
    url = f"redis://127.0.0.1:{unused_tcp_port}/0"
    client = SyncClient(url)
    with pytest.raises(StoreUnavailable):
        client.status("one")
    with pytest.raises(StoreUnavailable):
        SyncClient(url).__enter__()


def test_many_threads_share_one(redis_url: str) -> None:
    # given a client that has not connected yet / if twenty threads use it at once
    client = SyncClient(redis_url)

    def whole_life(number: int) -> list[str | None]:
        submitted = client.submit(id=f"r{number}", model="m", messages=HELLO)
        writing = threading.Thread(target=answer, args=(redis_url, submitted.id))
        writing.start()
        items = [item.cursor for item in client.tail(submitted.id)]
        writing.join()
        return items

    with ThreadPoolExecutor(20) as threads:
        assert list(threads.map(whole_life, range(20))) == [ALL] * 20
    # and one thread of ours serves them all
    assert sum(thread.name == "tailrace" for thread in threading.enumerate()) == 1
    client.close()


def test_closing_a_tail_ends_its_subscription(client: SyncClient, redis_url: str) -> None:
    client.submit(id="one", model="m", messages=HELLO)
    items = client.tail("one")
    assert next(items).cursor == "0-1"
    waiting = threading.Thread(target=lambda: list(client.tail("one")))
    waiting.start()
    wait_until(lambda: followers(redis_url) == 1)
    items.close()
    with pytest.raises(StopIteration):
        next(items)
    client.cancel("one")
    waiting.join(10)
    assert not waiting.is_alive()
    wait_until(lambda: followers(redis_url) == 0)


def test_used_again_after_close_it_connects_again(client: SyncClient) -> None:
    client.submit(id="one", model="m", messages=HELLO)
    client.close()
    assert client.status("one").status == "queued"


def test_it_works_beside_a_running_loop(redis_url: str) -> None:
    async def both() -> None:
        async with Client(redis_url) as client:
            await client.submit(id="one", model="m", messages=HELLO)
            blocking = SyncClient(redis_url)
            status = await asyncio.to_thread(blocking.status, "one")
            assert status == await client.status("one")
            await asyncio.to_thread(blocking.close)

    asyncio.run(both())


# A program of its own: a fork of the test run, with its threads and fixtures, would test pytest.
_FORKING = """
import os, sys
from tailrace.producers.sync.client import SyncClient
url = sys.argv[1]
client = SyncClient(url)
client.submit(id="before", model="m", messages=[{"role": "user", "content": "hello"}])
items = client.tail("before")
next(items)
children = []
for number in range(3):
    child = os.fork()
    if child == 0:
        client.submit(id=f"child{number}", model="m", messages=[{"role": "user", "content": "hello"}])
        assert client.status("before").status == "queued"
        assert next(client.tail("before")).cursor == "0-1"
        try:
            next(items)
        except RuntimeError as error:
            assert "does not survive a fork" in str(error)
        else:
            raise AssertionError("the parent's tail went on in the child")
        client.close()
        sys.exit(0)
    children.append(child)
codes = [os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) for child in children]
assert codes == [0, 0, 0], codes
for number in range(3):
    assert client.status(f"child{number}").status == "queued"
client.cancel("before")
assert [item.cursor for item in items] == ["1-0"]
print("fine")
"""


def test_parent_and_child_of_a_fork_may_use_it(redis_url: str) -> None:
    done = subprocess.run(
        [sys.executable, "-X", "dev", "-c", _FORKING, redis_url],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert (done.returncode, done.stdout) == (0, "fine\n"), done.stderr
    # A line that a callback was slow tells of the machine's load; every other one of a fault.
    assert [line for line in done.stderr.splitlines() if not line.startswith("Executing <")] == []


_INTERRUPTED = """
import sys
from tailrace.producers.sync.client import SyncClient
client = SyncClient(sys.argv[1])
client.submit(id="one", model="m", messages=[{"role": "user", "content": "hello"}])
print("waiting", flush=True)
try:
    for item in client.tail("one"):
        print(item.cursor, flush=True)
except KeyboardInterrupt:
    print(client.status("one").status, flush=True)
"""


def test_an_interrupt_ends_the_wait_and_nothing_else(redis_url: str) -> None:
    with subprocess.Popen(
        [sys.executable, "-X", "dev", "-c", _INTERRUPTED, redis_url],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as program:
        assert program.stdout is not None
        assert [program.stdout.readline() for _ in range(2)] == ["waiting\n", "0-1\n"]
        wait_until(lambda: followers(redis_url) == 1)
        program.send_signal(signal.SIGINT)
        try:
            out, err = program.communicate(timeout=20)
        finally:
            program.kill()
        assert (program.returncode, out, err) == (0, "queued\n", "")


def test_the_end_of_a_tail_is_the_terminal(client: SyncClient, redis_url: str) -> None:
    client.submit(id="one", model="m", messages=HELLO)
    answer(redis_url, "one")
    *_, last = client.tail("one")
    assert isinstance(last.entry, Completed)
