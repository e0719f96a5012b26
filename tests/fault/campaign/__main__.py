"""`python -m tests.fault.campaign FILE` checks a recorded history again."""

import sys
from pathlib import Path

from tests.fault.campaign import checker, history, summary


def main(path: str) -> int:
    """Prints summary and violations; the exit code is 1 if there are any."""
    happened = history.load(Path(path).read_bytes())
    found = checker.check(happened)
    print("\n".join([*summary.lines(happened), *map(str, found)]))
    return 1 if found else 0


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit("usage: python -m tests.fault.campaign FILE")
    sys.exit(main(sys.argv[1]))
