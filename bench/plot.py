"""`python -m bench.plot FIGURES...`: turns the output of benchmarks into tables in docs/benchmarks.md and pictures.

Owns files and drawing. `charts.py` decides what is drawn, and `tables.py` makes the tables.
"""

import argparse
import re
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import msgspec
import pygal  # pyright: ignore[reportMissingTypeStubs] -- it has no types
from pygal.style import Style  # pyright: ignore[reportMissingTypeStubs]

from bench.charts import CHARTS, Chart, Drawn, drawn
from bench.figures import Figure
from bench.tables import filled, folded, number, table

# pygal installs an import finder for plugins, for which Python warns at each later import. There are no plugins here.
sys.meta_path[:] = [finder for finder in sys.meta_path if not isinstance(finder, pygal.PluginImportFixer)]

DOCS = Path(__file__).parent.parent / "docs"
_EXAMPLE = """example:
  python -m bench all > figures.jsonl && python -m bench.plot figures.jsonl
"""
_STYLE = {
    "background": "white",
    "plot_background": "white",
    "font_family": "sans-serif",
    "guide_stroke_color": "#d0d7de",
    "major_guide_stroke_color": "#d0d7de",
    "colors": ("#1f6feb", "#d97706", "#6b7280", "#10b981", "#a855f7"),
}
_NOT_SHOWN = re.compile(r"<!--.*?-->|<script.*?</script>", re.DOTALL)
"""Comments with the date and the version, which would change each picture, and settings for a script."""


def picture(chart: Chart, shown: Drawn) -> str:
    """A self-contained SVG, without scripts or fonts."""
    bars: Any = pygal.Bar(
        style=Style(**_STYLE),
        js=(),
        no_prefix=True,
        disable_xml_declaration=True,
        logarithmic=chart.logarithmic,
        print_values=True,
        print_values_position="top",
        value_formatter=number,
        width=800,
        height=420,
        legend_at_bottom=True,
        legend_at_bottom_columns=2,
        truncate_legend=-1,
        truncate_label=-1,
        show_y_guides=True,
    )
    known = [value for values in shown.series.values() for value in values if value is not None]
    if chart.logarithmic:
        bars.zero = min(known) / 2  # so that the smallest value has a bar, too
        bars.range = (bars.zero, max(known) * 1.5)
    bars.title = chart.title
    bars.x_labels = shown.labels
    for name, values in shown.series.items():
        bars.add(name, values)
    return _NOT_SHOWN.sub("", bars.render(is_unicode=True)) + "\n"


def write(figures: Sequence[Figure], docs: Path) -> list[str]:
    """Writes the pictures and tables of the results and returns the file names. Other benchmarks keep theirs."""
    images = docs / "images"
    images.mkdir(exist_ok=True)
    texts = dict.fromkeys(_benches(figures), "")
    written: list[str] = []
    for chart in CHARTS:
        if (shown := drawn(chart, figures)) is not None:
            name = f"bench-{chart.name}.svg"
            (images / name).write_text(picture(chart, shown))
            texts[chart.bench] += f"![{chart.title}](images/{name})\n\n"
            written.append(name)
    for bench in texts:
        texts[bench] += folded(table([one for one in figures if one.bench == bench]))
    page = docs / "benchmarks.md"
    page.write_text(filled(page.read_text(), texts))
    return [*written, page.name]


def read(lines: Sequence[bytes]) -> list[Figure]:
    """Parses the output of benchmarks.

    Raises:
        msgspec.MsgspecError: a line is not a result.
    """
    return [msgspec.json.decode(line, type=Figure) for line in lines if line.strip()]


def _benches(figures: Sequence[Figure]) -> list[str]:
    return list(dict.fromkeys(figure.bench for figure in figures))


def main(argv: Sequence[str]) -> int:
    """Reads the named files and writes the page; returns the exit code."""
    parser = argparse.ArgumentParser(
        prog="python -m bench.plot",
        description="Writes results into docs/benchmarks.md and draws them. Other benchmarks keep theirs.",
        epilog=_EXAMPLE,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("files", nargs="+", type=Path, metavar="FIGURES", help="the output of `python -m bench`")
    options = parser.parse_args(argv)
    try:
        figures = [figure for path in options.files for figure in read(path.read_bytes().splitlines())]
    except (OSError, msgspec.MsgspecError) as error:
        print(f"bench.plot: {error}", file=sys.stderr)
        return 1
    print("\n".join(write(figures, DOCS)))
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
