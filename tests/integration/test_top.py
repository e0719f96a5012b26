"""`tailrace top` on a real queue: driven by keys, and once in a real terminal."""

import asyncio
import fcntl
import os
import pty
import struct
import sys
import termios
from contextlib import suppress
from pathlib import Path

from textual.pilot import Pilot
from textual.widgets import Label, TextArea

from tailrace.demo.valkey import EmbeddedValkey
from tailrace.producers.cli.top.app import Confirm, Table, Top
from tailrace.producers.cli.top.follow import Follow
from tailrace.producers.client import Client
from tailrace.producers.options import ClientOptions
from tests.queue_rig import plain_client
from tests.rig import rig
from tests.until import until

TAILRACE = Path(sys.executable).with_name("tailrace")
SLOW = {"steps": [{"kind": "text", "chunks": 2000}], "pace": {"chunks_per_s": 20}}
HOSTILE = "\x1b]0;owned\x07[bold]loud[/bold]"
SIZE = (150, 45)


def cells(app: Top, table_id: str) -> list[list[str]]:
    table = app.query_one(f"#{table_id}", Table)
    return [[str(cell) for cell in table.get_row_at(row)] for row in range(table.row_count)]


def toasts(app: Top) -> list[str]:
    return [str(toast.render()) for toast in app.screen.query("Toast")]


async def press_until(pilot: Pilot[None], key: str, kind: type) -> None:
    await pilot.press(key)
    await until(lambda: isinstance(pilot.app.screen, kind))


async def test_a_request_is_shown_followed_and_cancelled(redis_url: str) -> None:
    # Enter on the row of a running request shows its text. The keys c and y cancel it; c and n do not.
    async with rig(redis_url) as at:
        request_id = await at.submit(SLOW, tenant=None)
        app = Top(at.client, every_s=0.2)
        async with app.run_test(size=SIZE, notifications=True) as pilot:
            await until(lambda: [row[0] for row in cells(app, "runs")] == [request_id])
            await until(lambda: float(cells(app, "runs")[0][4]) > 1)
            await press_until(pilot, "enter", Follow)
            text = app.screen.query_one(TextArea)
            await until(lambda: "[text]" in text.text and len(text.text) > 20)
            await press_until(pilot, "c", Confirm)
            await press_until(pilot, "n", Follow)
            await press_until(pilot, "escape", type(app.screen_stack[0]))
            assert (await at.client.status(request_id)).status == "running"
            await press_until(pilot, "c", Confirm)
            await pilot.press("y")
            assert (await at.outcome(request_id)).status == "cancelled"
            await until(lambda: not cells(app, "runs"))
            await until(lambda: toasts(app) == [f"{request_id}: its worker was asked to stop"])
            await pilot.press("c")
            await until(lambda: len(toasts(app)) == 2)
            another = await at.submit(SLOW)
            await until(lambda: [row[0] for row in cells(app, "runs")] == [another])  # so it has refreshed meanwhile
            assert toasts(app)[1] == "select a request in progress first"


async def test_dead_letters_are_listed_and_untrusted_text_is_plain(redis_url: str) -> None:
    # The id of this job contains terminal escapes and markup. It is shown as plain text.
    async with rig(redis_url) as at:
        async with plain_client(redis_url) as arq:
            await arq.enqueue_job("no_such_function", _job_id=HOSTILE)
        app = Top(at.client, every_s=0.2)
        async with app.run_test(size=SIZE):
            await until(lambda: bool(cells(app, "dead")))
            (letter,) = cells(app, "dead")
            assert letter[1] == "\\x1b]0;owned\\x07[bold]loud[/bold]"
            assert app.query_one("#dead", Table).display


async def test_pause_stops_refreshing_and_an_unreachable_redis_is_reported() -> None:
    # A paused screen does not refresh until it is resumed. While Redis is unreachable, a note says so.
    with EmbeddedValkey() as valkey:
        async with Client(valkey.url, ClientOptions(timeout_s=1.0)) as client:
            app = Top(client, every_s=0.2)
            async with app.run_test(size=SIZE) as pilot:
                summary, note = app.query_one("#summary", Label), app.query_one("#note", Label)
                await until(lambda: "waiting 0" in str(summary.render()))
                await pilot.press("p")
                await client.submit({"model": "m", "messages": [{"role": "user", "content": "x"}]})
                assert "paused" in str(note.render())
                assert "waiting 0" in str(summary.render())
                await pilot.press("p")
                await until(lambda: "waiting 1" in str(summary.render()))
                await asyncio.to_thread(valkey.stop)
                await until(lambda: note.display and "cannot refresh" in str(note.render()))
                await asyncio.to_thread(valkey.start)
                await until(lambda: not note.display)
                await pilot.press("q")
            assert app.return_code == 0


async def test_the_command_needs_a_terminal(redis_url: str) -> None:
    # In a terminal the screen opens and q ends it. Without a terminal one line refers to `tailrace stats`.
    environment = {"PATH": os.environ["PATH"], "TAILRACE_REDIS_URL": redis_url, "TERM": "xterm-256color"}
    ours, theirs = pty.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 40, 140, 0, 0))
    program = await asyncio.create_subprocess_exec(
        *(TAILRACE, "top"), stdin=theirs, stdout=theirs, stderr=theirs, env=environment, start_new_session=True
    )
    os.close(theirs)
    os.set_blocking(ours, False)
    seen = bytearray()

    def drawn() -> bool:
        with suppress(BlockingIOError, OSError):
            seen.extend(os.read(ours, 65_536))
        return b"waiting 0" in seen

    try:
        await until(drawn)
        os.write(ours, b"q")

        def ended() -> bool:
            drawn()
            return program.returncode is not None

        await until(ended)
        assert program.returncode == 0
    finally:
        os.close(ours)
        if program.returncode is None:
            program.kill()
            await program.wait()
    piped = await asyncio.create_subprocess_exec(
        *(TAILRACE, "top"), env=environment, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE
    )
    _, printed = await piped.communicate()
    assert piped.returncode == 1
    assert printed.count(b"\n") == 1
    assert b"tailrace stats" in printed
