"""`python -m demo.simulator`: the command without the rest of tailrace."""

import sys

from tailrace.demo.simulator.cli import simulator

sys.exit(simulator(sys.argv[1:]))
