"""Redis as the queue uses it: one verb a script, and the wake-up list, each on connections of its own.

Every call is bounded in time: a server that hangs must not hang the renewal. Nothing is tried again here.
"""

from collections.abc import Awaitable, Callable, Mapping, Sequence
from types import MappingProxyType
from typing import TypeVar

import msgspec
from redis.asyncio import BlockingConnectionPool, Redis

from tailrace.broker import keys, scripts
from tailrace.broker.clients import asking, blocking_pool
from tailrace.broker.scripts import Argument, Claim, Script, Verdict
from tailrace.broker.time_limits import REPLY_TIMEOUT_S
from tailrace.schemas.errors import AttemptLost
from tailrace.worker.queue.arq_worker import arq_client
from tailrace.worker.queue.leases import Lease
from tailrace.worker.queue.outbox_state import OutboxState

_T = TypeVar("_T")

_SCRIPTS = (
    scripts.CLAIM,
    scripts.RENEW,
    scripts.ACKNOWLEDGE,
    scripts.HAND_BACK,
    scripts.NEXT_ATTEMPT,
    scripts.TRIAL,
    scripts.ANNOUNCE,
)

CONNECTIONS = 8
"""For claims, acknowledgements and hand-backs; whoever comes later waits for one."""

BLOCKING_MARGIN_S = 2.0
"""How much later than the end of a blocking read its answer may come."""


