"""The command `dead`: lists, shows, retries and drops dead letters. Reads arguments and prints."""

import json
import os
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING

from tailrace.command_line import CommandParser

if TYPE_CHECKING:
    from tailrace.producers.queue.dead_letters import DeadLetter, DeadLetterContent, DeadLetters

_BYTES_SHOWN = 2_000


def dead(argv: Sequence[str]) -> int:
    """`tailrace dead`: the dead-letter list."""
    parser = CommandParser(
        "dead",
        description="Manage dead letters: requests that could not be run because they were unreadable, expired, for\n"
        "an unknown function, or crashed their workers. The newest 1,000 are kept, each for a week.\n"
        "retry submits the same content as a new request, which refers to the old one, and prints its id.",
        example="tailrace dead list\ntailrace dead show 0f6e2c9d\n"
        "tailrace dead retry 0f6e2c9d\ntailrace dead drop --all",
    )
    parser.add_argument("action", choices=("list", "show", "retry", "drop"), help="what to do")
    parser.add_argument("id", nargs="?", help="for show, retry and drop: the request's id")
    parser.add_argument("--all", action="store_true", help="for retry and drop: all dead letters")
    parser.add_argument("--json", action="store_true", help="print one JSON object per line")
    given = parser.parse_args(argv)
    if given.action == "list" and (given.id is not None or given.all):
        parser.error("list takes neither ID nor --all")
    if given.action == "show" and (given.id is None or given.all):
        parser.error("show takes one ID")
    if given.action in ("retry", "drop") and (given.id is None) != given.all:
        parser.error(f"{given.action} takes either one ID or --all")

    import asyncio

    return asyncio.run(_run_action(given.action, given.id, given.json))


async def _run_action(action: str, job_id: str | None, as_json: bool) -> int:
    from tailrace.producers.client import Client
    from tailrace.schemas.settings import Settings

    async with Client.from_settings(Settings.from_environment(os.environ)) as client:
        if action == "list":
            for letter in await client.dead.list():
                _print_letter(letter, as_json)
            return 0
        if action == "show" and job_id is not None:
            _print_contents(*await client.dead.show(job_id), as_json)
            return 0
        ids = [letter.id for letter in await client.dead.list()] if job_id is None else [job_id]
        return await _for_each(action, client.dead, ids, one=job_id is not None, as_json=as_json)


async def _for_each(action: str, letters: "DeadLetters", ids: list[str], *, one: bool, as_json: bool) -> int:
    """Retries or drops the letters. With several, a failure is printed to stderr and the others continue."""
    from tailrace.schemas.errors import RequestRejected, UnknownRequest

    failed = 0
    for job_id in ids:
        try:
            if action == "drop":
                await letters.drop(job_id)
                continue
            submitted = await letters.retry(job_id)
        except (RequestRejected, UnknownRequest) as error:
            if one:
                raise
            failed += 1
            print(f"tailrace dead: {_visible(str(error))}", file=sys.stderr)
        else:
            print(json.dumps({"id": submitted.id, "retry_of": job_id}) if as_json else submitted.id)
    return 1 if failed else 0


def _print_letter(letter: "DeadLetter", as_json: bool) -> None:
    if as_json:
        _print_json(letter)
        return
    counts = f"failures: {letter.failures}, crashes: {letter.crashes}"
    print(_visible(f"{letter.died_at}  {letter.id}  {letter.error.code}  {counts}  {letter.error.message}"))


def _print_contents(letter: "DeadLetter", content: "DeadLetterContent", as_json: bool) -> None:
    import msgspec

    if as_json:
        _print_json({**msgspec.structs.asdict(letter), **msgspec.structs.asdict(content)})
        return
    error = letter.error
    shown = {**msgspec.structs.asdict(letter), "error": f"{error.code}: {error.message} (action: {error.whose})"}
    for name, value in shown.items():
        if value is not None:
            print(f"{name.replace('_', ' '):<16} {_visible(str(value))}")
    if content.request is not None:
        print(f"{'request':<16} {_visible(json.dumps(content.request, ensure_ascii=False))}")
    if content.envelope is not None:
        print(f"{'envelope':<16} {content.envelope[:_BYTES_SHOWN]!r}")


def _print_json(value: object) -> None:
    """Prints JSON as UTF-8 (RFC 8259), whatever the terminal's encoding is."""
    import msgspec

    sys.stdout.buffer.write(msgspec.json.encode(value) + b"\n")
    sys.stdout.buffer.flush()


def _visible(line: str) -> str:
    """Untrusted text, safe for a terminal."""
    from tailrace.producers.cli.show import visible

    return visible(line, sys.stdout.encoding)
