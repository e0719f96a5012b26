"""The Responses API: turns events into deltas and the outcome."""
