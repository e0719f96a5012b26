"""The fault campaign: real workers, a real Valkey behind proxies, real signals; the checker judges its history.

`CAMPAIGN=long` runs the long one, `CAMPAIGN_SEED=n` the plan of that seed, `CAMPAIGN_FSYNC=everysec` a server that
writes to disk once a second (docs/testing.md).
"""

import os
import secrets
import time
from pathlib import Path

import msgspec
import pytest

from tests.fault.campaign import checker, driver, history, summary
from tests.fault.campaign.plan import FORMS, Form, Plan, make_plan

REPORTS = Path(__file__).parents[2] / ".reports"
SHOWN = 20


def chosen_form() -> Form:
    """The form that `CAMPAIGN` and `CAMPAIGN_FSYNC` choose."""
    name, fsync = os.environ.get("CAMPAIGN") or "short", os.environ.get("CAMPAIGN_FSYNC") or "always"
    if name not in FORMS or fsync not in ("always", "everysec"):
        pytest.fail(f"CAMPAIGN={name}, CAMPAIGN_FSYNC={fsync}: choose {', '.join(FORMS)}; always or everysec")
    return msgspec.structs.replace(FORMS[name], fsync=fsync)


def replay_line(plan: Plan) -> str:
    """The command that repeats this campaign."""
    return f"CAMPAIGN={plan.form.name} CAMPAIGN_FSYNC={plan.form.fsync} CAMPAIGN_SEED={plan.seed} make fault"


async def test_a_campaign_breaks_no_promise(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    # given a plan drawn from a seed, if it runs on real parts, expect no violation
    plan = make_plan(int(os.environ.get("CAMPAIGN_SEED") or secrets.randbelow(1_000_000)), chosen_form())
    shown_at = 0.0

    def show(line: str) -> None:
        nonlocal shown_at
        if plan.form.name == "short" and time.monotonic() - shown_at < 5.0:
            return
        shown_at = time.monotonic()
        with capsys.disabled():
            print(f"  {line}", flush=True)

    with capsys.disabled():
        print(
            f"\ncampaign {plan.form.name}, {len(plan.requests)} requests, {len(plan.faults)} faults; seed {plan.seed}"
        )
    happened = await driver.run(plan, tmp_path, show)
    with capsys.disabled():
        print("\n".join(f"  {line}" for line in summary.lines(happened)))
    found = checker.check(happened)
    if found:
        REPORTS.mkdir(exist_ok=True)
        kept = REPORTS / f"campaign-{plan.form.name}-{plan.seed}.json"
        kept.write_bytes(history.dump(happened))
        pytest.fail(
            "\n".join(
                [
                    f"seed {plan.seed}: {len(found)} violations; repeat with: {replay_line(plan)}",
                    *map(str, found[:SHOWN]),
                    f"history: {kept}; logs of the parts: {tmp_path}",
                ]
            ),
            pytrace=False,
        )