class QueueStore:
    """The queue's verbs. Every one raises StoreError when Redis does not do what it was asked.

    Args:
        url: the Redis or Valkey with the queue.
        lease_s: how long a lease lasts without renewal; a call may take a third of it, so a renewal can be repeated.
        poll_s: the longest wait for a wake-up token.
        tenant_limit: requests of one tenant that may run at once; 0 for no limit.
        tenant_limits: the same for single tenants.
        outbox_state: is told whether there is an outbox.
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
        # Renewals wait for nobody else's turn. Their limit spans the whole call, a new connection's greetings included:
        # one limit for each of these would let a call on a dead line outlast a short lease.
        self._renewals = Redis.from_pool(self._pool(1, None))
        self._renewal_s = reply_s
        self._wake_ups = Redis.from_pool(self._pool(1, poll_s + BLOCKING_MARGIN_S))
        self._registered = {script.name: self.arq.register_script(script.text) for script in _SCRIPTS}

    def _pool(self, connections: int, reply_s: float | None) -> BlockingConnectionPool:
        return blocking_pool(self._url, connections, reply_s=reply_s)

    async def close(self) -> None:
        """Closes every connection."""
        for client in (self.arq, self._renewals, self._wake_ups):
            await client.aclose(close_connection_pool=True)

    async def ping(self) -> None:
        """Raises StoreError when Redis is not there."""
        await self._ask(self.arq, self.arq.ping)

    async def claim(self, limit: int, token: str, *, again: bool) -> Claim:
        """Takes up to `limit` due jobs: class after class, tenant by turns, as far as tenants' limits allow.

        Args:
            limit: the most jobs.
            token: names this call; a repetition after a lost reply uses the same.
            again: whether this is such a repetition.
        """
        return scripts.read_claim(
            await self._reply(
                scripts.CLAIM,
                self.arq,
                queue=keys.QUEUE,
                wake=keys.WAKE,
                limit=limit,
                lease_ms=self._lease_ms,
                token=token,
                again=int(again),
                wake_life_s=keys.WAKE_LIFETIME_S,
                state_life_s=keys.QUEUE_STATE_LIFETIME_S,
                tenant_limit=self._tenant_limit,
                tenant_limits=self._tenant_limits,
            )
        )

    async def renew(self, leases: Sequence[Lease]) -> frozenset[str]:
        """Extends the leases, token-checked: the ids of those that are gone."""
        pairs = msgspec.msgpack.encode([(lease.request_id, lease.token) for lease in leases])
        verdict = await self._verdict(
            scripts.RENEW, self._renewals, queue=keys.QUEUE, lease_ms=self._lease_ms, leases=pairs
        )
        return frozenset(verdict.fields)

    async def acknowledge(self, lease: Lease) -> bool:
        """The job is done with. Where Redis has lost the end of its request, in a failover, it is handed back instead.

        Returns:
            False when the job is another's by now: it was left alone.
        """
        job_id = lease.request_id
        verdict = await self._verdict(
            scripts.ACKNOWLEDGE,
            queue=keys.QUEUE,
            lease=keys.lease_key(job_id),
            state=keys.queue_state_key(job_id),
            job=keys.job_key(job_id),
            retry=keys.retry_key(job_id),
            abort=keys.ABORT,
            outbox=keys.OUTBOX,
            id=job_id,
            token=lease.token,
            attempt=lease.attempt,
        )
        if verdict.word == "acknowledged":
            self._outbox_state.exists = verdict.number("outbox") == 1
        if verdict.word == "unfinished":
            return await self.hand_back(lease, delay_ms=0, why="end_lost")
        return verdict.word != "stale"

    async def hand_back(self, lease: Lease, *, delay_ms: int, why: str) -> bool:
        """The job is to be run again, not before `delay_ms` from now.

        Returns:
            False when the job is another's by now: it was left alone.
        """
        job_id = lease.request_id
        verdict = await self._verdict(
            scripts.HAND_BACK,
            queue=keys.QUEUE,
            wake=keys.WAKE,
            lease=keys.lease_key(job_id),
            state=keys.queue_state_key(job_id),
            id=job_id,
            token=lease.token,
            attempt=lease.attempt,
            delay_ms=max(delay_ms, 0),
            why=why,
            wake_life_s=keys.WAKE_LIFETIME_S,
            state_life_s=keys.QUEUE_STATE_LIFETIME_S,
            cut_off=int(lease.cut_off),
        )
        return verdict.word != "stale"

    async def next_attempt(self, lease: Lease, above: int) -> int:
        """Mints the next attempt number under the same lease. Raises AttemptLost when it is not ours any more."""
        job_id = lease.request_id
        verdict = await self._verdict(
            scripts.NEXT_ATTEMPT,
            lease=keys.lease_key(job_id),
            state=keys.queue_state_key(job_id),
            token=lease.token,
            state_life_s=keys.QUEUE_STATE_LIFETIME_S,
            above=above,
        )
        if verdict.word == "stale":
            raise AttemptLost(f"the lease of {job_id} is gone: no further attempt can begin under it")
        return verdict.number("attempt")

    async def note_quarantine(self, lease: Lease, *, alone: bool) -> bool:
        """Notes whether this job is to blame if its worker dies; False when it is another's by now."""
        verdict = await self._verdict(
            scripts.TRIAL,
            lease=keys.lease_key(lease.request_id),
            state=keys.queue_state_key(lease.request_id),
            token=lease.token,
            alone=int(alone),
        )
        return verdict.word == "noted"

    async def report(self, name: str, said: bytes) -> None:
        """What this worker says of itself, for those who watch."""
        life_ms = keys.WORKER_LIFETIME_S * 1000
        await self._ask(self.arq, lambda: self.arq.set(keys.worker_key(name), said, px=life_ms))

    async def announce(self, name: str, *, gone: bool = False) -> None:
        """This worker is one of those to be seen, for a while; or it goes."""
        await self._verdict(
            scripts.ANNOUNCE,
            workers=keys.WORKERS,
            worker=keys.worker_key(name),
            name=name,
            gone=int(gone),
            life_ms=keys.WORKER_LIFETIME_S * 1000,
        )

    async def wait_for_work(self, timeout_s: float) -> None:
        """Returns with a wake-up token, or when `timeout_s` is over."""
        await self._ask(self._wake_ups, lambda: self._wake_ups.blpop(keys.WAKE, timeout=max(timeout_s, 0.001)))

    async def _verdict(self, script: Script, client: Redis | None = None, **given: Argument) -> Verdict:
        return script.verdict(await self._reply(script, client or self.arq, **given))

    async def _reply(self, script: Script, client: Redis, **given: Argument) -> list[bytes]:
        names, args = script.call(**given)
        run = self._registered[script.name]
        return await self._ask(client, lambda: run([str(name) for name in names], args, client))

    async def _ask(self, client: Redis, call: Callable[[], Awaitable[_T]]) -> _T:
        async with asking(client, self._renewal_s if client is self._renewals else None):
            return await call()
