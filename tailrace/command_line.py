"""How every command speaks: help with an example, errors in one line. Knows no command, and imports nothing slow."""

import argparse
import sys
from textwrap import indent
from typing import NoReturn


class CommandParser(argparse.ArgumentParser):
    """The argument parser of a command: its errors are one line.

    Args:
        name: the command, as it stands after `tailrace`.
        description: what it does.
        example: command lines that work as they stand; each begins with the program or what goes before it.
        more: what else is worth saying, under the example.
    """

    def __init__(self, name: str, *, description: str, example: str, more: str = "") -> None:
        epilog = f"example:\n{indent(example.strip(), '  ')}"
        super().__init__(
            prog=f"tailrace {name}",
            description=description,
            epilog=f"{epilog}\n\n{more.strip()}" if more else epilog,
            formatter_class=argparse.RawDescriptionHelpFormatter,
            allow_abbrev=False,
        )

    def error(self, message: str) -> NoReturn:
        """Ends with exit code 2 and one line on stderr."""
        say(f"{self.prog}: {message} (see {self.prog} --help)")
        raise SystemExit(2)


def say(line: str) -> None:
    """One line on stderr, whatever stands in the message."""
    print(" ".join(line.split()), file=sys.stderr)
