"""The queue in Redis: one method per script, and the wake-up list, each on connections of its own.

Every call is bounded in time, so a server that hangs cannot block the renewal of leases. Nothing is retried here.
Knows nothing of how jobs run.
"""

from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import TypeVar

import msgspec
from redis.asyncio import BlockingConnectionPool, Redis

from tailrace.broker import keys, scripts
from tailrace.broker.clients import asking, blocking_pool
from tailrace.broker.script import Argument, Script
from tailrace.broker.script_runner import run_script
from tailrace.broker.scripts import (
    AcknowledgeStatus,
    Claim,
    HandBackStatus,
    NextAttemptStatus,
    NoteQuarantineStatus,
)
from tailrace.broker.time_limits import REPLY_TIMEOUT_S
from tailrace.schemas.errors import AttemptLost
from tailrace.worker.queue.arq_worker import arq_client
from tailrace.worker.queue.leases import Lease
from tailrace.worker.queue.outbox_state import OutboxState

_Reply = TypeVar("_Reply")

CONNECTIONS = 8
"""For claims, acknowledgements and hand-backs. When all are in use, a call waits for one."""

BLOCKING_MARGIN_S = 2.0
"""How much later than the end of a blocking read its reply may come."""


class QueueStore:
    """The queue's scripts. Every method raises StoreError if the operation fails.

    Args:
        url: the Redis or Valkey with the queue.
        lease_s: how long a lease lasts without renewal. A call may take a third of it, so a renewal can be repeated.
        poll_s: the longest wait for a wake-up token.
        tenant_limit: requests of one tenant that may run at once; 0 for no limit.
        tenant_limits: the same for single tenants.
        outbox_state: is updated with whether there is an outbox.

    Attributes:
        arq: the client for all calls but renewals and wake-ups, as arq takes it.
    """

    def __init__(
        self,
        url: str,
        *,
        lease_s: float,
        poll_s: float,
        tenant_limit: int = 0,
        tenant_limits: Mapping[str, int] = MappingProxyType({}),
        outbox_state: OutboxState | None = None,
    ) -> None:
        self._url = url
        self._outbox_state = outbox_state or OutboxState()
        self._tenant_limit = tenant_limit
        self._tenant_limits = msgspec.msgpack.encode(dict(tenant_limits))
        self._lease_ms = round(lease_s * 1000)
        reply_s = min(max(lease_s / 3, 0.5), REPLY_TIMEOUT_S)
        self.arq = arq_client(self._pool(CONNECTIONS, reply_s))
        # Renewals have a connection of their own. Their limit spans the whole call, including the handshake of a new
        # connection: with one limit for each step a call on a dead connection could outlast a short lease.
        self._renewals = Redis.from_pool(self._pool(1, None))
        self._renewal_s = reply_s
        self._wake_ups = Redis.from_pool(self._pool(1, poll_s + BLOCKING_MARGIN_S))

    def _pool(self, connections: int, reply_s: float | None) -> BlockingConnectionPool:
        return blocking_pool(self._url, connections, reply_s=reply_s)

    async def close(self) -> None:
        """Closes every connection."""
        for client in (self.arq, self._renewals, self._wake_ups):
            await client.aclose(close_connection_pool=True)

    async def ping(self) -> None:
        """Raises StoreError if Redis is not available."""
        async with asking(self.arq):
            await self.arq.ping()

    async def claim(self, limit: int, token: str, *, is_repeat: bool) -> Claim:
        """Takes up to `limit` due jobs: class by class, tenants in turn, within the tenants' limits.

        Args:
            limit: the most jobs.
            token: names this call; a repetition after a lost reply uses the same.
            is_repeat: whether this is such a repetition.
        """
        return await self._run(
            scripts.CLAIM,
            limit=limit,
            lease_ms=self._lease_ms,
            token=token,
            is_repeat=int(is_repeat),
            tenant_limit=self._tenant_limit,
            tenant_limits=self._tenant_limits,
        )

    async def renew(self, leases: Sequence[Lease]) -> frozenset[str]:
        """Extends the leases whose tokens match, and returns the ids of the others."""
        pairs = msgspec.msgpack.encode([(lease.request_id, lease.token) for lease in leases])
        async with asking(self._renewals, self._renewal_s):
            return await run_script(self._renewals, scripts.RENEW, lease_ms=self._lease_ms, leases=pairs)

    async def acknowledge(self, lease: Lease) -> bool:
        """Removes a finished job. If Redis has lost the end of its request in a failover, it is handed back instead.

        Returns:
            False if another owner has the job by now; it was left alone.
        """
        verdict = await self._run(scripts.ACKNOWLEDGE, lease.request_id, token=lease.token, attempt=lease.attempt)
        if verdict.status is AcknowledgeStatus.ACKNOWLEDGED:
            self._outbox_state.exists = verdict.number("outbox") == 1
        if verdict.status is AcknowledgeStatus.UNFINISHED:
            return await self.hand_back(lease, delay_ms=0, why="end_lost")
        return verdict.status is not AcknowledgeStatus.STALE

    async def hand_back(self, lease: Lease, *, delay_ms: int, why: str) -> bool:
        """Gives a job back to be run again.

        Args:
            lease: the owner's.
            delay_ms: milliseconds from now until the job is due again.
            why: the reason for the next attempt.

        Returns:
            False if another owner has the job by now; it was left alone.
        """
        verdict = await self._run(
            scripts.HAND_BACK,
            lease.request_id,
            token=lease.token,
            attempt=lease.attempt,
            delay_ms=max(delay_ms, 0),
            why=why,
            cut_off=int(lease.cut_off),
        )
        return verdict.status is not HandBackStatus.STALE

    async def next_attempt(self, lease: Lease, above: int) -> int:
        """Issues the next attempt number under the same lease. Raises AttemptLost when the lease is lost."""
        verdict = await self._run(scripts.NEXT_ATTEMPT, lease.request_id, token=lease.token, above=above)
        if verdict.status is NextAttemptStatus.STALE:
            raise AttemptLost(f"the lease of {lease.request_id} is lost: no further attempt can begin under it")
        return verdict.number("attempt")

    async def note_quarantine(self, lease: Lease, *, alone: bool) -> bool:
        """Notes whether this job is to blame if its worker dies; False if another owner has it by now."""
        verdict = await self._run(scripts.NOTE_QUARANTINE, lease.request_id, token=lease.token, alone=int(alone))
        return verdict.status is NoteQuarantineStatus.NOTED

    async def report(self, name: str, encoded: bytes) -> None:
        """Writes this worker's report, for monitoring."""
        life_ms = keys.WORKER_LIFETIME_S * 1000
        async with asking(self.arq):
            await self.arq.set(keys.worker_key(name), encoded, px=life_ms)

    async def announce(self, name: str, *, gone: bool = False) -> None:
        """Lists this worker for a while, or removes it from the list."""
        await self._run(scripts.ANNOUNCE, name, name=name, gone=int(gone), life_ms=keys.WORKER_LIFETIME_S * 1000)

    async def wait_for_work(self, timeout_s: float) -> None:
        """Returns with a wake-up token, or when `timeout_s` is over."""
        async with asking(self._wake_ups):
            await self._wake_ups.blpop(keys.WAKE, timeout=max(timeout_s, 0.001))

    async def _run(self, script: Script[_Reply], of: str = "", **given: Argument) -> _Reply:
        async with asking(self.arq):
            return await run_script(self.arq, script, of, **given)
