"""From figures to the page: tables, charts and pictures say what was measured, and touch nothing else."""

from pathlib import Path
from xml.etree import ElementTree

import msgspec
import pytest

from bench.__main__ import BENCHES
from bench.charts import CHARTS, Chart, Drawn, drawn
from bench.figures import Beside, Figure
from bench.plot import DOCS, picture, read, write
from bench.tables import SHOWN_ROWS, filled, folded, number, table

PAGE = """# Benchmarks
<!-- figures of worker -->
old
<!-- end of figures -->
between
<!-- figures of tails -->
kept
<!-- end of figures -->
"""


def _figure(case: str, value: float, beside: Beside | None = None, **more: str | bool) -> Figure:
    ratio = value / beside.value if beside else None
    return msgspec.convert(
        {"bench": "worker", "case": case, "what": "tailrace worker, CPU", "value": value, "unit": "us/delta"}
        | {"beside": msgspec.to_builtins(beside) if beside else None, "ratio": ratio, **more},
        Figure,
    )


FIGURES = [
    _figure("1 answers, 50/s each", 602.61, Beside("naive", 1204.0), expected="<= 213.4", met=False),
    _figure("1 answers, 50/s each", 602.61, Beside("floor", 142.0), expected="<= 213.4", met=False),
    _figure("50 answers, 50/s each", 12345.6, bounded=True, note="a|b"),
]


def test_a_figure_is_one_row_with_all_its_peers() -> None:
    # given a figure in two lines, a peer in each, and one alone, if a table is made, expect two rows
    assert table(FIGURES).splitlines()[2:] == [
        "| 1 answers, 50/s each | tailrace worker, CPU | 603 us/delta | naive: 1,200 (0.501); floor: 142 (4.24)"
        " | ≤ 213: missed |",
        "| 50 answers, 50/s each | tailrace worker, CPU (a\\|b) | > 12,300 us/delta |  |  |",
    ]


def test_only_a_long_table_is_folded() -> None:
    # given tables of few and of many rows, if they are to be shown, expect the long one behind a line that counts them
    short = table(FIGURES)
    many = table([_figure(f"{number} answers", 1.0) for number in range(SHOWN_ROWS + 1)])
    assert folded(short) == short
    assert folded(many).startswith(f"<details><summary>{SHOWN_ROWS + 1} results</summary>\n\n| case |")


def test_numbers_are_short() -> None:
    # given values of any size, if they are shown, expect three digits that count
    assert [number(value) for value in (0.0012345, 1.0, 99.96, 213.4, 139300.0)] == [
        "0.00123", "1", "100", "213", "139,000",
    ]  # fmt: skip


def test_a_chart_has_a_series_for_ours_and_each_peer() -> None:
    # given figures of which some belong into a chart, if it is made, expect its groups and series, with gaps
    chart = Chart("worker-cpu", "worker", "CPU", "tailrace worker, CPU", "(.*) each")
    assert drawn(chart, FIGURES) == Drawn(
        ["1 answers, 50/s", "50 answers, 50/s"],
        {"tailrace worker, CPU": [602.61, 12345.6], "naive": [1204.0, None], "floor": [142.0, None]},
    )
    assert drawn(chart._replace(bench="tails"), FIGURES) is None


def test_a_picture_stands_alone_and_is_the_same_each_time() -> None:
    # given a chart, if it is drawn twice, expect the same SVG, with its words, and nothing fetched from elsewhere
    shown = drawn(CHARTS[0]._replace(bench="worker", what=".*"), FIGURES)
    assert shown is not None
    svg = picture(CHARTS[0], shown)
    assert svg == picture(CHARTS[0], shown)
    words = "".join(ElementTree.fromstring(svg).itertext())  # noqa: S314 -- made here
    assert all(word in words for word in (CHARTS[0].title, "naive", "floor", "1,200"))
    assert "<script" not in svg
    assert "href" not in svg


def test_only_the_places_of_what_was_measured_change(tmp_path: Path) -> None:
    # given a page with two places, if figures of one bench are written, expect the other, and all around, as before
    (tmp_path / "benchmarks.md").write_text(PAGE)
    assert write(FIGURES, tmp_path) == ["bench-worker-cpu.svg", "benchmarks.md"]
    before, rest = (tmp_path / "benchmarks.md").read_text().split("| case |")
    shown = "![From the model's server to the log, CPU of a delta, us](images/bench-worker-cpu.svg)\n\n"
    assert before == f"# Benchmarks\n<!-- figures of worker -->\n{shown}"
    assert rest.endswith(PAGE[PAGE.index("<!-- end of figures -->") :])
    assert (tmp_path / "images" / "bench-worker-cpu.svg").read_text().startswith("<svg")


def test_every_benchmark_has_a_place_on_the_page_and_a_chart() -> None:
    # given the page as it is, if each place is filled, expect none to be missing; and something to draw of each
    page = (DOCS / "benchmarks.md").read_text()
    without_place = [name for name in BENCHES if filled(page, {name: "new\n"}) == page]
    assert not without_place, "add `<!-- figures of NAME -->` and `<!-- end of figures -->` to docs/benchmarks.md"
    assert set(BENCHES) - {chart.bench for chart in CHARTS} == set(), "add a chart to bench/charts.py"


def test_what_is_no_figure_is_refused() -> None:
    # given a line that is none, if it is read, expect it not to be taken for one
    assert read([msgspec.json.encode(FIGURES[0]), b""]) == FIGURES[:1]
    with pytest.raises(msgspec.MsgspecError):
        read([b'{"bench": "worker"}'])
