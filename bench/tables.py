"""Results as Markdown tables, and the places in a page where they go. Pure.

A place is the text between the lines `<!-- figures of NAME -->` and `<!-- end of figures -->`.
"""

import re
from collections.abc import Sequence

from bench.figures import Figure

SHOWN_ROWS = 25

_PLACE = re.compile(r"(?<=<!-- figures of )(\w+)( -->\n).*?(?=<!-- end of figures -->)", re.DOTALL)
_ESCAPED = str.maketrans({"|": "\\|"})


def table(figures: Sequence[Figure]) -> str:
    """A row for each result, with its peers in one cell."""
    rows: dict[tuple[str, str], list[Figure]] = {}
    for figure in figures:
        rows.setdefault((figure.case, figure.what), []).append(figure)
    lines = ["| case | measured | value | compared with (ratio) | expected |", "|---|---|---|---|---|"]
    before = None
    for (case, what), same in rows.items():
        first = same[0]
        value = f"{'> ' if first.bounded else ''}{number(first.value)} {first.unit}"
        beside = "; ".join(map(_beside, same))
        measured = f"{what} ({first.note})" if first.note else what
        cells = ["" if case == before else case, measured, value, beside, _expected(first)]
        lines.append("| " + " | ".join(cell.translate(_ESCAPED) for cell in cells) + " |")
        before = case
    return "\n".join(lines) + "\n"


def folded(text: str) -> str:
    """A long table, collapsed behind a summary; a short one unchanged."""
    rows = text.count("\n") - 2
    if rows <= SHOWN_ROWS:
        return text
    return f"<details><summary>{rows} results</summary>\n\n{text}\n</details>\n"


def number(value: float) -> str:
    """A value with three significant digits and separators for thousands."""
    short = float(f"{value:.3g}")
    return f"{short:,.0f}" if abs(short) >= 100 else f"{short:g}"


def filled(page: str, text_by_bench: dict[str, str]) -> str:
    """The page with the text of each benchmark in its place; the places of other benchmarks are unchanged."""

    def fill(place: re.Match[str]) -> str:
        text = text_by_bench.get(place[1])
        return place[0] if text is None else f"{place[1]}{place[2]}{text}"

    return _PLACE.sub(fill, page)


def _beside(figure: Figure) -> str:
    if figure.beside is None:
        return ""
    ratio = "" if figure.ratio is None else f" ({number(figure.ratio)})"
    return f"{figure.beside.what}: {number(figure.beside.value)}{ratio}"


def _expected(figure: Figure) -> str:
    if figure.expected is None:
        return ""
    word, limit = figure.expected.split(" ")
    sign = {"<=": "≤", ">=": "≥"}[word]
    return f"{sign} {number(float(limit))}{'' if figure.met else ': missed'}"
