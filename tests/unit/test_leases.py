"""When a lease counts as lost."""

from collections.abc import AsyncIterator, Sequence
from time import monotonic

import pytest

from tailrace.worker.queue.leases import Lease, Leases, Stop

OWNER = "of-worker-1"


class WithoutLeases:
    """A server that has none of the leases, as after an acknowledgement whose reply is still on its way."""

    async def renew(self, leases: Sequence[Lease]) -> frozenset[str]:
        return frozenset(lease.request_id for lease in leases)

    async def asked_to_cancel(self, leases: Sequence[Lease]) -> frozenset[str]:
        return frozenset()

    async def cancels(self) -> AsyncIterator[str | None]:
        yield None


async def no_next_attempt(_lease: Lease, above: int) -> int:
    return above + 1


@pytest.mark.parametrize("is_ending", [False, True], ids=["running", "ending"])
async def test_only_the_lease_of_a_running_job_is_lost(is_ending: bool) -> None:
    # given a server without the lease, if it is renewed, expect it lost only while its job is not being ended
    server = WithoutLeases()
    leases = Leases(server, server, lease_s=5.0)
    lease = Lease("r", attempt=1, token=OWNER, why="first", crashes=0, ends_at=monotonic() + 5.0, mint=no_next_attempt)
    leases.add_lease(lease)
    lease.is_ending = is_ending
    await leases.renew()
    assert leases.lost == (0 if is_ending else 1)
    assert lease.stopped.done() is not is_ending
    assert is_ending or lease.stopped.result() is Stop.LEASE_LOST
