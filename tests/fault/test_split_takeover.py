"""Queue and logs on two servers, worker processes that die: the next attempt goes on."""

from tailrace.demo.simulator import Simulator
from tailrace.demo.valkey import EmbeddedValkey
from tailrace.producers.client import Client
from tailrace.producers.options import ClientOptions
from tests.fault.workers import WAIT_S, Attached, worker_process
from tests.rig import KEY, request_for
from tests.until import until

TEXT = "One word after another. " * 20
SLOW = {
    "steps": [{"kind": "text", "text": TEXT}],
    "pace": {"chunks_per_s": 40.0},
    "key": "split-takeover",
    "faults": [{"kind": "stall", "after": 30, "calls": 1}],  # the first answer cannot end before its worker is killed
}


async def test_a_killed_worker_is_replaced_where_queue_and_logs_are_apart(redis_url: str) -> None:
    # given a request that runs, if its worker is killed, expect its reader to see the next attempt, and its end
    with EmbeddedValkey() as queue:
        settings = {"TAILRACE_QUEUE_URL": queue.url, "TAILRACE_LOG_URL": redis_url}
        options = ClientOptions(timeout_s=2.0, quiet_log_s=0.5, queue_url=queue.url)
        async with (
            Simulator(key=KEY) as simulator,
            Client(redis_url, options) as client,
            worker_process("redis://127.0.0.1:1/0", simulator, **settings) as victim,
        ):
            request_id = (await client.submit(request_for(SLOW))).id
            reader = Attached(client, request_id)
            await until(reader.has_read(8), WAIT_S)
            async with worker_process("redis://127.0.0.1:1/0", simulator, **settings):
                victim.kill()
                await reader.to_its_end()
            assert reader.attempts == [1, 2]
            assert reader.text == TEXT
