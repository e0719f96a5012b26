"""What a worker's queue reads of records, which may be on another server: cancels, and lost ends of requests.

Every call is bounded in time. Nothing is retried here. Knows nothing of when leases end.
"""

from collections.abc import AsyncGenerator, Awaitable, Callable, Sequence
from typing import TypeVar

from tailrace.broker import keys
from tailrace.broker.clients import asking, client_of
from tailrace.broker.cluster import is_cluster
from tailrace.broker.time_limits import REPLY_TIMEOUT_S
from tailrace.schemas.errors import StoreUnavailable
from tailrace.schemas.outcome import ENDED
from tailrace.worker.queue.leases import Lease

_T = TypeVar("_T")

CONNECTIONS = 4
CHANNEL_CHECK_S = 5.0
"""After this time without a message the cancel channel is pinged; if no reply comes, its connection is dropped."""


class Records:
    """Every method raises StoreError if the operation fails.

    Args:
        url: the Redis or Valkey with records and logs.
        lease_s: how long a lease lasts; reading the records of running jobs may take a third of it.
    """

    def __init__(self, url: str, *, lease_s: float) -> None:
        self._look_s = min(max(lease_s / 3, 0.5), REPLY_TIMEOUT_S)
        reply_s = self._look_s / 2 if is_cluster(url) else None  # one node that hangs must not take the others' time
        self._looks = client_of(url, CONNECTIONS, reply_s=reply_s)
        self._channel = client_of(url, 1, reply_s=self._look_s)

    async def close(self) -> None:
        """Closes every connection."""
        await self._looks.aclose(close_connection_pool=True)
        await self._channel.aclose(close_connection_pool=True)

    async def asked_to_cancel(self, leases: Sequence[Lease]) -> frozenset[str]:
        """The ids of those requests whose records ask for a cancel.

        On a cluster some reads may fail; they are repeated the next time.
        """

        async def marks() -> list[bytes | Exception | None]:
            async with self._looks.pipeline(transaction=False) as together:
                for lease in leases:
                    together.hget(keys.rec_key(lease.request_id), "cancel")
                answers = await together.execute(raise_on_error=False)
            refused = [answer for answer in answers if isinstance(answer, Exception)]
            if answers and len(refused) == len(answers):
                raise refused[0]
            return answers

        answers = await self._look(marks)
        return frozenset(
            lease.request_id for lease, mark in zip(leases, answers, strict=True) if isinstance(mark, bytes) and mark
        )

    async def has_lost_end(self, request_id: str) -> bool:
        """Whether the record of an ended request shows no end: a failover may have lost its last writes."""
        status = await self._look(lambda: self._looks.hget(keys.rec_key(request_id), "status"))
        return status is not None and status.decode() not in ENDED

    async def cancels(self) -> AsyncGenerator[str | None, None]:
        """Request ids to cancel as they are published; None after each subscription."""
        async with self._channel.pubsub() as channel:
            async with asking(self._channel):
                await channel.subscribe(keys.CANCEL_CHANNEL)
            asked = False
            while True:
                async with asking(self._channel):
                    message = await channel.get_message(timeout=CHANNEL_CHECK_S)
                if message is None:
                    if asked:
                        raise StoreUnavailable("the connection for cancels does not answer")
                    async with asking(self._channel):
                        await channel.ping()
                elif message["type"] == "subscribe":
                    yield None
                elif message["type"] == "message":
                    yield message["data"].decode()
                asked = message is None

    async def _look(self, call: Callable[[], Awaitable[_T]]) -> _T:
        async with asking(self._looks, self._look_s):
            return await call()
