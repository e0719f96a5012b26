"""Shared by all commands: help with an example, and errors on one line. Knows no command and imports nothing slow."""

import argparse
import sys
from textwrap import indent
from typing import NoReturn


class CommandParser(argparse.ArgumentParser):
    """The argument parser of a command. It reports an error on one line.

    Args:
        name: the name of the command, without `tailrace`.
        description: what it does.
        example: complete command lines, with the variables they need.
        more: further text below the example.
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
        """Exits with code 2 after one line on stderr."""
        print_error(f"{self.prog}: {message} (see {self.prog} --help)")
        raise SystemExit(2)


def print_error(line: str) -> None:
    """Prints a message as one line on stderr; line breaks in it become spaces."""
    print(" ".join(line.split()), file=sys.stderr)
