"""A Redis Cluster of three real nodes on the loopback, each with a third of the slots."""

from collections.abc import AsyncGenerator, Sequence
from contextlib import ExitStack, asynccontextmanager
from types import MappingProxyType

from redis.asyncio import Redis

from tailrace.broker.keys import log_key, rec_key
from tailrace.broker.slots import SLOTS, slot_of
from tailrace.demo.valkey import EmbeddedValkey
from tests.tls_rig import free_port
from tests.until import until

NODES = 3
START_S = 30.0
OPTIONS = MappingProxyType(
    {"cluster-enabled": "yes", "cluster-require-full-coverage": "no", "cluster-node-timeout": "2000"}
)


class Cluster:
    """A running cluster."""

    def __init__(self, nodes: Sequence[EmbeddedValkey]) -> None:
        self.nodes = nodes

    @property
    def url(self) -> str:
        """Names a node that does not exist, and then all nodes."""
        return self.url_as("")

    def url_as(self, user: str) -> str:
        """The same URL with user and password, such as `a:b@`."""
        return f"redis+cluster://{user}" + ",".join(
            f"127.0.0.1:{port}" for port in (1, *(node.port for node in self.nodes))
        )

    def first_owner(self, request_id: str) -> EmbeddedValkey:
        """The node that had a request's slot at the start."""
        return self.nodes[slot_of(log_key(request_id).encode()) * NODES // SLOTS]

    async def move(self, request_id: str, to: EmbeddedValkey, *, record_first: bool = False) -> AsyncGenerator[None]:
        """Moves the slot of a request as an operator would; yields before each key and before the slot changes owner.

        The log moves before the record, unless `record_first`.
        """
        slot, source = slot_of(log_key(request_id).encode()), self.first_owner(request_id)
        assert to.ask(f"CLUSTER SETSLOT {slot} IMPORTING {await _name(source)}") == "+OK"
        assert source.ask(f"CLUSTER SETSLOT {slot} MIGRATING {await _name(to)}") == "+OK"
        keys = (log_key(request_id), rec_key(request_id))
        for key in reversed(keys) if record_first else keys:
            yield
            assert source.ask(f"MIGRATE 127.0.0.1 {to.port} {key} 0 5000") == "+OK"
        yield
        for node in (to, source):
            assert node.ask(f"CLUSTER SETSLOT {slot} NODE {await _name(to)}") == "+OK"

    @asynccontextmanager
    async def replica_of(self, node: EmbeddedValkey) -> AsyncGenerator[EmbeddedValkey]:
        """Runs a replica of a node, until it has copied everything."""
        bus = free_port()
        with EmbeddedValkey(options={**OPTIONS, "cluster-port": str(bus)}) as replica:
            assert self.nodes[0].ask(f"CLUSTER MEET 127.0.0.1 {replica.port} {bus}") == "+OK"
            name = await _name(node)
            await until(lambda: replica.ask(f"CLUSTER REPLICATE {name}") == "+OK", START_S)
            async with Redis(port=replica.port) as redis:

                async def follows() -> bool:
                    return (await redis.info("replication")).get("master_link_status") == "up"

                await until(follows, START_S)
            yield replica


@asynccontextmanager
async def cluster(*, appendonly: bool = False) -> AsyncGenerator[Cluster]:
    """Runs a cluster until every node reports it as complete. Nodes keep serving their slots when others are down."""
    buses = [free_port() for _ in range(NODES)]
    with ExitStack() as stack:
        nodes = [
            stack.enter_context(EmbeddedValkey(appendonly=appendonly, options={**OPTIONS, "cluster-port": str(bus)}))
            for bus in buses
        ]
        for number, node in enumerate(nodes):
            first, last = -(-SLOTS * number // NODES), -(-SLOTS * (number + 1) // NODES) - 1
            assert node.ask(f"CLUSTER ADDSLOTSRANGE {first} {last}") == "+OK"
            assert node.ask(f"CLUSTER SET-CONFIG-EPOCH {number + 1}") == "+OK"
        for node, bus in zip(nodes, buses, strict=True):
            assert nodes[0].ask(f"CLUSTER MEET 127.0.0.1 {node.port} {bus}") == "+OK"
        for node in nodes:
            await until(lambda node=node: _is_complete(node), START_S)
        yield Cluster(nodes)


async def _is_complete(node: EmbeddedValkey) -> bool:
    async with Redis(port=node.port) as redis:
        info = await redis.execute_command("CLUSTER INFO")
    wanted = {"cluster_state": "ok", "cluster_slots_ok": str(SLOTS), "cluster_known_nodes": str(NODES)}
    return info.items() >= wanted.items()


async def _name(node: EmbeddedValkey) -> str:
    async with Redis(port=node.port) as redis:
        return (await redis.execute_command("CLUSTER MYID")).decode()
