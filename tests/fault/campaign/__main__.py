"""`python -m tests.fault.campaign FILE`: judges a recorded history again."""

import sys
from pathlib import Path

from tests.fault.campaign import checker, figures, history


def main(path: str) -> int:
    """Prints figures and violations; the exit code says whether there are any."""
    happened = history.load(Path(path).read_bytes())
    found = checker.check(happened)
    print("\n".join([*figures.lines(happened), *map(str, found)]))
    return 1 if found else 0


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit("usage: python -m tests.fault.campaign FILE")
    sys.exit(main(sys.argv[1]))
