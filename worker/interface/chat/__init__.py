"""Chat Completions: chunks in, deltas out."""
