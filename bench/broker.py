"""The Valkey of a benchmark: enqueues jobs, counts commands, and reads lifetimes and memory."""

import asyncio
import socket
from collections.abc import Coroutine, Mapping, Sequence
from contextlib import suppress
from time import monotonic, time
from types import TracebackType
from typing import Any, NamedTuple, Self, TypeVar

from arq.connections import ArqRedis
from arq.constants import expires_extra_ms
from arq.jobs import serialize_job
from redis.asyncio import ConnectionPool

from bench.figures import BenchError
from tailrace.broker import keys
from tailrace.demo.valkey import HOST, EmbeddedValkey
from tailrace.schemas.codec import decode_job, encode_job

T = TypeVar("T")

ENTRY = keys.ENTRY_FIELD.encode()
_READ_BYTES = 65_536


class Commands(NamedTuple):
    """Commands a server has run: those that clients sent, and those together with the commands of scripts."""

    sent: int
    with_scripts: int


class Broker:
    """A private Valkey and one connection to it; a context manager that closes both.

    It has its own event loop, so that the benchmark can be written synchronously.
    """

    def __init__(self) -> None:
        self.valkey = EmbeddedValkey()

    @property
    def url(self) -> str:
        """URL of its database 0."""
        return self.valkey.url

    def clear(self) -> None:
        """Removes every key."""
        self._runner.run(self._arq.flushall())

    def run(self, work: Coroutine[Any, Any, T]) -> T:
        """Runs a coroutine on the event loop of the connection."""
        return self._runner.run(work)

    def submit(self, job_id: str, given: Any, *, wake: bool) -> float:
        """Enqueues one job; returns the monotonic time, in seconds, at which that began.

        Args:
            job_id: its id, and its function's first argument.
            given: the second argument.
            wake: whether to add a wake-up token, as our producers do.
        """
        began = monotonic()
        self._runner.run(self._submit(job_id, given, wake))
        return began

    def submit_at_once(self, jobs: Mapping[str, Any], *, wake: bool) -> None:
        """Enqueues many jobs, given by id, in one transaction."""
        self._runner.run(self._submit_at_once(jobs, wake))

    def lease_ttl_s(self, job_id: str) -> float:
        """The remaining lifetime of a job's in-progress key, in seconds."""
        return self._runner.run(self._arq.pttl(keys.lease_key(job_id))) / 1000

    def entries(self, log: str) -> list[bytes]:
        """The entries of a log."""
        return [fields[ENTRY] for _, fields in self._runner.run(self._arq.xrange(log))]

    def waiting(self, queue: str) -> int:
        """How many jobs are in a queue, including those that run."""
        return self._runner.run(self._arq.zcard(queue))

    def add_streams(self, streams: Mapping[str, Sequence[bytes]]) -> None:
        """Writes streams with one entry for each payload."""
        self._runner.run(self._add_streams(streams))

    def memory(self, pattern: str) -> int:
        """The memory of the keys that match a pattern, in bytes. Source: MEMORY USAGE over all elements."""
        return self._runner.run(self._memory(pattern))

    def calls_of(self, command: str) -> int:
        """How often the server has run a command, from clients and scripts."""
        stats: dict[str, dict[str, int]] = self._runner.run(self._arq.info("commandstats"))
        return stats.get(f"cmdstat_{command}", {}).get("calls", 0)

    def listen(self, for_s: float) -> Commands:
        """Counts the commands of all other connections, for a time. Source: MONITOR, which marks scripts with `lua`."""
        sent = by_scripts = 0
        deadline = monotonic() + for_s
        with socket.create_connection((HOST, self.valkey.port), 5.0) as connection:
            connection.sendall(b"MONITOR\r\n")
            begun = b""
            while (left_s := deadline - monotonic()) > 0:
                connection.settimeout(left_s)
                with suppress(TimeoutError):
                    data = connection.recv(_READ_BYTES)
                    if not data:
                        raise BenchError("the embedded Valkey closed the MONITOR connection")
                    *lines, begun = (begun + data).split(b"\r\n")
                    scripted = sum(b" lua] " in line for line in lines)
                    by_scripts += scripted
                    sent += sum(line.startswith(b"+") and line != b"+OK" for line in lines) - scripted
        return Commands(sent, sent + by_scripts)

    async def _memory(self, pattern: str) -> int:
        names = [name async for name in self._arq.scan_iter(pattern, count=1_000)]
        return sum([await self._arq.memory_usage(name, samples=0) or 0 for name in set(names)])

    async def _add_streams(self, streams: Mapping[str, Sequence[bytes]]) -> None:
        for name, payloads in streams.items():
            async with self._arq.pipeline(transaction=False) as pipe:
                for payload in payloads:
                    pipe.xadd(name, {keys.ENTRY_FIELD: payload})
                await pipe.execute()

    async def _submit(self, job_id: str, given: Any, wake: bool) -> None:
        await self._arq.enqueue_job(keys.JOB_FUNCTION, job_id, given, _job_id=job_id)
        if wake:
            await self._wake()

    async def _submit_at_once(self, jobs: Mapping[str, Any], wake: bool) -> None:
        now_ms = int(time() * 1000)
        async with self._arq.pipeline(transaction=True) as pipe:
            for job_id, given in jobs.items():
                envelope = serialize_job(keys.JOB_FUNCTION, (job_id, given), {}, None, now_ms, serializer=encode_job)
                pipe.psetex(keys.job_key(job_id), expires_extra_ms, envelope)
            pipe.zadd(keys.QUEUE, dict.fromkeys(jobs, now_ms))
            await pipe.execute()
        if wake:
            await self._wake()

    async def _wake(self) -> None:
        async with self._arq.pipeline(transaction=False) as pipe:
            pipe.lpush(keys.WAKE, b"1")
            pipe.execute_command("LTRIM", keys.WAKE, 0, keys.WAKE_TOKENS_MAX - 1)
            pipe.expire(keys.WAKE, keys.WAKE_LIFETIME_S)
            await pipe.execute()

    def __enter__(self) -> Self:
        self.valkey.__enter__()
        self._runner = asyncio.Runner()
        pool = ConnectionPool.from_url(self.valkey.url)
        self._arq = ArqRedis(pool, job_serializer=encode_job, job_deserializer=decode_job)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        try:
            with self._runner:
                self._runner.run(self._arq.aclose(close_connection_pool=True))
        finally:
            self.valkey.close()
