"""The command `doctor`: prints the findings of `checks.py` and what to do about them."""

import asyncio
import json
import os
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING

from tailrace.command_line import CommandParser
from tailrace.schemas.errors import SettingsError
from tailrace.schemas.settings import Settings
from tailrace.telemetry.logging import log_to

if TYPE_CHECKING:
    from tailrace.worker.doctor.redis_checks import Finding

_WIDTH = 16


def doctor(argv: Sequence[str]) -> int:
    """`tailrace doctor`: returns 0 if no check has failed."""
    parser = CommandParser(
        "doctor",
        description="Checks settings, Redis and the model's server as a worker would use them, and says what to do.\n"
        "It changes nothing. The exit code is 1 if a check has failed.",
        example="OPENAI_API_KEY=... tailrace doctor\ntailrace doctor --json",
    )
    parser.add_argument("--json", action="store_true", help="one JSON object per line: check, level, found, advice")
    given = parser.parse_args(argv)
    return asyncio.run(_examine(as_json=given.json))


async def _examine(*, as_json: bool) -> int:
    from tailrace.worker.doctor.checks import examine
    from tailrace.worker.doctor.redis_checks import Finding

    log_to(sys.stderr)
    try:
        settings = Settings.from_environment(os.environ)
    except SettingsError as error:
        _show(Finding("settings", "failed", "cannot be used", str(error)), as_json=as_json)
        return 1
    failed = 0
    async for finding in examine(settings, os.environ):
        _show(finding, as_json=as_json)
        failed += finding.level == "failed"
    return 1 if failed else 0


def _show(finding: "Finding", *, as_json: bool) -> None:
    if as_json:
        print(json.dumps(finding._asdict(), ensure_ascii=False), flush=True)
        return
    print(f"{finding.level:<7} {finding.check:<{_WIDTH}} {' '.join(finding.found.split())}", flush=True)
    if finding.advice:
        print(f"        {'':<{_WIDTH}} -> {' '.join(finding.advice.split())}", flush=True)
