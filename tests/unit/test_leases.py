"""When a lease is lost, and when it is merely given up."""

from collections.abc import AsyncIterator, Sequence
from time import monotonic

import pytest

from tailrace.worker.queue.leases import Lease, Leases, Stop

OWNER = "of-worker-1"


class Gone:
    """A server that knows none of the leases, as after an acknowledgement whose answer is still on its way."""

    async def renew(self, leases: Sequence[Lease]) -> frozenset[str]:
        return frozenset(lease.request_id for lease in leases)

    async def asked_to_cancel(self, leases: Sequence[Lease]) -> frozenset[str]:
        return frozenset()

    async def cancels(self) -> AsyncIterator[str | None]:
        yield None


async def no_next_attempt(_lease: Lease, above: int) -> int:
    return above + 1


@pytest.mark.parametrize("is_parting", [False, True], ids=["running", "parting"])
async def test_who_gives_a_lease_up_has_not_lost_it(is_parting: bool) -> None:
    # given a renewal that overtakes the answer to an acknowledgement, expect no loss; of a lease whose job runs, one
    gone = Gone()
    leases = Leases(gone, gone, lease_s=5.0)
    lease = Lease("r", attempt=1, token=OWNER, why="first", crashes=0, ends_at=monotonic() + 5.0, mint=no_next_attempt)
    leases.add(lease)
    lease.is_parting = is_parting
    await leases.renew()
    assert leases.lost == (0 if is_parting else 1)
    assert lease.stopped.done() is not is_parting
    assert is_parting or lease.stopped.result() is Stop.LEASE_LOST
