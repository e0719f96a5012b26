"""Chat Completions: turns chunks into deltas and the outcome."""
