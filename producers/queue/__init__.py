"""The queue as producers use it: enqueueing, dead letters, the overview."""
