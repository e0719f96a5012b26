"""The Responses API: events in, deltas out."""
