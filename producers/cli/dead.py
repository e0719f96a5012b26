"""The command `dead`: list, show, retry and drop what died. Reads arguments and prints."""

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
        description="Look after requests that could not be run: unreadable, expired, of an unknown function, or deadly "
        "to their workers.\nThey stay in the list for a week, the newest 1,000.\n"
        "retry submits the same content as a new request, which names the old one, and prints its id.",
        example="tailrace dead list\ntailrace dead show 0f6e2c9d\ntailrace dead retry 0f6e2c9d",
    )
    parser.add_argument("verb", choices=("list", "show", "retry", "drop"))
    parser.add_argument("id", nargs="?", help="which one; for show, retry and drop")
    parser.add_argument("--all", action="store_true", help="every one in the list; for retry and drop")
    parser.add_argument("--json", action="store_true", help="one JSON object a line")
    given = parser.parse_args(argv)
    if given.verb == "list" and (given.id is not None or given.all):
        parser.error("list shows all of them: give neither ID nor --all")
    if given.verb == "show" and (given.id is None or given.all):
        parser.error("show needs the ID of one")
    if given.verb in ("retry", "drop") and (given.id is None) != given.all:
        parser.error(f"{given.verb} needs either the ID of one or --all")

    import asyncio

    return asyncio.run(_ask(given.verb, given.id, given.json))


async def _ask(verb: str, job_id: str | None, as_json: bool) -> int:
    from tailrace.producers.client import Client
    from tailrace.schemas.settings import Settings

    async with await Client.from_settings(Settings.from_environment(os.environ)) as client:
        if verb == "list":
            for letter in await client.dead.list():
                _print_letter(letter, as_json)
            return 0
        if verb == "show" and job_id is not None:
            _print_whole(*await client.dead.show(job_id), as_json)
            return 0
        ids = [letter.id for letter in await client.dead.list()] if job_id is None else [job_id]
        return await _each(verb, client.dead, ids, one=job_id is not None, as_json=as_json)


async def _each(verb: str, letters: "DeadLetters", ids: list[str], *, one: bool, as_json: bool) -> int:
    """Of several, those that can be retried are; the others are named on stderr."""
    from tailrace.schemas.errors import RequestRejected, UnknownRequest

    failed = 0
    for job_id in ids:
        try:
            if verb == "drop":
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
    counts = f"{letter.failures} failures, {letter.crashes} crashes"
    print(_visible(f"{letter.died_at}  {letter.id}  {letter.error.code}  {counts}  {letter.error.message}"))


def _print_whole(letter: "DeadLetter", content: "DeadLetterContent", as_json: bool) -> None:
    import msgspec

    if as_json:
        _print_json({**msgspec.structs.asdict(letter), **msgspec.structs.asdict(content)})
        return
    error = letter.error
    told = {**msgspec.structs.asdict(letter), "error": f"{error.code}: {error.message} ({error.whose}'s move)"}
    for name, value in told.items():
        if value is not None:
            print(f"{name.replace('_', ' '):<16} {_visible(str(value))}")
    if content.request is not None:
        print(f"{'request':<16} {_visible(json.dumps(content.request, ensure_ascii=False))}")
    if content.envelope is not None:
        print(f"{'envelope':<16} {content.envelope[:_BYTES_SHOWN]!r}")


def _print_json(value: object) -> None:
    """JSON is UTF-8 (RFC 8259), whatever the terminal's encoding is."""
    import msgspec

    sys.stdout.buffer.write(msgspec.json.encode(value) + b"\n")
    sys.stdout.buffer.flush()


def _visible(line: str) -> str:
    """What others wrote, fit for a terminal."""
    from tailrace.producers.cli.show import visible

    return visible(line, sys.stdout.encoding)
