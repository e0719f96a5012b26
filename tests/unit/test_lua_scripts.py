"""The Lua scripts and their table: names of arguments, keys of one side, and what a script answers with."""

import re
from enum import StrEnum
from itertools import takewhile
from pathlib import Path
from typing import Any, cast

import pytest

from tailrace.broker import keys, scripts
from tailrace.broker.script import Script, VerdictReader
from tailrace.broker.scripts import SubmitStatus

SCRIPTS: list[Script[Any]] = [value for value in vars(scripts).values() if isinstance(value, Script)]
LUA = Path(scripts.__file__).parent / "lua"
_OF_A_REQUEST = {"rec", "log"}


def test_every_script_works_on_one_side() -> None:
    # given that the queue may be on another server than records and logs, expect no script with keys of both
    assert len(SCRIPTS) > 15
    mixed = [script.name for script in SCRIPTS if _OF_A_REQUEST & set(script.keys) and set(script.keys) - _OF_A_REQUEST]
    assert mixed == []


def test_every_lua_file_is_in_the_table() -> None:
    assert {path.stem for path in LUA.glob("[!_]*.lua")} == {script.name for script in SCRIPTS}


@pytest.mark.parametrize("path", sorted(LUA.glob("*.lua")), ids=lambda path: path.stem)
def test_a_lua_file_names_no_key_and_no_argument_by_its_place(path: Path) -> None:
    text = path.read_text()
    assert re.findall(r"(?:KEYS|ARGV)\s*\[", text) == []
    assert re.findall(r"['\"](?:tr|arq):[^'\"]*", text) == []


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda script: script.name)
def test_a_script_says_at_its_head_what_its_table_says(script: Script[Any]) -> None:
    # given a Lua file's first lines, `KEYS ... ARGV ... -> ...` / expect the keys, arguments and statuses of the table
    text = (LUA / f"{script.name}.lua").read_text()
    head = " ".join(line.removeprefix("--").strip() for line in takewhile(_is_comment, text.splitlines()))
    said = re.search(r"KEYS (.*?)\s+ARGV (.*?) -> (.*)", re.sub(r"\([^)]*\)", "", head))
    assert said is not None
    assert tuple(said[1].split()) == script.keys
    assert tuple(said[2].split()) == script.args
    if isinstance(script.read, VerdictReader):
        reader = cast("VerdictReader[StrEnum]", script.read)  # pyright: ignore[reportUnknownMemberType]
        statuses = {str(status) for status in reader.statuses}
        assert statuses <= set(re.findall(r"\w+", said[3]))
        assert statuses == {found for found in re.findall(r"'(\w+)'", text) if found in statuses}


def _is_comment(line: str) -> bool:
    return line.startswith(("--", "#!"))


def test_the_source_of_a_script_begins_with_the_names_of_its_keys_and_arguments() -> None:
    text = scripts.NEXT_ATTEMPT.text
    assert "\nlocal lease, state = KEYS[1], KEYS[2]\nlocal token, above = ARGV[1], ARGV[2]\n" in text
    assert f"local STATE_LIFE_S = {keys.QUEUE_STATE_LIFETIME_S}\n" in text
    assert "local function rec_key(id) return 'tr:{' .. id .. '}:rec' end\n" in scripts.UNQUEUE.text
    assert scripts.FINISH.text.startswith("#!lua flags=allow-oom\n")


def test_a_script_is_called_by_name_only() -> None:
    named = {"terminal": "t", "outcome": "o"}
    assert scripts.CANCEL.call("one", **dict(reversed(named.items()))) == (
        [keys.rec_key("one"), keys.log_key("one")],
        ["one", "t", "o", 0],
    )
    for wrong in ({**named, "more": "x"}, {"terminal": "t"}):
        with pytest.raises(TypeError, match="cancel takes"):
            scripts.CANCEL.call("one", **wrong)


def test_a_verdict_is_read_and_an_unknown_status_is_not() -> None:
    verdict = scripts.SUBMIT.read([b"exists", b"status", b"running"])
    assert (verdict.status, verdict.text("status")) == (SubmitStatus.EXISTS, "running")
    with pytest.raises(ValueError, match="'maybe' is not a valid SubmitStatus"):
        scripts.SUBMIT.read([b"maybe"])
