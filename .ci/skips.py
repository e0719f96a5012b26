"""Fails when a test was skipped, or expected to fail, for any reason but a missing Docker engine.

A skipped test shows nothing, so it must not pass for one that did. Argument: the JUnit file that pytest wrote.
"""

import sys
from pathlib import Path
from xml.etree import ElementTree

ALLOWED = "docker: "  # how the reason of a test begins that needs a running Docker engine


def forbidden_skips(report: Path) -> list[str]:
    """Name and reason of each skipped test whose reason is not allowed. Raises `ParseError` when the file is no XML."""
    cases = ElementTree.parse(report).iter("testcase")  # noqa: S314 - written by our own pytest a moment ago
    return [
        f"{case.get('classname')}::{case.get('name')}: {skipped.get('message', '')}"
        for case in cases
        for skipped in case.iter("skipped")
        if not skipped.get("message", "").startswith(ALLOWED)
    ]


if __name__ == "__main__":
    found = forbidden_skips(Path(sys.argv[1]))
    for line in found:
        print(f"skipped: {line}", file=sys.stderr)
    sys.exit(1 if found else 0)
