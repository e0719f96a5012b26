"""What handing a log over to another node does to the map of slots and to the confirmation of its attempt."""

import pytest

from tailrace.broker.cluster import Nodes, Redirect
from tailrace.broker.slots import slot_of
from tailrace.schemas.redis_url import Node
from tailrace.worker.observe.counts import Counts
from tailrace.worker.publish.cluster_node import ClusterNode
from tailrace.worker.publish.log_buffer import ByteCount, LogBuffer
from tailrace.worker.publish.log_writer import Backlog, LogWriter

HERE: Node = ("10.0.0.1", 6379)
THERE: Node = ("10.0.0.2", 6379)


@pytest.mark.parametrize("asking", [True, False], ids=["ASK", "MOVED"])
@pytest.mark.parametrize("is_confirmed", [True, False])
def test_a_slot_that_is_moving_keeps_its_place_and_its_confirmation(asking: bool, is_confirmed: bool) -> None:
    # given ASK, expect the map unchanged; given MOVED, expect the new node in the map, and asked for the attempt
    nodes = Nodes("redis+cluster://10.0.0.1:6379", connect_s=1.0, reply_s=1.0)
    buffer = LogBuffer("r1", 1, "owner", max_entries=10, max_bytes=1000, total=ByteCount())
    writer = LogWriter(buffer, Backlog(1000, 1000, Counts()), lambda: True)
    slot = slot_of(buffer.key)
    nodes.moved(Redirect(slot, HERE, asking=False))
    adopted: list[tuple[Node, LogWriter, bool]] = []

    def adopt(to: Node, moved: LogWriter, confirmed: bool) -> None:
        adopted.append((to, moved, confirmed))

    node = ClusterNode(HERE, nodes, adopt)
    node.hand_over(writer, Redirect(slot, THERE, asking=asking), is_confirmed=is_confirmed)
    assert nodes.of(slot) == (HERE if asking else THERE)
    assert buffer.asking is asking
    assert adopted == [(THERE, writer, is_confirmed and asking)]
