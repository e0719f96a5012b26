"""The tables of `tailrace top`."""

import pytest
from msgspec.structs import replace

from tailrace.producers.cli.top import rows
from tailrace.producers.queue.overview import Overview, Run, SeenWorker, WaitingLane
from tailrace.schemas.worker_report import WorkerReport


def a_run(entries: int, *, attempt: int = 1, per_s: float = 5.0, model: str = "m") -> Run:
    return Run(
        id="r",
        state="running",
        attempt=attempt,
        model=model,
        tenant=None,
        priority="normal",
        age_s=1.0,
        running_s=1.0,
        entries=entries,
        entries_per_s=per_s,
        failures=0,
        crashes=0,
    )


def an_overview(at_ms: int, *runs: Run) -> Overview:
    worker = SeenWorker(
        name="w",
        silent_s=20.0,
        is_silent=True,
        report=WorkerReport(
            host="h",
            pid=1,
            up_s=1.0,
            max_jobs=10,
            running=3,
            starts=1,
            starts_per_s=0.5,
            renewed_ago_s=61.0,
            draining=False,
        ),
    )
    return Overview(
        at_ms=at_ms,
        waiting=2,
        oldest_s=75.0,
        deferred=0,
        begun=len(runs),
        dead=0,
        lanes=[WaitingLane("high", None, 2, 75.0)],
        workers=[worker],
        runs=list(runs),
    )


def test_the_rate_is_computed_between_two_refreshes_of_one_attempt() -> None:
    # The first refresh shows the attempt's average, the second the rate since the first. A new attempt begins with its
    # average again.
    rates = rows.Rates()
    found: list[float] = []
    for at_ms, run in (
        (1_000, a_run(10)),
        (3_000, a_run(50)),
        (4_000, a_run(3, attempt=2, per_s=7.0)),
        (4_000, a_run(3, attempt=2, per_s=8.0)),
    ):
        rates.update(an_overview(at_ms, run))
        found.append(rates.entries_per_s(run))
    assert found == [5.0, 20.0, 7.0, 8.0]


def test_the_summary_shows_what_operators_need() -> None:
    rates = rows.Rates()
    look = replace(an_overview(1_000, a_run(10)), outbox=0, outbox_refused=3)
    rates.update(look)
    line = rows.summary(look, rates)
    assert "outbox" not in line
    for part in (
        "rejected by the database 3",
        "workers 1, 1 silent",
        "slots 3 of 10",
        "waiting 2, oldest 1m15s",
        "deltas/s 5",
    ):
        assert part in line


def test_untrusted_text_is_escaped_and_truncated() -> None:
    # A model name with escapes, line ends and 10,000 characters becomes one bounded line without control characters.
    (row,) = rows.runs([a_run(1, model="\x1b[2J\r\n" + "x" * 10_000)], rows.Rates())
    model = row.cells[rows.RUN_COLUMNS.index("model")]
    assert model.startswith("\\x1b[2J\\x0d x")
    assert len(model) == rows.CELL_MAX


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0, "0.0s"),
        (59.94, "59.9s"),
        (60, "1m00s"),
        (3_599.9, "59m59s"),
        (3_600, "1h00m"),
        (352_900, "4d02h"),
    ],
)
def test_durations(seconds: float, text: str) -> None:
    assert rows.age(seconds) == text


def test_each_table_has_as_many_cells_as_columns() -> None:
    look = an_overview(1_000, a_run(1))
    assert [len(row.cells) for row in rows.workers(look.workers)] == [len(rows.WORKER_COLUMNS)]
    assert [len(row.cells) for row in rows.lanes(look.lanes)] == [len(rows.LANE_COLUMNS)]
    assert [len(row.cells) for row in rows.runs(look.runs, rows.Rates())] == [len(rows.RUN_COLUMNS)]
