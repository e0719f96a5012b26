"""`python -m tailrace`: the command `tailrace`, for an interpreter whose scripts are not on the path."""

import sys

from tailrace.producers.cli.root import main

if __name__ == "__main__":
    sys.exit(main())
