"""The node of a cluster that a publisher writes to.

Owns how a log moves from one node's publisher to another's. Knows the map of slots, and nothing of commits.
"""

from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass

from redis.exceptions import RedisError

from tailrace.broker.cluster import Nodes, Redirect
from tailrace.broker.slots import slot_of
from tailrace.schemas.redis_url import Node
from tailrace.worker.publish.log_buffer import LogBuffer
from tailrace.worker.publish.log_writer import LogWriter


@dataclass(frozen=True)
class ClusterNode:
    """One node of a cluster, and how to hand writers to the others.

    Attributes:
        address: that of the node.
        nodes: the map of slots.
        adopt: lets the publisher of another node continue with a writer; the last argument is whether its attempt is
            confirmed.
    """

    address: Node
    nodes: Nodes
    adopt: Callable[[Node, LogWriter, bool], None]

    async def learn_slots(self) -> None:
        """Asks for a new map of slots; if that fails, the old one stays."""
        with suppress(RedisError):
            await self.nodes.learn()

    def redirect(self, log: LogBuffer) -> Redirect | None:
        """The node that has a log by the map, if it is another one."""
        slot = slot_of(log.key)
        node = self.nodes.of(slot)
        return None if node is None or node == self.address else Redirect(slot, node, asking=False)

    def hand_over(self, writer: LogWriter, redirect: Redirect, *, is_confirmed: bool) -> None:
        """Gives a writer to the publisher of the node that has its log.

        Args:
            writer: with entries that are not sent.
            redirect: the redirect to that node.
            is_confirmed: whether the attempt is known to be the current one. `MOVED` may come from a node that was the
                primary until now, so after it the new primary has to confirm the attempt in any case.
        """
        writer.buffer.asking = redirect.asking
        if not redirect.asking:
            self.nodes.moved(redirect)
        self.adopt(redirect.node, writer, is_confirmed and redirect.asking)
