"""The sans-IO core: chunks in, deltas and the outcome out. No await, no clock, no randomness."""
