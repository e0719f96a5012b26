"""From deltas to the log: the entries of all running attempts, written in group commits."""
